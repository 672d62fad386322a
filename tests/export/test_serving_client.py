"""The client against servers that fail: nothing is lost in silence, and what cannot succeed is not tried again."""

from __future__ import annotations

import base64
import json
import socket
import threading
import time
import tracemalloc
from collections import Counter
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise

import pytest
from serving import program


@pytest.fixture(scope="module")
def client():
    module = program("client.py")
    module.FIRST_PAUSE = 0.02
    return module


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


@pytest.mark.parametrize("url", ["localhost:8501", "http://localhost:x", "http://", "ftp://localhost"])
def test_an_address_that_is_none_is_refused_at_once(client, folder, url):
    with pytest.raises(SystemExit, match="expected an address"):
        client.main([str(folder), "--url", url])


def test_a_folder_without_files_is_told(client, tmp_path):
    with pytest.raises(SystemExit, match="hold no files"):
        client.main([str(tmp_path)])


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
