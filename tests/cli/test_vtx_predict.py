"""`vtx predict`: images from anywhere, bad ones reported, results in every form."""

from __future__ import annotations

import contextlib
import csv
import functools
import json
import os
import threading
import time
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path

import keras
import pytest
import toys
from PIL import Image
from toys import pictures, toy

from vtx_keras import zoo
from vtx_keras.cli import _predict
from vtx_keras.cli._predict import sources

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="once is enough")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return str(zoo.save(toy("gated_captioner"), tmp_path_factory.mktemp("model") / "mine.keras"))


@pytest.fixture
def folder(tmp_path) -> Path:
    home = tmp_path / "some pictures"
    home.mkdir()
    for number, pixels in enumerate(pictures(toy("gated_captioner"), 3)):
        Image.fromarray(pixels.astype("uint8")).save(home / f"{number}.png")
    (home / "1b.png").write_bytes(b"no picture")
    (home / "notes.txt").write_text("not an image")
    return home


def vtx(*arguments, **kwargs):
    return toys.vtx("predict", *arguments, **kwargs)


def test_a_folder_a_pattern_and_a_file_give_the_same_results(model, folder):
    run = vtx(model, folder, folder / "*.png", folder / "0.png", "--json")
    rows = [json.loads(line) for line in run.stdout.splitlines()]
    assert run.exit_code == 1
    assert [Path(row["picture"]).name for row in rows] == ["0.png", "1.png", "1b.png", "2.png"] * 2 + ["0.png"]
    assert rows[:4] == rows[4:8]
    assert rows[8] == rows[0]
    assert [set(row) for row in rows[:4]] == [{"picture", "result"}] * 2 + [{"picture", "error"}, {"picture", "result"}]


def test_folders_in_a_folder_are_read_if_asked(model, folder):
    (folder / "more" / ".hidden").mkdir(parents=True)
    for place in ("more", "more/.hidden"):
        Image.new("RGB", (32, 32)).save(folder / place / "3.png")
    plain, deep = vtx(model, folder, "--json"), vtx(model, folder, "--recursive", "--json")
    assert "the folders in it (1) are not read: add --recursive" in plain.stderr
    assert "not read" not in deep.stderr
    names = [[Path(json.loads(line)["picture"]).name for line in run.stdout.splitlines()] for run in (plain, deep)]
    assert names[1] == [*names[0], "3.png"]


def test_standard_input_and_an_address_give_the_results_of_the_file(model, folder):
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(folder))
    handler.log_message = lambda *_: None
    with HTTPServer(("localhost", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://localhost:{server.server_port}"
        wanted = vtx(model, folder / "0.png").stdout
        assert "\t" not in wanted
        assert vtx(model, "-", input=(folder / "0.png").read_bytes()).stdout == wanted
        assert vtx(model, f"{url}/0.png").stdout == wanted
        Image.open(folder / "0.png").save(folder / "ä b.png")
        run = vtx(model, f"{url}/missing.png", "http://localhost:1e/0.png", f"{url}/0.png", f"{url}/ä b.png")
        server.shutdown()
    assert run.exit_code == 1
    assert "missing.png: could not be fetched: HTTP Error 404" in run.stderr
    assert "localhost:1e/0.png: could not be fetched: nonnumeric port" in run.stderr
    assert [line.split("\t")[1] for line in run.stdout.splitlines()] == [wanted.strip()] * 2


@pytest.mark.parametrize("form", ["html", "json", "csv", "txt"])
def test_a_file_holds_all_rows_and_appears_whole(model, folder, tmp_path, form):
    out = tmp_path / "deep" / f"out.{form}"
    run = vtx(model, folder, "--out", out)
    assert (run.exit_code, run.stdout.strip()) == (1, str(out))
    written = out.read_text(encoding="utf-8")
    if form == "json":
        assert ["error" in row for row in json.loads(written)] == [False, False, True, False]
    if form == "csv":
        assert [bool(row["error"]) for row in csv.DictReader(written.splitlines())] == [False, False, True, False]
    if form == "html":
        assert written.count("<img ") == 3
        assert "1b.png" in written
    if form == "txt":
        assert written.count("\n") == 3
    assert not list(out.parent.glob(".*"))


def test_mistakes_are_reported(model, tmp_path):
    run = vtx(model, tmp_path / "*.png", tmp_path, "-", input=b"")
    assert run.exit_code == 2
    assert "the pattern matches nothing" in run.stderr
    assert "the folder holds no picture" in run.stderr
    assert "-: no data received" in run.stderr
    run = vtx(model, "a.png", "--out", "out.pdf")
    assert run.exit_code == 2
    assert "expected a name that ends in .html, .json, .csv, .txt" in run.stderr
    assert "use --prompt" in vtx(model, "a.png", "--text", "what?").stderr
    labels = str(zoo.save(toy("gated_vqa"), tmp_path / "labels.keras"))
    assert "leave out --prompt, --beams" in vtx(labels, "a.png", "--text", "what?", "--beams", "3").stderr
    assert "Did you mean 'predict'" in toys.vtx("predikt").stderr
    assert "leave out --weights emoji" in vtx(labels, "a.png", "--text", "what?", "--weights", "emoji").stderr
    (tmp_path / "out.csv").mkdir()
    run = vtx(model, "a.png", "--out", tmp_path / "out.csv")
    assert (run.exit_code, "out.csv is a folder: expected a file's name" in run.stderr) == (2, True)
    run = toys.vtx("list", "nothing", "--json")
    assert (run.exit_code, run.stdout) == (2, "[]\n")


def test_a_file_name_may_hold_any_bytes(model, folder):
    strange = os.fsdecode(os.fsencode(folder) + b"/caf\xe9.png")
    os.rename(folder / "0.png", strange)
    run = vtx(model, folder, "--json")
    assert [json.loads(line)["picture"][-8:] for line in run.stdout.splitlines()][-1] == "caf\ufffd.png"
    assert vtx(model, folder, "--out", folder / "out.csv").exit_code == 1


def test_a_folder_is_a_clip_for_video_models(tmp_path):
    assert [one.picture for one in sources([str(tmp_path)], clips=True)] == [tmp_path]


def test_a_server_that_sends_a_byte_at_a_time_is_left(monkeypatch):
    class Slow(SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            with contextlib.suppress(ConnectionError):
                for _ in range(200):  # 20 s
                    self.wfile.write(b"x")
                    time.sleep(0.1)

        def log_message(self, *about: object) -> None:
            pass

    monkeypatch.setattr(_predict, "SECONDS", 1)
    with HTTPServer(("localhost", 0), Slow) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        start = time.monotonic()
        with pytest.raises(OSError, match="bytes came in 1 s"):
            _predict._download(f"http://localhost:{server.server_port}/0.png")
        assert time.monotonic() - start < 15
        server.shutdown()
