"""`vtx demo`: a page on this machine, and what it answers to pictures, texts and strangers."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image
from toys import decisive, toy, vtx

from vtx_keras import data, explain, zoo
from vtx_keras.cli import _demo as demo

PHOTO = Path(data.sample("photos/dogs.jpg"))


@contextlib.contextmanager
def serving(model):
    """The port of a server with a model behind it."""
    server = demo.serve(model)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()


def ask(port: int, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request(method, path, body, {name.title(): value for name, value in headers.items()})
    answer = connection.getresponse()
    return answer.status, answer.read()


def lines(answer: tuple[int, bytes]) -> dict:
    """What an answer says in all."""
    assert answer[0] == 200
    found: dict = {}
    for line in answer[1].decode().splitlines():
        found |= json.loads(line)
    return found


@pytest.fixture(scope="module")
def captioner():
    keras.utils.set_random_seed(0)
    return decisive("cross_attn_captioner")


@pytest.fixture(scope="module")
def port(captioner):
    with serving(captioner) as port:
        yield port


def test_the_page_and_its_description_are_served(port, captioner):
    for name in ("/", *(f"/{one}" for one in demo.PAGES)):
        status, content = ask(port, "GET", name)
        assert (status, len(content) > 500) == (200, True), name
    assert ask(port, "HEAD", "/page.mjs") == (200, b"")
    about = json.loads(ask(port, "GET", "/model.json")[1])
    assert (about["engine"], about["task"], about["image_shape"]) == ("keras", "captioner", [32, 32, 3])
    for path in ("/worker.mjs", "/../setup.cfg", "/%2e%2e/setup.cfg", "/etc/passwd", "/ask"):
        assert ask(port, "GET", path)[0] == 404, path


def test_a_caption_comes_with_where_each_word_looked(port, captioner):
    found = lines(ask(port, "POST", "/ask?beams=1", PHOTO.read_bytes()))
    assert (found["said"], found["ms"] > 0) == (captioner.generate(PHOTO)[0], True)
    expected = explain.attention(captioner, PHOTO, found["said"])
    assert [one["word"] for one in found["words"]] == expected.words
    first = found["words"][0]
    assert (first["rows"], first["columns"]) == expected.maps.shape[1:]
    np.testing.assert_allclose(first["heat"], expected.maps[0].ravel(), atol=1e-5)
    more = lines(ask(port, "POST", "/ask?beams=3", PHOTO.read_bytes()))
    assert more["said"] == captioner.generate(PHOTO, beams=3)[0]


def test_who_reads_slowly_keeps_nobody_waiting(port):
    slow = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    slow.request("POST", "/ask?beams=1", PHOTO.read_bytes())  # and nothing is read
    assert lines(ask(port, "POST", "/ask?beams=1", PHOTO.read_bytes()))["said"]
    assert slow.getresponse().status == 200


def test_many_ask_at_once(port, captioner):
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: ask(port, "POST", "/ask?beams=1", PHOTO.read_bytes()), range(12)))
    assert {lines(one)["said"] for one in answers} == {captioner.generate(PHOTO)[0]}


@pytest.mark.parametrize(
    ("body", "query", "said"),
    [
        (b"", "", "expected"),
        (b"<html>", "", "expected JPEG, PNG"),
        (PHOTO.read_bytes()[:2000], "", "truncated"),
        (PHOTO.read_bytes(), "beams=x", "beams=x: expected a whole number"),
    ],
    ids=["nothing", "a page", "cut off", "no number"],
)
def test_what_is_no_picture_is_said(port, body, query, said):
    assert said in lines(ask(port, "POST", f"/ask?{query}", body))["error"]


def test_strangers_are_refused(port):
    assert ask(port, "GET", "/", host="evil.example")[0] == 403
    assert ask(port, "POST", "/ask", b"x", host=f"evil.example:{port}")[0] == 403
    assert ask(port, "GET", "/", host="[bad")[0] == 403
    assert ask(port, "GET", "/", host=f"[::1]:{port}")[0] == 200
    assert ask(port, "POST", "/ask", b"x", origin="http://evil.example")[0] == 403
    assert ask(port, "POST", "/ask", PHOTO.read_bytes(), origin=f"http://127.0.0.1:{port}")[0] == 200
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.putrequest("POST", "/ask")
    connection.putheader("Content-Length", str(demo.MOST_BYTES + 1))
    connection.endheaders()
    assert connection.getresponse().status == 413


def test_a_text_is_answered(port):
    del port
    with serving(toy("cross_attn_vqa")) as port:
        found = lines(ask(port, "POST", "/ask?text=w1+w2", PHOTO.read_bytes()))
        assert found["said"] in ("no", "yes", "maybe")
        assert [one["word"] for one in found["words"]] == ["w1", "w2"]
        assert "no words" in lines(ask(port, "POST", "/ask?text=", PHOTO.read_bytes()))["error"]


def test_pictures_are_drawn():
    model = toy("gated_generator")
    with serving(model) as port:
        found = lines(ask(port, "POST", "/ask?text=w1+w2&seed=5"))
    assert found["drawn"].startswith("data:image/png;base64,")
    import base64

    drawn = np.asarray(Image.open(io.BytesIO(base64.b64decode(found["drawn"].partition(",")[2]))))
    np.testing.assert_array_equal(drawn, model.draw(["w1 w2"], seed=5)[0])


def test_another_address_and_a_taken_port_are_refused(captioner, tmp_path, port):
    zoo.save(captioner, tmp_path / "mine")
    done = vtx("demo", tmp_path / "mine", "--host", "0.0.0.0")
    assert (done.exit_code, "add --public" in done.stderr) == (2, True)
    with pytest.raises(ValueError, match=f"port {port} is taken: choose another"):
        demo.serve(captioner, port=port)


def test_it_runs_until_it_is_interrupted(captioner, tmp_path):
    zoo.save(captioner, tmp_path / "mine")
    # where tests run in the background, interrupts are ignored, and children inherit that
    program = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from vtx_keras.cli import main; main(prog_name='vtx')"
    )
    command = [sys.executable, "-uc", program, "demo", str(tmp_path / "mine"), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as run:
        try:
            said = run.stdout.readline()
            port = int(said.partition("127.0.0.1:")[2].partition("/")[0])
            assert ask(port, "GET", "/")[0] == 200
            run.send_signal(signal.SIGINT)
            assert run.wait(20) == 0
        finally:
            run.kill()
