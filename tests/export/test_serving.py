"""The client and the stand-in: nothing is lost in silence, nothing waits for ever, nothing holds up the others."""

from __future__ import annotations

import base64
import json
import queue
import socket
import subprocess
import sys
import threading
import time
import tracemalloc
from collections import Counter
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise

import keras
import pytest
import tensorflow as tf
from serving import PHOTOS, SERVING, asked, loaded, program, standing_in
from toys import decisive

from vtx_keras.export import _saved_model as savedmodel

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="exports are made by TensorFlow")


@pytest.fixture(scope="module")
def client():
    module = program("client.py")
    module.FIRST_PAUSE = 0.02
    return module


# --- the client against a server that fails


@contextmanager
def failing(*plan):
    """A server that does for its first requests what `plan` says, then answers with the size of each picture."""
    steps, times, sizes = list(plan), [], Counter()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            pictures = [base64.b64decode(one["b64"]) for one in body["inputs"]["image_bytes"]]
            times.append(time.monotonic())
            sizes[len(pictures)] += 1
            step = steps.pop(0) if steps else None
            if callable(step):
                step = step(pictures)
            if step == "reset":
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                self.connection.close()
                return
            if step == "cut":
                self.send_response(200)
                self.send_header("Content-Length", "1000")
                self.end_headers()
                self.wfile.write(b'{"outputs"')
                return
            if step == "silent":
                time.sleep(0.6)
            status, headers = step if isinstance(step, tuple) else (200, {})
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            answer = {"outputs": {"size": [len(one) for one in pictures], "ok": [bool(one) for one in pictures]}}
            self.wfile.write(json.dumps(answer if status == 200 else {"error": f"status {status}"}).encode())

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("localhost", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://localhost:{server.server_port}", times, sizes
        finally:
            server.shutdown()


@pytest.fixture
def folder(tmp_path):
    """Files of 0, 1, 2, ... bytes, in two folders."""
    for number in range(40):
        path = tmp_path / "shown" / ("a" if number < 25 else "b") / f"{number:02d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * number)
    (tmp_path / "shown" / ".hidden").write_bytes(b"x" * 99)
    return tmp_path / "shown"


def printed(capsys):
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


FAILURES = {
    "reset": ["reset", "reset"],
    "cut": ["cut"],
    "bad gateway": [(502, {}), (504, {})],
    "too many": [(429, {}), (503, {"Retry-After": "never"})],
    "silent": ["silent"],
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_request_that_fails_for_now_is_sent_again(client, folder, capsys, name):
    with failing(*FAILURES[name]) as (url, _, sizes):
        client.main([str(folder), "--url", url, "--batch", "20", "--connections", "1", "--timeout", "0.3"])
    assert [row["size"] for row in printed(capsys)] == list(range(40))
    assert sizes == {20: 2 + len(FAILURES[name])}


def test_a_server_that_starts_late_gets_all(client, folder, capsys):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    arguments = [str(folder), "--url", f"http://localhost:{port}", "--batch", "3"]
    server = ThreadingHTTPServer(("localhost", port), BaseHTTPRequestHandler, bind_and_activate=False)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            rows = len(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["inputs"]["image_bytes"])
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"outputs": {"ok": [True] * rows}}).encode())

        def log_message(self, *_):
            pass

    def start():
        server.RequestHandlerClass = Handler
        server.server_bind()
        server.server_activate()
        server.serve_forever()

    timer = threading.Timer(0.3, start)
    timer.start()
    try:
        client.main(arguments)
    finally:
        server.shutdown()
        server.server_close()
        timer.join()
    assert len(printed(capsys)) == 40


def test_the_server_says_when_to_come_back(client, folder, capsys):
    def later(_):
        return 503, {"Retry-After": format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True)}

    for step in ((503, {"Retry-After": "1"}), later):  # a date has whole seconds
        with failing(step) as (url, times, _):
            client.main([str(folder / "b"), "--url", url])
        assert times[1] - times[0] > 0.9, step
    with failing((503, {"Retry-After": "99999"})) as (url, times, _), pytest.raises(SystemExit, match="503"):
        client.main([str(folder / "b"), "--url", url])
    assert len(times) == 1


def test_pauses_grow_and_are_not_all_the_same(client, folder, monkeypatch):
    monkeypatch.setattr(client, "FIRST_PAUSE", 0.05)
    with failing(*[(503, {})] * 5) as (url, times, _), pytest.raises(SystemExit, match="503"):
        client.main([str(folder / "b"), "--url", url, "--retries", "4"])
    pauses = [after - before for before, after in pairwise(times)]
    assert len(pauses) == 4
    assert pauses[3] > 2 * pauses[0]
    assert all(0.5 * limit < pause for pause, limit in zip(pauses, (0.05, 0.1, 0.2, 0.4), strict=True))


