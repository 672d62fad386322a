"""Send images and texts to TensorFlow Serving. Needs Python alone; `--grpc` needs the package tensorflow-serving-api.

    python client.py photo.jpg logo.png --model captions
    python client.py photo.jpg --model answers --question "what colour is the boat?"
    python client.py --model search --signature text --text "a red boat"
    python client.py frame1.png frame2.png --clip --model clips

Prints one JSON object per image (or text); "ok" is false where it could not be read.
"""

import argparse
import base64
import json
import sys
import urllib.error
import urllib.request
from pathlib import Path


def rest(url: str, model: str, signature: str, inputs: dict) -> dict:
    """Send `inputs`, lists of bytes and str, to the server by REST, and return its outputs by name."""
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
        raise SystemExit(f"{url} does not answer as a model does: is it TensorFlow Serving?") from error
    except urllib.error.HTTPError as error:
        raise SystemExit(f"{url} refused: {error.read().decode(errors='replace')}") from error
    except urllib.error.URLError as error:
        raise SystemExit(f"{url} does not answer ({error.reason}): is the server running?") from error


def encoded(value):
    """Encode bytes for TensorFlow Serving's JSON, in lists of any depth."""
    if isinstance(value, list):
        return [encoded(item) for item in value]
    return {"b64": base64.b64encode(value).decode()} if isinstance(value, bytes) else value


def grpc(address: str, model: str, signature: str, inputs: dict) -> dict:
    """Do the same by gRPC, which sends bytes without encoding them."""
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
    """Decode bytes to str, in lists of any depth."""
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value.decode() if isinstance(value, bytes) else value


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description="Send images and texts to TensorFlow Serving.")
    parser.add_argument("pictures", nargs="*", type=Path)
    parser.add_argument("--model", default="captions", help="the model's name on the server")
    parser.add_argument("--signature", default="serving_default")
    parser.add_argument("--question", help="for vqa models and classifiers; the same for all pictures")
    parser.add_argument("--text", help="for matchers, and for --signature text")
    parser.add_argument("--clip", action="store_true", help="the pictures are the frames of one clip")
    parser.add_argument("--url", default="http://localhost:8501", help="of the REST interface")
    parser.add_argument("--grpc", metavar="HOST:PORT", help="use gRPC instead of REST, usually at localhost:8500")
    args = parser.parse_args(arguments)
    if not args.pictures and args.text is None:
        parser.error("nothing to send: expected pictures, or --text with --signature text")
    try:
        pictures = [path.read_bytes() for path in args.pictures]
    except OSError as error:
        raise SystemExit(f"a picture cannot be read: {error}") from error
    inputs = {"image_bytes": [pictures] if args.clip else pictures} if pictures else {}
    rows = len(inputs.get("image_bytes", [0]))
    inputs |= {name: [getattr(args, name)] * rows for name in ("question", "text") if getattr(args, name) is not None}
    send, server = (grpc, args.grpc) if args.grpc else (rest, args.url)
    outputs = send(server, args.model, args.signature, inputs)
    for row in range(rows):
        print(json.dumps({name: value[row] for name, value in outputs.items()}, ensure_ascii=False))


if __name__ == "__main__":
    main(sys.argv[1:])
