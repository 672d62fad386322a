"""Try a SavedModel behind TensorFlow Serving's REST interface, without TensorFlow Serving. Not for production.

    python stand_in.py out/captions --model captions --port 8501

Needs TensorFlow alone. The folder holds versions by number, as for the server: out/captions/1, 2, ...
"""

import argparse
import base64
import json
import os
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf


def predict(model, request: dict) -> dict:
    """Run a request's signature, and return its outputs by name as JSON values."""
    signature = model.signatures[request.get("signature_name", "serving_default")]
    specs = signature.structured_input_signature[1]
    values = request.get("inputs")
    if not isinstance(values, dict) or set(values) != set(specs):
        names = sorted(values) if isinstance(values, dict) else values
        raise ValueError(f"inputs are {names}: expected {sorted(specs)}")
    inputs = {name: tf.constant(decoded(values[name]), spec.dtype) for name, spec in specs.items()}
    outputs = {name: value.numpy().tolist() for name, value in signature(**inputs).items()}
    return {
        "outputs": {
            name: encoded(value) if name.endswith("_bytes") else plain(value) for name, value in outputs.items()
        }
    }


def decoded(value):
    """Decode the bytes that a client sent as {"b64": ...}, in lists of any depth."""
    if isinstance(value, list):
        return [decoded(item) for item in value]
    return base64.b64decode(value["b64"]) if isinstance(value, dict) else value


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


def serve(folder: Path, name: str, port: int) -> HTTPServer:
    """Return a server for the newest version in a folder; `serve_forever` starts it. Port 0 takes any free port."""
    versions = [int(path.name) for path in folder.glob("*") if path.name.isdigit()]
    if not versions:
        raise SystemExit(f"{folder} has no version: expected a folder such as {folder / '1'}")
    newest = folder / str(max(versions))
    try:
        model = tf.saved_model.load(str(newest))
    except Exception as error:  # TensorFlow's errors have no common class
        reason = " ".join(str(error).split())[:300]
        raise SystemExit(f"{newest} is not a complete SavedModel ({reason}): copy or export it again") from None

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            status, answer = 404, {"error": f"{self.path}: expected /v1/models/{name}:predict"}
            if self.path == f"/v1/models/{name}:predict":
                try:
                    body = self.rfile.read(int(self.headers["Content-Length"]))
                    status, answer = 200, predict(model, json.loads(body))
                except Exception as error:  # any invalid request
                    status, answer = 400, {"error": str(error)}
            content = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    return HTTPServer(("localhost", port), Handler)


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description="Try a SavedModel behind TensorFlow Serving's REST interface.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="captions")
    parser.add_argument("--port", type=int, default=8501)
    args = parser.parse_args(arguments)
    server = serve(args.folder, args.model, args.port)
    print(f"http://localhost:{server.server_port}/v1/models/{args.model}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main(sys.argv[1:])