def test_what_cannot_succeed_is_named_and_the_rest_is_answered(client, folder, capsys):
    def refuse_ten(pictures):
        return (400, {}) if any(len(one) == 10 for one in pictures) else None

    with failing(*[refuse_ten] * 10) as (url, times, _), pytest.raises(SystemExit, match="5 of 41 have no answer"):
        client.main([str(folder), "gone.jpg", "--url", url, "--batch", "4"])
    out, err = capsys.readouterr()
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["size"] for row in rows] == [*range(8), *range(12, 40)]
    assert [row["ok"] for row in rows] == [False] + [True] * 35
    assert rows[3]["picture"] == str(folder / "a" / "03.jpg")
    assert [line.partition(": ")[0] for line in err.splitlines()] == [
        *(str(folder / "a" / f"{number:02d}.jpg") for number in (8, 9, 10, 11)),
        "gone.jpg",
    ]
    assert len(times) == 10, "a refusal was sent again"


def test_a_request_that_is_too_large_is_halved(client, folder, capsys):
    def at_most_five(pictures):
        return (413, {}) if len(pictures) > 5 else None

    with failing(*[at_most_five] * 99) as (url, _, sizes):
        client.main([str(folder), "--url", url, "--batch", "20"])
    assert [row["size"] for row in printed(capsys)] == list(range(40))
    assert sizes == {20: 2, 10: 4, 5: 8}


def test_an_answer_of_other_rows_is_none(client, folder):
    with failing() as (url, _, _):
        send = lambda inputs: {name: value[1:] for name, value in client.rest(url, "m", "s", inputs).items()}  # noqa: E731
        assert "does not have 2 rows" in client.ask(send, {}, sorted((folder / "a").iterdir())[:2])[0][1]
    (_, reason), *_ = client.ask(lambda inputs: {"ok": 3}, {}, [folder / "a" / "01.jpg"])
    assert "does not have 1 rows" in reason


def test_many_pictures_take_little_memory(client, tmp_path):
    (tmp_path / "one.jpg").write_bytes(b"x" * 50_000)
    seen = []

    def send(inputs):
        seen.append(len(inputs["image_bytes"]))
        return {"ok": [True] * len(inputs["image_bytes"])}

    args = client.argparse.Namespace(connections=2, batch=10, retries=0)
    tracemalloc.start()
    try:
        client.run(send, {}, (tmp_path / "one.jpg" for _ in range(4000)), args)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert sum(seen) == 4000
    assert peak < 12e6, f"{peak / 1e6:.0f} MB of 200"
    large = [tmp_path / "one.jpg"] * 5
    client.MOST_BYTES, before = 120_000, client.MOST_BYTES
    try:
        assert [len(portion) for portion in client.portions(large, 4)] == [2, 2, 1]
    finally:
        client.MOST_BYTES = before


# --- the stand-in


@pytest.fixture(scope="module")
def captions(tmp_path_factory):
    """The folder of a captioner, and the address of a stand-in that serves it, with small limits."""
    folder = tmp_path_factory.mktemp("served") / "captions"
    model = decisive("cross_attn_captioner")
    (folder / "1").mkdir(parents=True)
    savedmodel.save(model, savedmodel.signatures(model), folder / "1")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tf.saved_model, "load", loaded)
        with standing_in(folder, seconds=1.5, most_bytes=2_000_000) as url:
            yield folder, url, model


def test_pictures_of_many_connections_keep_their_answers(captions, client, capsys, tmp_path):
    _, url, model = captions
    shown = tmp_path / "shown"
    shown.mkdir()
    for number in range(30):
        garbage = [b"", b"<html>", PHOTOS[0].read_bytes()[:900]][number % 3]
        content = garbage if number % 5 == 0 else PHOTOS[number % len(PHOTOS)].read_bytes()
        (shown / f"{number:02d}.jpg").write_bytes(content)
    client.main([str(shown), "--url", url, "--batch", "2", "--connections", "8"])
    rows = printed(capsys)
    wanted = model.generate(sorted(shown.iterdir()), on_error="none")
    assert [row["caption"] for row in rows] == [one or "" for one in wanted]
    assert [row["ok"] for row in rows] == [number % 5 != 0 for number in range(30)]


def test_the_stand_in_joins_what_waits(captions):
    stand_in = program("stand_in.py")
    model = loaded(str(captions[0] / "1"))
    files = [path.read_bytes() for path in PHOTOS]
    waiting = queue.Queue()
    b64 = [{"b64": base64.b64encode(one).decode()} for one in files]
    for rows in (1, 3, 2, 5, 1):
        waiting.put(stand_in.asked(model, {"inputs": {"image_bytes": b64[:rows]}}))
    waiting.put(None)
    found = list(stand_in.batches(waiting, 6))
    assert [[one.rows for one in batch] for batch in found] == [[1, 3, 2], [5, 1]]
    for batch in found:
        stand_in.answer(model, batch)
        for one in batch:
            assert len(one.answer.result()["caption"]) == one.rows


