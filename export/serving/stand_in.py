"""Try a SavedModel behind TensorFlow Serving's REST interface, without TensorFlow Serving. Not for production.

    python stand_in.py out/captions --model captions --port 8501

Needs TensorFlow alone. The folder holds versions by number, as for the server: out/captions/1, 2, ...
Requests that wait are answered in one batch, as the server does with batching.config.
"""

import argparse
import base64
import contextlib
import json
import os
import queue
import re
import socket
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf

BATCH, THREADS = 16, 2  # max_batch_size and num_batch_threads of batching.config
MOST_WAITING = 256  # requests; further ones are told to come back
MOST_BYTES = 64_000_000  # of a request
SECONDS = 30  # in which a whole request must have come


class Refused(Exception):
    """A request that is answered with an HTTP status other than 200."""

    def __init__(self, status: int, reason: str):
        super().__init__(reason)
        self.status = status


# --- from JSON to tensors and back


class Asked(NamedTuple):
    """A request that waits for its answer."""

    signature: str
    inputs: dict
    rows: int
    answer: Future

    def kind(self) -> tuple:
        """Return what must be the same for requests that are answered together."""
        return self.signature, [(name, value.shape[1:].as_list()) for name, value in self.inputs.items()]


def asked(model, request) -> Asked:
    """Check a request, and return it with its inputs as tensors."""
    if not isinstance(request, dict):
        raise ValueError(f"the body is {type(request).__name__}: expected an object with inputs")
    name, values = request.get("signature_name", "serving_default"), request.get("inputs")
    if name not in model.signatures:
        raise ValueError(f"signature_name is {name!r}: expected one of {sorted(model.signatures)}")
    specs = model.signatures[name].structured_input_signature[1]
    if not isinstance(values, dict) or set(values) != set(specs):
        names = sorted(values) if isinstance(values, dict) else values
        raise ValueError(f"inputs are {names}: expected {sorted(specs)}")
    inputs = {name: tf.constant(decoded(values[name]), spec.dtype) for name, spec in specs.items()}
    for key, value in inputs.items():
        if not specs[key].shape.is_compatible_with(value.shape):
            raise ValueError(f"{key} has the shape {value.shape}: expected {specs[key].shape}")
    rows = {key: value.shape[0] for key, value in inputs.items()}
    if len(set(rows.values())) != 1:
        raise ValueError(f"the inputs have {rows} rows: expected the same number of each")
    return Asked(name, inputs, min(rows.values()), Future())


def decoded(value):
    """Decode the bytes that a client sent as {"b64": ...}, in lists of any depth."""
    if isinstance(value, list):
        return [decoded(item) for item in value]
    if not isinstance(value, dict):
        return value
    if set(value) != {"b64"}:
        raise ValueError(f'a value has the keys {sorted(value)}: expected bytes as {{"b64": ...}}')
    return base64.b64decode(value["b64"], validate=True)


def encoded(value):
    """Encode bytes as the server does for outputs whose names end in `_bytes`, in lists of any depth."""
    if isinstance(value, list):
        return [encoded(item) for item in value]
    return {"b64": base64.b64encode(value).decode()}


def plain(value):
    """Decode bytes to str, in lists of any depth."""
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value.decode() if isinstance(value, bytes) else value


# --- batches of what waits


def batches(waiting: queue.Queue, most: int) -> Iterator[list[Asked]]:
    """Yield what waits, in order, as lists of requests that fit into one batch of `most` rows. None ends it."""
    held = None  # the first request of the next batch
    while (first := held or waiting.get()) is not None:
        batch, rows, held = [first], first.rows, None
        while held is None and rows < most:
            try:
                one = waiting.get_nowait()
            except queue.Empty:
                break
            if one is None:
                waiting.put(None)
                break
            if one.kind() == first.kind() and rows + one.rows <= most:
                batch.append(one)
                rows += one.rows
            else:
                held = one
        yield batch


def work(model, waiting: queue.Queue) -> None:
    """Answer what waits. If a batch fails, its requests are tried one by one."""
    for batch in batches(waiting, BATCH):
        try:
            answer(model, batch)
        except Exception:  # TensorFlow's errors have no common class
            for one in batch:
                try:
                    answer(model, [one])
                except Exception as error:
                    one.answer.set_exception(error)


def answer(model, batch: list[Asked]) -> None:
    """Run a signature once for all requests of a batch, and give each its rows."""
    inputs = {name: tf.concat([one.inputs[name] for one in batch], 0) for name in batch[0].inputs}
    outputs = {name: value.numpy() for name, value in model.signatures[batch[0].signature](**inputs).items()}
    start = 0
    for one in batch:
        one.answer.set_result({name: value[start : start + one.rows].tolist() for name, value in outputs.items()})
        start += one.rows


# --- what the server says of a model


def status_of(version: int) -> dict:
    """Return the answer to GET /v1/models/NAME."""
    status = {"error_code": "OK", "error_message": ""}
    return {"model_version_status": [{"version": str(version), "state": "AVAILABLE", "status": status}]}


