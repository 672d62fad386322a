"""What the repository promises of itself: rooms that import in one direction, light imports, documents that run."""

from __future__ import annotations

import ast
import doctest
import functools
import importlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import toys

import vtx_keras
from vtx_keras.checkpoints._folder import released_root

PACKAGE = Path(vtx_keras.__file__).parent
ROOT = PACKAGE.parent
MAY_IMPORT = {
    "text": set(),
    "progress": set(),
    "tables": set(),
    "media": set(),
    "pages": {"media", "whole"},
    "metrics": set(),
    "metrics.measures": set(),
    "metrics.answers": set(),
    "metrics.captions": {"metrics.measures", "text"},
    "metrics.ranking": {"metrics.measures"},
    "metrics.labels": {"metrics.measures"},
    "metrics.training": {"layers", "text"},
    "metrics.examples": {"metrics.captions", "models", "text", "vision_text"},
    "metrics.outcomes": {
        "media",
        "metrics.answers",
        "metrics.captions",
        "metrics.examples",
        "metrics.labels",
        "metrics.measures",
        "metrics.ranking",
        "models",
        "text",
        "vision_text",
    },
    "metrics.callback": {"metrics.examples", "metrics.outcomes"},
    "evaluate": set(),
    "evaluate.baselines": {
        "media",
        "metrics.examples",
        "metrics.outcomes",
        "metrics.ranking",
        "models",
        "published",
        "text",
        "vision_text",
        "weights",
    },
    "evaluate.report": {"media", "metrics.examples", "metrics.measures", "metrics.outcomes", "pages", "whole"},
    "evaluate.running": {
        "evaluate.baselines",
        "evaluate.report",
        "metrics.captions",
        "metrics.examples",
        "metrics.measures",
        "metrics.outcomes",
        "models",
        "progress",
        "vision_text",
        "weights",
    },
    "evaluate.cli": {"polite"},
    "options": set(),
    "polite": set(),
    "whole": set(),
    "weights": set(),
    "archives": {"weights"},
    "tensors": {"weights"},
    "architectures": {"archives", "layers"},
    "published": {"architectures", "archives", "tensors", "weights"},
    "layers": set(),
    "table": {"options", "weights"},
    "fusion": {"layers", "options"},
    "encoders": {"architectures", "layers", "published", "text"},
    "decode": {"text"},
    "vision_text": {"layers", "media", "text"},
    "models": {"decode", "layers", "media", "text", "vision_text"},
    "tuning": {"layers", "train.adam", "vision_text"},
    "meanings": {"published", "text", "vision_text"},
    "tasks": {"encoders", "fusion", "layers", "models", "text", "tuning", "vision_text"},
    "zoo": {
        "architectures",
        "encoders",
        "options",
        "published",
        "table",
        "tasks",
        "text",
        "train.state",
        "vision_text",
        "weights",
    },
    "data": set(),  # imports its rooms when they are asked for
    "data.sets": {"archives", "options"},
    "data.emoji": set(),
    "data.builders": {"archives", "data.emoji", "data.sets", "media"},
    "data.memory": {"media", "models", "options", "text", "vision_text"},
    "data.words": {"text"},
    "data.pixels": {"media"},
    "data.tracing": set(),
    "data.reading": {"data.builders", "data.pixels", "data.sets", "data.tracing", "options"},
    "data.plan": {"data.tracing", "data.words", "models", "options", "text", "vision_text"},
    "data.pipeline": {
        "data.memory",
        "data.pixels",
        "data.plan",
        "data.tracing",
        "data.words",
        "models",
        "options",
        "text",
        "vision_text",
    },
    "data.caching": {"data.pixels", "data.tracing", "progress", "vision_text", "whole"},
    "data.files": {"data.plan", "data.reading", "data.sets", "media", "options", "progress", "text", "whole"},
    "data.sheets": {"media", "text", "vision_text", "whole"},
    "export": set(),  # imports its rooms when they are asked for
    "export.report": set(),
    "export.verify": {"export.report", "metrics.captions", "models", "text", "vision_text"},
    "export.graphs": {"decode", "layers", "models", "text", "vision_text"},
    "export.companions": {"models", "text", "vision_text"},
    "export.resizing": set(),
    "export.pictures": {"export.resizing", "media"},
    "export.strings": {"text"},
    "export.slim": set(),
    "export.savedmodel": {
        "export.companions",
        "export.graphs",
        "export.pictures",
        "export.slim",
        "export.strings",
        "export.verify",
        "media",
        "models",
        "vision_text",
    },
    "export.surgery": {"export.graphs"},
    "export.onnx_files": {"export.graphs"},
    "export.tflite": {"export.companions", "export.graphs", "export.surgery", "export.verify", "models", "vision_text"},
    "export.onnx_graph": {"export.companions", "export.graphs", "export.verify", "models", "vision_text"},
    "export.cli": {"polite"},
    "export.bench": {"polite"},
    "data.cli": {"polite"},  # imports what a command needs when it runs
    "explain": set(),  # imports its rooms when they are asked for
    "explain.pictures": {"media", "options", "whole"},
    "explain.methods": {"layers", "models", "options", "text", "vision_text"},
    "explain.maps": {"explain.methods", "explain.pictures", "media", "models", "options", "text", "vision_text"},
    "explain.cli": {"polite"},
    "train": set(),  # imports its rooms when they are asked for
    "train.adam": set(),
    "train.state": {"weights"},
    "train.folder": {"weights", "whole"},
    "train.books": {"train.folder", "whole"},
    "train.keeping": {"options", "train.books", "train.folder", "train.state", "vision_text", "whole", "zoo"},
    "train.samples": {
        "explain",
        "explain.methods",
        "media",
        "metrics.examples",
        "metrics.outcomes",
        "models",
        "pages",
        "vision_text",
    },
    "train.parallel": set(),
    "train.running": {
        "data.memory",
        "options",
        "train.books",
        "train.folder",
        "train.keeping",
        "train.state",
        "tuning",
        "vision_text",
    },
    "train.cli": {"polite"},
    "doctor": {"polite"},
    "predict": set(),
    "predict.sources": {"media"},
    "predict.cli": {"polite"},
    "cli": {
        "doctor",
        "data.cli",
        "evaluate.cli",
        "explain.cli",
        "export.bench",
        "export.cli",
        "predict.cli",
        "train.cli",
    },
}
ON_JAX = os.environ.get("KERAS_BACKEND") == "jax"
NAMES_TENSORFLOW = {"data", "export", "train", "explain"}


