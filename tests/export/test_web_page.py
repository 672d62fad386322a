"""The page in Chromium: real pictures, a real model, a worker, no network. Run with `-m browser`; it takes a minute."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
from pathlib import Path

import keras
import pytest
from paths import PROGRAMS

from vtx_keras import data, export, zoo

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="exports are made by TensorFlow"),
]
PHOTOS = [Path(data.sample(f"photos/{name}.jpg")) for name in ("cat", "dogs", "raccoon")]


@pytest.fixture(scope="module")
def web(tmp_path_factory):
    """A copy of the page with its packages."""
    if not shutil.which("npm") or not Path(os.environ.get("CHROMIUM", "/usr/bin/chromium")).exists():
        pytest.skip("the page was not opened: there is no npm, or no Chromium (name it in CHROMIUM)")
    folder = tmp_path_factory.mktemp("web") / "web"
    shutil.copytree(PROGRAMS / "web", folder, ignore=shutil.ignore_patterns("node_modules"))
    subprocess.run(["npm", "install", "--silent", "--no-audit"], cwd=folder, check=True)
    subprocess.run(["npm", "install", "--silent", "--no-audit", "--no-save", "playwright-core"], cwd=folder, check=True)
    return folder


@pytest.fixture(scope="module")
def model():
    return zoo.build("cross_attn_captioner")


@pytest.fixture(scope="module")
def file(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("exported") / "model.onnx"
    export.onnx(model, path, attention=True, verify_data=[{"image": photo, "caption": "a"} for photo in PHOTOS])
    return path


@contextlib.contextmanager
def serving(web: Path, *file: Path):
    """The address of the page, with a model beside it."""
    command = ["node", "serve.mjs", *map(str, file), "--port", "0"]
    with subprocess.Popen(command, cwd=web, stdout=subprocess.PIPE, text=True) as run:
        try:
            yield run.stdout.readline().strip()
        finally:
            run.kill()


@pytest.fixture
def address(web, file):
    with serving(web, file) as address:
        yield address


def shown(web: Path, address: str, *words: object) -> list[dict]:
    done = subprocess.run(["node", "browser.mjs", address, *map(str, words)], cwd=web, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_the_page_says_what_the_model_says(web, address, model):
    rows = shown(web, address, *PHOTOS)
    assert [row["said"] for row in rows] == model.generate(PHOTOS)
    assert all(" ".join(row["words"]) == row["said"] for row in rows)
    assert "2 threads" in rows[0]["state"] or os.cpu_count() != 2


def test_the_page_works_without_a_network(web, address, model):
    assert shown(web, address, PHOTOS[0], "--offline")[0]["said"] == model.generate(PHOTOS[0])[0]


def test_the_page_says_what_is_wrong(web, address, tmp_path):
    (tmp_path / "no.jpg").write_bytes(b"<html>")
    (tmp_path / "cut.jpg").write_bytes(PHOTOS[0].read_bytes()[:100])
    for row in shown(web, address, tmp_path / "no.jpg", tmp_path / "cut.jpg"):
        assert row["trouble"] == "this file is no picture that the browser can read"
    with serving(web) as bare:
        (row,) = shown(web, bare)
    assert (row["state"], "choose a file" in row["trouble"]) == ("no model is loaded", True)


def test_a_chosen_model_is_opened(web, address, tmp_path, file):
    (tmp_path / "broken.onnx").write_bytes(file.read_bytes()[:1000])
    (row,) = shown(web, address, "--model", tmp_path / "broken.onnx")
    assert ("not an .onnx file" in row["trouble"], "is still loaded" in row["state"]) == (True, True)
    (row,) = shown(web, address, "--model", file)
    assert (row["trouble"], row["state"].startswith("cross_attn_captioner")) == ("", True)


def test_node_says_what_the_model_says(web, file, model):
    for photo in PHOTOS:
        done = subprocess.run(["node", "caption.mjs", file, photo], cwd=web, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == model.generate(photo)[0]
    done = subprocess.run(["node", "caption.mjs", file, web / "page.mjs"], cwd=web, capture_output=True, text=True)
    assert (done.returncode, done.stderr.startswith("caption.mjs: ")) == (1, True)


def test_a_question_is_answered_on_the_page(web, tmp_path):
    model = zoo.build("cross_attn_vqa")
    path = tmp_path / "model.onnx"
    question = "what is the colour of the dogs?"
    export.onnx(
        model, path, attention=True, verify_data=[{"image": PHOTOS[1], "question": question, "answer": "brown"}]
    )
    with serving(web, path) as address:
        (row,) = shown(web, address, PHOTOS[1], "--text", question)
    assert row["said"] == model.answer(PHOTOS[1], question)[0]
    assert row["words"] == ["what", "is", "the", "colour", "of", "the", "dogs", "?"]
