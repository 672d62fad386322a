"""`vtx predict` by exported files: the same results, without TensorFlow; files are made once and found again."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import keras
import pytest
import toys
from PIL import Image
from toys import pictures, toy

from vtx_keras import export, zoo
from vtx_keras.cli import _runtime

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="exports are made by TensorFlow")
NAMES = ("gated_captioner", "gated_vqa", "cross_attn_matcher", "retriever")


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """Saved models, and a folder with three pictures and a file that is none."""
    home = tmp_path_factory.mktemp("home")
    (home / "photos").mkdir()
    for number, pixels in enumerate(pictures(toy("gated_captioner"), 3)):
        Image.fromarray(pixels.astype("uint8")).resize((50, 40)).save(home / "photos" / f"{number}.png")
    (home / "photos" / "1b.png").write_bytes(b"no picture")
    for name in NAMES:
        zoo.save(toy(name), home / name)
    return home


@pytest.fixture(autouse=True)
def kept(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("VTX_KERAS_CACHE", str(tmp_path_factory.getbasetemp() / "files"))


def vtx(*arguments):
    return toys.vtx("predict", *arguments)


def rows(run) -> list:
    assert run.exit_code == 1, run.stderr  # one of the pictures is none
    return [
        round(row["result"], 4) if isinstance(row.get("result"), float) else row.get("result", "error")
        for row in map(json.loads, run.stdout.splitlines())
    ]


@pytest.mark.parametrize(("name", "runtime"), [*((name, "litert") for name in NAMES), ("gated_captioner", "onnx")])
def test_a_file_says_what_keras_says_and_is_made_once(home, name, runtime):
    text = [] if "captioner" in name else ["--text", "is it a cat?"]
    given = [home / name, home / "photos", "--json", *text]
    by_keras = rows(vtx(*given, "--runtime", "keras"))
    made = vtx(*given, "--runtime", runtime)
    assert f"makes a file for {runtime}, once" in made.stderr
    assert rows(made) == by_keras
    assert by_keras.count("error") == 1
    again = vtx(*given)
    assert rows(again) == by_keras
    assert "from a file made before" in again.stderr


def test_a_file_runs_by_its_name_and_loads_no_tensorflow(home, tmp_path):
    export.litert(zoo.load(home / "gated_captioner"), tmp_path / "mine.tflite", beams=2, max_length=4)
    by_keras = vtx(home / "gated_captioner", home / "photos" / "0.png", "--beams", 2, "--max-length", 4)
    program = (
        "import sys\n"
        "from vtx_keras.cli import main\n"
        "try:\n    main(sys.argv[1:])\n"
        "except SystemExit:\n    pass\n"
        "assert not {'tensorflow', 'keras', 'jax'} & set(sys.modules)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", program, "predict", tmp_path / "mine.tflite", home / "photos" / "0.png"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert run.stdout == by_keras.stdout
    assert vtx(tmp_path / "mine.tflite", home / "photos" / "0.png", "--beams", 2).stdout == by_keras.stdout
    for wrong, message in (
        (["--beams", 3], "was exported with 2, which is fixed in it"),
        (["--prompt", "a"], "was exported with None"),
        (["--text", "a"], "--text is for models that read a text"),
        (["--weights", "photos"], "leave out --weights photos"),
        (["--runtime", "onnx"], "is a file for litert"),
    ):
        run = vtx(tmp_path / "mine.tflite", home / "photos" / "0.png", *wrong)
        assert run.exit_code == 2
        assert message in run.stderr


def test_other_weights_and_other_settings_have_other_files(home):
    settings = {"prompt": None, "beams": 1, "max_length": None}
    one = _runtime._place(str(home / "gated_captioner"), "default", settings, "litert")
    assert one == _runtime._place(str(home / "gated_captioner"), "default", dict(settings), "litert")
    assert one != _runtime._place(str(home / "gated_captioner"), "default", {**settings, "beams": 2}, "litert")
    assert one != _runtime._place(str(home / "gated_vqa"), "default", settings, "litert")
    assert _runtime._place("hf://someone/something", "default", settings, "litert") is None


def test_a_kept_file_that_cannot_run_leaves_the_answer_to_keras(home, monkeypatch):
    given = [home / "gated_vqa", home / "photos" / "0.png", "--text", "is it?"]
    settings = {"prompt": None, "beams": 1, "max_length": None}
    kept = _runtime._place(str(given[0]), "default", settings, "litert")
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_bytes(b"cut off")
    by_keras = vtx(*given, "--runtime", "keras")
    run = vtx(*given)
    assert (run.stdout, "made before" in run.stderr) == (by_keras.stdout, False)
    assert "once; it then starts" in vtx(*given, "--runtime", "litert").stderr  # made anew
    assert vtx(*given).stdout == by_keras.stdout
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "made before" not in vtx(*given).stderr
    assert vtx(*given, "--weights", "photos").exit_code == 2


@pytest.mark.parametrize("about", ["{}", "[]", '{"pieces": 1}', "no JSON", " " * 70_000_000])
def test_a_description_that_does_not_fit_is_said_in_a_line(home, tmp_path, about):
    path = tmp_path / "strange.tflite"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model.json", about)
        archive.writestr("vocabulary.txt", "a\n")
    run = vtx(path, home / "photos" / "0.png")
    assert (run.exit_code, len(run.stderr.strip().splitlines())) == (2, 1)
    assert "no complete exported model" in run.stderr


@pytest.mark.parametrize("content", [None, b"", b"PK\x05\x06" + bytes(18), b"no model"])
@pytest.mark.parametrize("suffix", [".tflite", ".onnx"])
def test_what_is_no_model_is_said_in_a_line(home, tmp_path, content, suffix):
    path = tmp_path / f"bad{suffix}"
    if content is not None:
        path.write_bytes(content)
    run = vtx(path, home / "photos" / "0.png")
    assert run.exit_code == 2
    assert len(run.stderr.strip().splitlines()) == 1
    assert ("does not exist" if content is None else "no complete exported model") in run.stderr
