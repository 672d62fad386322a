"""Asks TensorFlow Serving about pictures. Python alone is enough; `--grpc` needs the package tensorflow-serving-api.

    python client.py photo.jpg logo.png --model captions
    python client.py photo.jpg --model answers --question "what colour is the boat?"
    python client.py --model search --signature text --text "a red boat"
    python client.py frame1.png frame2.png --clip --model clips

Prints one JSON object per picture (or text): "ok" is false where it could not be read.
"""

import argparse
import base64
import json
import sys
import urllib.error
import urllib.request
from pathlib import Path


def rest(url: str, model: str, signature: str, inputs: dict) -> dict:
    """Outputs by name: what the server makes of `inputs`, lists of bytes and str."""
    body = {"signature_name": signature, "inputs": {name: encoded(value) for name, value in inputs.items()}}
    if not url.startswith(("http://", "https://")):
        raise SystemExit(f"--url {url}: expected an address such as http://localhost:8501")
    request = urllib.request.Request(
        f"{url}/v1/models/{model}:predict", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request) as response:
            return json.load(response)["outputs"]
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise SystemExit(f"{url} answers something else than a model does: is it TensorFlow Serving?") from error
    except urllib.error.HTTPError as error:
        raise SystemExit(f"{url} refused: {error.read().decode(errors='replace')}") from error
    except urllib.error.URLError as error:
        raise SystemExit(f"{url} does not answer ({error.reason}): is the server running?") from error


def encoded(value):
    """Bytes as JSON carries them for TensorFlow Serving, in lists of any depth."""
    if isinstance(value, list):
        return [encoded(one) for one in value]
    return {"b64": base64.b64encode(value).decode()} if isinstance(value, bytes) else value


def grpc(address: str, model: str, signature: str, inputs: dict) -> dict:
    """The same by gRPC, which carries bytes as they are."""
    try:
        import grpc
        import tensorflow as tf
        from tensorflow_serving.apis.predict_pb2 import PredictRequest
        from tensorflow_serving.apis.prediction_service_pb2_grpc import PredictionServiceStub
    except ImportError as error:
        raise SystemExit(f"--grpc needs more packages ({error}): pip install tensorflow-serving-api") from error

    request = PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = model, signature
    for name, value in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(value, tf.string))
    with grpc.insecure_channel(address) as channel:
        try:
            response = PredictionServiceStub(channel).Predict(request, 60)
        except grpc.RpcError as error:
            raise SystemExit(f"{address}: {error.code().name}: {error.details()}") from error
    return {name: plain(tf.make_ndarray(value).tolist()) for name, value in response.outputs.items()}


def plain(value):
    """Bytes as str, in lists of any depth."""
    if isinstance(value, list):
        return [plain(one) for one in value]
    return value.decode() if isinstance(value, bytes) else value


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description="Ask TensorFlow Serving about pictures.")
    parser.add_argument("pictures", nargs="*", type=Path)
    parser.add_argument("--model", default="captions", help="its name on the server")
    parser.add_argument("--signature", default="serving_default")
    parser.add_argument("--question", help="for vqa and classifiers; the same for all pictures")
    parser.add_argument("--text", help="for matchers and the signature text")
    parser.add_argument("--clip", action="store_true", help="the pictures are the frames of one clip")
    parser.add_argument("--url", default="http://localhost:8501", help="of REST")
    parser.add_argument("--grpc", metavar="HOST:PORT", help="ask by gRPC, usually at localhost:8500")
    given = parser.parse_args(arguments)
    if not given.pictures and given.text is None:
        parser.error("nothing to ask about: expected pictures, or --text with --signature text")
    try:
        pictures = [path.read_bytes() for path in given.pictures]
    except OSError as error:
        raise SystemExit(f"a picture cannot be read: {error}") from error
    inputs = {"image_bytes": [pictures] if given.clip else pictures} if pictures else {}
    rows = len(inputs.get("image_bytes", [0]))
    inputs |= {name: [getattr(given, name)] * rows for name in ("question", "text") if getattr(given, name) is not None}
    ask, server = (grpc, given.grpc) if given.grpc else (rest, given.url)
    outputs = ask(server, given.model, given.signature, inputs)
    for row in range(rows):
        print(json.dumps({name: value[row] for name, value in outputs.items()}, ensure_ascii=False))


if __name__ == "__main__":
    main(sys.argv[1:])
