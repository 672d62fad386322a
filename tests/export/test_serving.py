"""The stand-in: answers keep their pictures, whatever else is sent, slowly, broken or at the same time."""

from __future__ import annotations

import base64
import json
import queue
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import keras
import pytest
import tensorflow as tf
from serving import PHOTOS, SERVING, a_captioner, asked, loaded, program

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="exports are made by TensorFlow")


@pytest.fixture(scope="module")
def client():
    module = program("client.py")
    module.FIRST_PAUSE = 0.02
    return module


def printed(capsys):
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.fixture(scope="module")
def captions(tmp_path_factory):
    """The folder of a captioner, and the address of a stand-in that serves it, with small limits."""
    with a_captioner(tmp_path_factory.mktemp("served") / "captions", seconds=1.5, most_bytes=2_000_000) as served:
        yield served


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


def test_grpc_gives_the_same_rows_and_tries_again(captions, client, capsys):
    pytest.importorskip("tensorflow_serving.apis.predict_pb2", reason="tensorflow-serving-api is not installed")
    import grpc
    from tensorflow_serving.apis.predict_pb2 import PredictResponse
    from tensorflow_serving.apis.prediction_service_pb2_grpc import (
        PredictionServiceServicer,
        add_PredictionServiceServicer_to_server,
    )

    folder, url, _ = captions
    signature = loaded(str(folder / "1")).signatures["serving_default"]
    steps = [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED]

    class Service(PredictionServiceServicer):
        def Predict(self, request, context):
            if steps:
                context.abort(steps.pop(0), "not now")
            if set(request.inputs) != {"image_bytes"}:
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, "expected image_bytes")
            response = PredictResponse()
            outputs = signature(image_bytes=tf.constant(tf.make_ndarray(request.inputs["image_bytes"])))
            for name, value in outputs.items():
                response.outputs[name].CopyFrom(tf.make_tensor_proto(value))
            return response

    server = grpc.server(ThreadPoolExecutor(2))
    add_PredictionServiceServicer_to_server(Service(), server)
    address = f"localhost:{server.add_insecure_port('localhost:0')}"
    server.start()
    try:
        client.main([*map(str, PHOTOS[:3]), __file__, "--grpc", address])
        rows = printed(capsys)
        with pytest.raises(SystemExit, match="INVALID_ARGUMENT: expected image_bytes"):
            client.main([str(PHOTOS[0]), "--question", "what?", "--grpc", address])
    finally:
        server.stop(None).wait()
    client.main([*map(str, PHOTOS[:3]), __file__, "--url", url])
    assert [(row["caption"], row["ok"]) for row in rows] == [(row["caption"], row["ok"]) for row in printed(capsys)]
    assert steps == []


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