def metadata_of(model, name: str, version: int) -> dict:
    """Return the answer to GET /v1/models/NAME/metadata."""
    signatures = {
        key: {
            "inputs": {one: described(spec) for one, spec in signature.structured_input_signature[1].items()},
            "outputs": {one: described(spec) for one, spec in signature.structured_outputs.items()},
            "method_name": "tensorflow/serving/predict",
        }
        for key, signature in model.signatures.items()
    }
    return {
        "model_spec": {"name": name, "signature_name": "", "version": str(version)},
        "metadata": {"signature_def": {"signature_def": signatures}},
    }


def described(spec) -> dict:
    """Return a tensor's type and shape as the server tells them."""
    sizes = [{"size": str(-1 if size is None else size), "name": ""} for size in spec.shape]
    shape = {"dim": sizes, "unknown_rank": False}
    return {"dtype": f"DT_{spec.dtype.name.upper()}".replace("FLOAT32", "FLOAT"), "tensor_shape": shape}


# --- the server


def serve(
    folder: Path, name: str, port: int, seconds: float = SECONDS, most_bytes: int = MOST_BYTES
) -> ThreadingHTTPServer:
    """Return a server for the newest version in a folder; `serve_forever` starts it. Port 0 takes any free port."""
    versions = [int(path.name) for path in folder.glob("*") if path.name.isdigit()]
    if not versions:
        raise SystemExit(f"{folder} has no version: expected a folder such as {folder / '1'}")
    version = max(versions)
    newest = folder / str(version)
    try:
        model = tf.saved_model.load(str(newest))
    except Exception as error:  # TensorFlow's errors have no common class
        reason = " ".join(str(error).split())[:300]
        raise SystemExit(f"{newest} is not a complete SavedModel ({reason}): copy or export it again") from None
    waiting: queue.Queue = queue.Queue(MOST_WAITING)
    for _ in range(THREADS):
        threading.Thread(target=work, args=(model, waiting), daemon=True).start()
    address = rf"/v1/models/{re.escape(name)}(?:/versions/{version})?"
    about = {"": status_of(version), "/metadata": metadata_of(model, name, version)}

    class Handler(BaseHTTPRequestHandler):
        timeout = seconds  # of one read or write

        def setup(self):
            super().setup()
            self.clock = threading.Timer(seconds, self.cut)  # for the whole request, however slowly it comes
            self.clock.daemon = True
            self.clock.start()

        def cut(self):
            with contextlib.suppress(OSError):
                self.connection.shutdown(socket.SHUT_RD)  # a read ends with what has come

        def finish(self):
            self.clock.cancel()
            super().finish()

        def do_GET(self):
            match = re.fullmatch(rf"{address}(|/metadata)", self.path)
            self.send(*((200, about[match[1]]) if match else self.unknown()))

        def do_POST(self):
            if not re.fullmatch(rf"{address}:predict", self.path):
                return self.send(*self.unknown())
            try:
                one = asked(model, json.loads(self.body()))
                waiting.put_nowait(one)
                outputs = one.answer.result()
                values = {key: (encoded if key.endswith("_bytes") else plain)(value) for key, value in outputs.items()}
                self.send(200, {"outputs": values if len(values) > 1 else values.popitem()[1]})
            except Refused as error:
                self.send(error.status, {"error": str(error)})
            except queue.Full:
                self.send(503, {"error": f"{MOST_WAITING} requests are waiting: send it again later"})
            except (ConnectionError, TimeoutError):
                raise
            except Exception as error:  # any invalid request
                self.send(400, {"error": str(error) or type(error).__name__})

        def body(self) -> bytes:
            length = self.headers.get("Content-Length", "")
            if not length.isdecimal():
                raise Refused(411, f"Content-Length is {length!r}: expected the number of bytes")
            size = int(length)
            if size > most_bytes:
                self.discard(min(size, 4 * most_bytes))  # a client reads no answer before it has sent everything
                raise Refused(413, f"the request has {size:,d} bytes: expected at most {most_bytes:,d}")
            content = self.rfile.read(size)
            self.clock.cancel()
            if len(content) < size:
                raise Refused(408, f"{len(content):,d} of {size:,d} bytes came within {seconds} s: send all of them")
            return content

        def discard(self, size: int):
            while size > 0 and (part := self.rfile.read(min(size, 2**16))):
                size -= len(part)

        def unknown(self):
            return 404, {"error": f"{self.path}: expected /v1/models/{name}, with :predict or /metadata"}

        def send(self, status: int, answer: dict):
            content = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            if status == 503:
                self.send_header("Retry-After", "1")
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    class Server(ThreadingHTTPServer):
        request_queue_size = 128  # connections that wait to be accepted

        def server_close(self):
            super().server_close()
            for _ in range(THREADS):
                waiting.put(None)

        def handle_error(self, request, client_address):
            """Say nothing of a client that has left."""
            if not isinstance(sys.exc_info()[1], (ConnectionError, TimeoutError)):
                super().handle_error(request, client_address)

    return Server(("localhost", port), Handler)


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description="Try a SavedModel behind TensorFlow Serving's REST interface.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="captions")
    parser.add_argument("--port", type=int, default=8501)
    args = parser.parse_args(arguments)
    server = serve(args.folder, args.model, args.port)
    print(f"http://localhost:{server.server_port}/v1/models/{args.model}", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        server.serve_forever()


if __name__ == "__main__":
    main(sys.argv[1:])
