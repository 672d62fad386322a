"""`vtx train`: a run, its messages, and mistakes in a line."""

from __future__ import annotations

from pathlib import Path

import keras
import pytest
from toys import vtx, vtx_process

from vtx_keras import data
from vtx_keras.cli._train import _parted, _warn_of_few, _with_defaults


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="one backend is enough for the command line")
@pytest.mark.parametrize(
    ("model", "weights", "epochs", "told"),
    [
        ("cross_attn_video_vqa", "encoders", 10, "70 updates"),  # not released
        ("cross_attn_captioner", "none", 42, "294 updates"),
        ("cross_attn_captioner", "none", 43, None),
        ("cross_attn_captioner", "default", 10, None),
    ],
)
def test_few_updates_without_pretrained_weights_are_warned_of(model, weights, epochs, told, capsys):
    history = keras.callbacks.History()
    history.epoch = list(range(epochs))
    history.set_params({"epochs": epochs, "steps": 7})
    _warn_of_few(model, history, {"weights": weights, "accumulate": 1})
    said = capsys.readouterr().err
    assert said.startswith(f"vtx: {told}") if told else said == ""
    assert ("--weights default" in said) == (told is not None and model == "cross_attn_captioner")


def test_vtx_train_trains_and_reports_mistakes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = ["--set", "dim=32", "--set", "depth=1", "--set", "vision_depth=1", "--set", "image_shape=[32, 32, 3]"]
    how = ["--epochs", "2", "--learning-rate", "0.003"]
    run = vtx_process("train", "cross_attn_captioner", "--data", "sample", *small, *how)
    assert run.returncode == 0, run.stderr[-3000:]
    rows = (tmp_path / "runs/cross_attn_captioner/results.csv").read_text().splitlines()
    losses = [float(row.split(",")[rows[0].split(",").index("loss")]) for row in rows[1:]]
    assert losses[1] < losses[0]
    assert (tmp_path / "runs/cross_attn_captioner/samples.html").is_file()
    assert "held-out examples" in run.stderr  # it speaks no English yet, and says so
    assert "next: vtx eval" not in run.stdout
    assert "14 updates are few" in run.stderr
    assert "--weights default" in run.stderr
    run = vtx("train", "cross_attn_captionr", "--data", "sample")
    assert run.exit_code == 2
    assert "did you mean cross_attn_captioner" in run.stderr
    assert "Traceback" not in run.stderr
    run = vtx("train", "cross_attn_captioner", "--data", "sample", *small, "--freeze", "image")
    assert run.exit_code == 2
    assert "would never learn" in run.stderr
    run = vtx("train", "gated_vqa", "--data", "sample/questions", *small, "--dry-run")
    assert run.exit_code == 0, run.stderr[-3000:]
    assert "can be saved" in run.stdout


def own_pictures(folder, rows):
    from PIL import Image

    for number in range(rows):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / f"{number}.png")
    lines = [f"{number}.png,a photograph number {number % 2}" for number in range(rows)]
    (folder / "mine.csv").write_text("\n".join(["image,caption", *lines]) + "\n", encoding="utf-8")
    return str(folder / "mine.csv")


def test_own_pictures_start_from_the_captioner_of_photographs(tmp_path, capsys):
    table = own_pictures(tmp_path, 3)
    unset = dict.fromkeys(("weights", "size", "vocabulary", "dtype", "epochs", "batch_size", "learning_rate"))
    unset |= dict.fromkeys(("split", "folder", "columns"), None) | {"settings": (), "freeze": ()}
    ds = data.from_csv(table)
    found = _with_defaults("cross_attn_captioner", table, ds, dict(unset))
    assert (found["weights"], found["freeze"], found["vocabulary"]) == ("photos", ("image",), "more")
    assert found["suited"]
    assert "starts from cross_attn_captioner/photos for 3 captions" in capsys.readouterr().err
    for name, changes in (("sample", {}), (table, {"size": "tiny"}), (table, {"settings": ("dim=32",)})):
        found = _with_defaults("cross_attn_captioner", name, ds, {**unset, **changes})
        assert (found["weights"], found["suited"]) == ("none", False)
    for other in ("gated_vqa", "retriever"):  # not even where photographs are released
        assert _with_defaults(other, table, ds, dict(unset))["weights"] == "none"
    assert _with_defaults("cross_attn_captioner", table, ds, {**unset, "epochs": 3})["epochs"] == 3


def test_own_pictures_are_learned_as_far_as_they_are_from_photographs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = vtx("train", "cross_attn_captioner", "--data", own_pictures(tmp_path, 3), "--epochs", "2", "--dry-run")
    assert run.exit_code == 0, run.stderr[-3000:]
    assert "far from what it writes" in run.stderr
    assert "2 epochs that show each picture" in run.stderr
    assert "can be saved" in run.stdout


def test_a_tenth_of_the_pictures_is_held_out(tmp_path):
    ds = data.from_csv(own_pictures(tmp_path, 120))
    train, held_out = _parted(ds)
    names = [{row["path"] for row in part.encoded.as_numpy_iterator()} for part in (train, held_out)]
    assert not names[0] & names[1]
    assert len(names[0] | names[1]) == 120
    assert 8 <= len(names[1]) <= 24
    assert _parted(data.from_csv(own_pictures(tmp_path, 6)))[1] is None


def test_pictures_outside_a_tables_folder_are_named_with_the_option_that_reads_them(tmp_path):
    table = own_pictures(tmp_path, 2)
    (tmp_path / "tables").mkdir()
    moved = tmp_path / "tables" / "mine.csv"
    lines = Path(table).read_text(encoding="utf-8")
    moved.write_text(lines.replace("\n0", "\n../0").replace("\n1", "\n../1"), encoding="utf-8")
    small = ["--set", "dim=32", "--set", "depth=1", "--set", "vision_depth=1", "--set", "image_shape=32x32"]
    command = ("train", "gated_captioner", "--data", str(moved), "--weights", "none", *small, "--dry-run")
    run = vtx(*command)
    assert (run.exit_code, "--allow-outside" in run.stderr) == (2, True)
    run = vtx(*command, "--allow-outside")
    assert run.exit_code == 0, run.stderr[-3000:]