def test_the_stand_in_says_what_it_serves_and_what_it_refuses(captions):
    _, url, _ = captions
    address = f"{url}/v1/models/captions"
    status, answer = asked(address)
    assert (status, answer["model_version_status"][0]["state"]) == (200, "AVAILABLE")
    signatures = asked(f"{address}/metadata")[1]["metadata"]["signature_def"]["signature_def"]
    assert signatures["serving_default"]["inputs"] == {
        "image_bytes": {
            "dtype": "DT_STRING",
            "tensor_shape": {"dim": [{"size": "-1", "name": ""}], "unknown_rank": False},
        }
    }
    photo = {"b64": base64.b64encode(PHOTOS[0].read_bytes()).decode()}
    whole = json.dumps({"inputs": {"image_bytes": [photo]}}).encode()
    assert asked(f"{address}/versions/1:predict", whole)[0] == 200
    for path, body, wanted, said in (
        ("/v1/models/other", None, 404, "expected /v1/models/captions"),
        ("/v1/models/captions/versions/2", None, 404, "expected"),
        ("/v1/models/captions:predict", b"{", 400, "Expecting"),
        ("/v1/models/captions:predict", b"[" * 100_000, 400, "recursion"),
        ("/v1/models/captions:predict", b'{"signature_name": "x"}', 400, "expected one of"),
        ("/v1/models/captions:predict", b'{"inputs": {"image_bytes": [{"b64": "?"}]}}', 400, ""),
        ("/v1/models/captions:predict", b'{"inputs": {"image_bytes": [[{"b64": "AA"}]]}}', 400, ""),
        ("/v1/models/captions:predict", b"x" * 3_000_000, 413, "at most 2,000,000"),
    ):
        status, answer = asked(url + path, body)
        assert (status, said in answer["error"]) == (wanted, True), (path, body and body[:50], answer)
    assert asked(f"{address}:predict", whole)[1]["outputs"]["ok"] == [True]


def test_slow_senders_are_cut_off_and_hold_up_nobody(captions):
    _, url, _ = captions
    port = int(url.rpartition(":")[2])
    start, ended, slow = time.monotonic(), {}, {"head": b"POST /v1/models/captions:predict HTTP/1.1\r\nX-A: "}
    slow["body"] = b"POST /v1/models/captions:predict HTTP/1.1\r\nContent-Length: 1000\r\n\r\n"

    def drip(name):
        with socket.create_connection(("localhost", port), timeout=20) as connection:
            connection.sendall(slow[name])
            connection.settimeout(0.1)
            answer = b""
            while time.monotonic() - start < 15:
                try:
                    connection.send(b"x")
                    if not (part := connection.recv(4096)):
                        break
                    answer += part
                except TimeoutError:
                    continue
                except OSError:
                    break
            ended[name] = (time.monotonic() - start, answer)

    threads = [threading.Thread(target=drip, args=(name,)) for name in slow for _ in range(5)]
    for thread in threads:
        thread.start()
    assert asked(f"{url}/v1/models/captions")[0] == 200
    assert time.monotonic() - start < 1.5, "the slow ones held up another"
    for thread in threads:
        thread.join()
    assert all(1.4 < seconds < 6 for seconds, _ in ended.values()), ended
    assert b" 408 " in ended["body"][1].partition(b"\r\n")[0]


@pytest.mark.slow
def test_a_server_that_is_killed_and_started_again_loses_no_picture(captions, tmp_path):
    folder, _, model = captions
    shown = tmp_path / "shown"
    shown.mkdir()
    for number in range(200):
        (shown / f"{number:03d}.jpg").write_bytes(PHOTOS[number % len(PHOTOS)].read_bytes())

    def start(port):
        command = [sys.executable, str(SERVING / "stand_in.py"), str(folder), "--port", str(port)]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        return server, server.stdout.readline().partition("/v1")[0]

    server, url = start(0)
    command = [sys.executable, str(SERVING / "client.py"), str(shown), "--url", url, "--batch", "2", "--retries", "12"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as sender:
        rows = [json.loads(sender.stdout.readline()) for _ in range(40)]
        server.kill()
        server.wait()
        server.stdout.close()
        server, _ = start(url.rpartition(":")[2])
        rows += [json.loads(line) for line in sender.stdout]
    server.kill()
    server.wait()
    server.stdout.close()
    assert sender.returncode == 0
    assert [row["picture"] for row in rows] == [str(path) for path in sorted(shown.iterdir())]
    said = dict(zip(PHOTOS, model.generate(PHOTOS), strict=True))
    assert [row["caption"] for row in rows] == [said[PHOTOS[number % len(PHOTOS)]] for number in range(200)]
