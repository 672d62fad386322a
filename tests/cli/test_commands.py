"""The command line: tables, progress, mistakes, names of options, `vtx doctor`, what is released."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys

import pytest
import toys

from vtx_keras.checkpoints._folder import released_root


class Terminal(io.StringIO):
    """Something that a person looks at."""

    def isatty(self):
        return True


@pytest.mark.parametrize(("columns", "table"), [(80, False), (150, True)])
def test_a_table_in_a_terminal_never_cuts_a_name(columns, table, monkeypatch):
    from vtx_keras.cli import _console as tables

    monkeypatch.setenv("COLUMNS", str(columns))
    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    row = [
        "cross_attn_video_captioner",
        "captioner",
        "vqa_rad_official",
        "4.5 M, 4.7 MB",
        "exact 0.5 [0.4, 0.6]",
        "CC0-1.0",
    ]
    tables.show_rows(["model", "task", "weights", "size", "on held-out data", "licence"], [row])
    shown = screen.getvalue()
    assert ("model" in shown) is table
    for name in (row[0], row[1], row[2], row[5]):
        assert name in shown
    assert "[0.4," in shown


def test_progress_is_a_bar_in_a_terminal_and_nothing_elsewhere(monkeypatch, capsys):
    from vtx_keras import _files

    with _files.progress("pictures", 5000) as update:
        update(4000)
    assert capsys.readouterr().err == ""
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    with _files.progress("pictures", 5000) as update, _files.progress("inner") as inside:
        inside(1)
        update(4000)
    assert "pictures" in screen.getvalue()
    assert "4000/5000" in screen.getvalue()


def vtx(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", "from vtx_keras.cli import main; main()", *arguments], capture_output=True, text=True
    )


def test_vtx_predict_captions_goes_on_past_a_bad_picture_and_says_so():
    examples = json.loads((released_root() / "cross_attn_captioner/emoji/results.json").read_text())["examples"]
    picture = str(released_root() / "cross_attn_captioner/emoji" / examples[0]["picture"])
    run = vtx("predict", "cross_attn_captioner", "--weights", "emoji", picture)
    assert (run.returncode, run.stdout.strip(), run.stderr) == (0, examples[0]["said"], "")
    run = toys.vtx("predict", "cross_attn_captioner", "--weights", "emoji", "missing.png", picture, "--json")
    rows = [json.loads(line) for line in run.stdout.splitlines()]
    assert run.exit_code == 1
    assert "missing.png" in rows[0]["error"]
    assert rows[1] == {"picture": picture, "result": examples[0]["said"]}


def test_vtx_is_polite_about_mistakes():
    run = vtx("predcit")
    assert run.returncode == 2
    assert "Did you mean 'predict'" in run.stderr
    run = vtx("show", "gated_vqq")
    assert run.returncode == 2
    assert "did you mean gated_vqa" in run.stderr
    assert "Traceback" not in run.stderr
    run = vtx("show", "gated_vqa")
    assert run.returncode == 0
    assert "classes" in run.stdout


def test_commands_call_the_same_thing_by_the_same_name():
    import click

    from vtx_keras.cli import main

    context = click.Context(main)
    commands = {name: main.get_command(context, name) for name in main.list_commands(context)}
    meanings: dict[str, set[str]] = {}
    for name, command in commands.items():
        assert command.help, f"vtx {name} says nothing of itself"
        for option in getattr(command, "commands", {name: command}).values():
            for one in option.params:
                if isinstance(one, click.Option):
                    assert one.help or one.show_default, f"vtx {name} {one.opts[0]} says nothing of itself"
                    meanings.setdefault(max(one.opts, key=len), set()).add(type(one.type).__name__)
    assert {name: kinds for name, kinds in meanings.items() if len(kinds) > 1} == {}
    assert not {"--output", "--output-dir", "--formats", "--format", "--dataset", "--quantize"} & set(meanings)
    told = {name for name, command in commands.items() if any("--json" in one.opts for one in command.params)}
    assert told >= {"list", "show", "predict", "eval", "export", "bench", "doctor"}


def test_vtx_doctor_finds_nothing_wrong_here_and_says_what_is_missing_elsewhere(monkeypatch):
    run = vtx("doctor", "--json")
    found = {row["part"]: row for row in json.loads(run.stdout)}
    assert [row for row in found.values() if row["state"] == "wrong"] == []
    assert run.returncode == 0
    assert found["keras"]["what"].startswith("3.")
    assert found["cross_attn_captioner/emoji"]["what"] == "whole"
    from vtx_keras.cli import _catalogue as doctor

    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    monkeypatch.setattr(doctor, "_version", lambda name: "0.1" if name == "keras" else None)
    found = {one.part: one for one in doctor.findings()}
    assert found["npm"].state == "missing"
    assert "emoji" in found["npm"].advice
    assert found["keras"].state == found["tensorflow"].state == "wrong"
    assert "pip install 'keras" in found["keras"].advice


def test_vtx_doctor_reads_what_is_released(monkeypatch, tmp_path):
    from vtx_keras.checkpoints import _folder as weights
    from vtx_keras.cli import _catalogue as doctor

    folder = tmp_path / "gated_vqa" / "easy_vqa"
    shutil.copytree(released_root() / "gated_vqa" / "easy_vqa", folder)
    monkeypatch.setattr(weights, "released_root", lambda: tmp_path)
    assert [one.what for one in doctor._models()] == ["whole"]
    data = bytearray((folder / weights.WEIGHTS).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / weights.WEIGHTS).write_bytes(data)
    (found,) = doctor._models()
    assert (found.what, found.state) == ("damaged", "wrong")
    assert weights.WEIGHTS in found.advice


def test_what_is_released_but_not_judged_is_listed(monkeypatch, tmp_path):
    from vtx_keras.checkpoints import _folder as weights

    folder = tmp_path / "gated_vqa" / "easy_vqa"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    monkeypatch.setattr(weights, "released_root", lambda: tmp_path)
    run = toys.vtx("list", "gated_vqa")
    assert run.exit_code == 0
    assert "no card yet" in run.stdout


def test_every_released_model_has_a_card_a_recipe_and_results():
    configs = list(released_root().glob("*/*/config.json"))
    assert configs
    for config in configs:
        if config.parent.parent.name == "encoders":
            assert all((config.parent / name).is_file() for name in ("README.md", "results.json"))
            continue
        for name in ("README.md", "recipe.py", "results.json", "model.weights.h5", "vocabulary.txt"):
            assert (config.parent / name).is_file(), f"{config.parent} has no {name}"