@functools.cache
def rooms() -> dict[str, ast.Module]:
    """Every module by its name inside the package: "layers", "data", "data.pipeline"."""
    found = {}
    for path in [*PACKAGE.glob("*.py"), *PACKAGE.glob("[!_r]*/*.py")]:
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(part for part in parts if part != "__init__")] = ast.parse(path.read_text())
    return {name: tree for name, tree in found.items() if name}


def imported(tree: ast.AST) -> set[str]:
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


@pytest.mark.parametrize("room", rooms())
def test_a_room_imports_only_rooms_below_it(room):
    top = ast.Module([node for node in rooms()[room].body if isinstance(node, (ast.Import, ast.ImportFrom))], [])
    assert room in MAY_IMPORT, "a new room: say here what it may import"
    inside = {name.removeprefix("vtx_keras.") for name in imported(top) if name.startswith("vtx_keras.")}
    found = {name for name in MAY_IMPORT if name in inside or any(one.startswith(f"{name}.") for one in inside)}
    found -= {name.split(".")[0] for name in found if "." in name}  # a package only leads to its rooms
    assert found <= MAY_IMPORT[room], f"{room} imports {found - MAY_IMPORT[room]}"


@pytest.mark.parametrize("room", sorted(room for room in rooms() if room.split(".")[0] not in NAMES_TENSORFLOW))
def test_models_layers_and_decoding_name_no_tensorflow(room):
    assert not [
        name for name in imported(rooms()[room]) if name.split(".")[0] in ("tensorflow", "tensorflow_text", "jax")
    ]


@pytest.mark.parametrize("command", ["import vtx_keras", "import vtx_keras.cli as cli; cli.main(['--help'])"])
def test_importing_and_help_load_neither_tensorflow_nor_keras(command):
    script = f"import sys\ntry:\n    {command}\nexcept SystemExit:\n    pass\nprint(sorted(sys.modules))"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = set(ast.literal_eval(run.stdout.splitlines()[-1]))
    assert not loaded & {"tensorflow", "keras", "jax", "numpy", "keras_hub"}


def test_listing_loads_neither_tensorflow_nor_keras():
    script = "import sys\nfrom vtx_keras.cli import main\ntry:\n    main(['list'])\nexcept SystemExit:\n    pass\n"
    run = subprocess.run(
        [sys.executable, "-c", script + "assert not {'tensorflow', 'keras'} & set(sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "cross_attn_captioner" in run.stdout


@pytest.fixture
def few_tried(monkeypatch):
    """A file that a page exports is tried on 24 examples of the sample; on all of them where exports are tested."""
    if not ON_JAX:
        from vtx_keras.export import _verify as verify

        rows_of = verify.rows_of
        monkeypatch.setattr(verify, "rows_of", lambda model, given, limit: rows_of(model, given, min(limit, 24)))


@pytest.mark.parametrize("room", rooms())
def test_the_examples_in_docstrings_run(room, few_tried):
    if ON_JAX and room.startswith("export."):
        pytest.skip("exports are made by TensorFlow")
    module = importlib.import_module(f"vtx_keras.{room}")
    result = doctest.testmod(module, extraglobs={"np": importlib.import_module("numpy")}, optionflags=doctest.ELLIPSIS)
    assert result.failed == 0


@pytest.mark.skipif(ON_JAX, reason="recipes read tf.data")
@pytest.mark.parametrize("module", ["cards", "changes", "eyes", "families", "far", "making", "page"])
def test_the_examples_in_recipes_run(module, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    found = doctest.testmod(importlib.import_module(f"zoo.{module}"), optionflags=doctest.ELLIPSIS)
    assert found.failed == 0


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
    tables.show(["model", "task", "weights", "size", "on held-out data", "licence"], [row])
    shown = screen.getvalue()
    assert ("model" in shown) is table
    for name in (row[0], row[1], row[2], row[5]):
        assert name in shown
    assert "[0.4," in shown


def test_progress_is_told_in_one_line_that_ends(monkeypatch):
    from vtx_keras import _files as progress

    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    with progress.telling("pictures", 2) as tell:
        tell(1)
    assert not screen.getvalue(), "nobody has waited yet"
    monkeypatch.setattr(progress, "PATIENCE", -1)
    monkeypatch.setattr(progress, "PAUSE", -1)
    with progress.telling("pictures", 5000) as tell:
        tell(1)
        tell(4000)
    assert screen.getvalue() == "\rpictures: 1 of 5,000\rpictures: 4,000 of 5,000\n"


def public_functions():
    for room, tree in rooms().items():
        for node in tree.body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_") and not room.endswith("cli"):
                yield pytest.param(node, id=f"{room}.{node.name}")


@pytest.mark.parametrize("function", public_functions())
def test_public_functions_have_docstrings_and_type_hints(function):
    assert ast.get_docstring(function), "no docstring"
    arguments = [*function.args.args, *function.args.kwonlyargs]
    assert all(argument.annotation for argument in arguments), "an argument without a type"
    assert function.returns, "no type for what it returns"


PAGES = [
    path for path in (ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))) if "```python" in path.read_text("utf-8")
]


@pytest.mark.parametrize("page", [str(path.relative_to(ROOT)) for path in PAGES])
def test_the_python_blocks_of_the_documents_run(page, tmp_path, monkeypatch, request):
    if ON_JAX and page != "docs/accelerators.md":
        pytest.skip("once is enough, and exports are made by TensorFlow")
    from vtx_keras.models import fusion
    from vtx_keras.models import options as table

    if page != "README.md":  # where a released model is tried on the whole sample
        request.getfixturevalue("few_tried")
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.S)
    assert blocks
    monkeypatch.chdir(tmp_path)
    (tmp_path / "zoo").symlink_to(ROOT / "zoo")
    for name, known in (("film", fusion.FUSIONS), ("film_captioner", table.MODELS)):  # what a page adds
        monkeypatch.setitem(known, name, None)
    scope: dict = {}
    for block in blocks:
        exec(block, scope)


@pytest.mark.parametrize("page", ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "docs"])
def test_links_of_the_documents_lead_somewhere(page):
    path = ROOT / page
    for file in sorted(path.glob("*.md")) if path.is_dir() else [path]:
        for target in re.findall(r"\]\(([^)#:]+)\)", file.read_text(encoding="utf-8")):
            assert (file.parent / target).exists(), f"{file.name}: {target}"


def page(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_the_readme_tells_the_stored_figures():
    from tools import readme

    assert readme.filled(page("README.md")) == page("README.md"), "python tools/readme.py writes them"


@pytest.mark.parametrize("name", ["decode", "train_step"])
def test_the_page_on_speed_tells_the_stored_figures(name):
    for row in json.loads((ROOT / f"benchmarks/results/{name}.json").read_text())["rows"]:
        ours, peer = row["vtx_keras"]["median_ms"], row["peer"]["median_ms"]
        assert f"| {ours:.0f} ms | {peer:.0f} ms | {peer / ours:.1f} × |" in page("docs/speed.md")


def test_the_page_on_speed_tells_the_stored_first_steps():
    for row in json.loads((ROOT / "benchmarks/results/first_step.json").read_text())["rows"]:
        layers, ours, keras_own = (row[side]["first_ms"] / 1000 for side in ("keras_layers", "vtx_keras", "keras"))
        told = f"| {layers:.1f} s | {ours:.1f} s | {keras_own:.1f} s | {row['first_ratio']:.1f} × |"
        assert f"{told} {row['step_ratio']:.2f} × |" in page("docs/speed.md")


def test_the_page_on_speed_tells_how_fast_input_is():
    for row in json.loads((ROOT / "benchmarks/results/input.json").read_text())["rows"]:
        assert f"| {row['ratio']:.1f} × |" in page("docs/speed.md"), row


def test_the_page_on_encoders_tells_their_figures():
    told = page("docs/encoders.md")
    for path in sorted((ROOT / "zoo" / "encoders").glob("*/results.json")):
        row = json.loads(path.read_text())
        assert f"| `{path.parent.name}` | {row['parameters'] / 1e6:.1f} M | {row['megabytes_float16']:.1f} MB |" in told
        assert f"| {row['ms']:.1f} |" in told


def test_the_page_on_data_tells_the_stored_baselines():
    told = page("docs/data.md")
    for row in json.loads((ROOT / "benchmarks/results/baselines.json").read_text())["rows"]:
        figures = [row[key] for key in ("exact_concept", "recall@1", "exact") if key in row]
        if not any(
            part in row["what"]
            for part in ("test: copy", "without", "rad/official test, all", "rad/disjoint test, all")
        ):
            assert any("{:.3f} [{:.3f}, {:.3f}]".format(*figure) in told for figure in figures), row


def vtx(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "vtx_keras.cli", *arguments], capture_output=True, text=True)


def test_vtx_predict_captions_goes_on_past_a_bad_picture_and_says_so():
    examples = json.loads((released_root() / "cross_attn_captioner/emoji/results.json").read_text())["examples"]
    picture = str(released_root() / "cross_attn_captioner/emoji" / examples[0]["picture"])
    run = vtx("predict", "cross_attn_captioner", picture)
    assert (run.returncode, run.stdout.strip(), run.stderr) == (0, examples[0]["said"], "")
    run = toys.vtx("predict", "cross_attn_captioner", "missing.png", picture, "--json")
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
    from vtx_keras.cli import _data as doctor

    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    monkeypatch.setattr(doctor, "_version", lambda name: "0.1" if name == "keras" else None)
    found = {one.part: one for one in doctor.findings()}
    assert found["npm"].state == "missing"
    assert "emoji" in found["npm"].advice
    assert found["keras"].state == found["tensorflow"].state == "wrong"
    assert "pip install 'keras" in found["keras"].advice


def test_vtx_doctor_reads_what_is_released(monkeypatch, tmp_path):
    from vtx_keras.checkpoints import _folder as weights
    from vtx_keras.cli import _data as doctor

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
