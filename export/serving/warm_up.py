"""Store requests with a SavedModel that TensorFlow Serving runs on loading, so that the first client does not wait.

    python warm_up.py models/captions/1 photo.jpg
    python warm_up.py models/answers/1 photo.jpg --question "what colour is the boat?"

They are stored in assets.extra/tf_serving_warmup_requests, one for each of the batch sizes 1, 4 and 16. Needs
TensorFlow and the package tensorflow-serving-api.
"""

import argparse
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf

BATCHES = (1, 4, 16)


def requests(inputs: dict[str, tf.Tensor], model: str, signature: str) -> list[bytes]:
    """Return one PredictionLog for each batch size, with the same row in all places."""
    try:
        from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog
    except ImportError as error:
        raise SystemExit(f"a package is missing ({error}): pip install tensorflow-serving-api") from error

    logs = []
    for size in BATCHES:
        log = PredictionLog()
        request = log.predict_log.request
        request.model_spec.name, request.model_spec.signature_name = model, signature
        for name, value in inputs.items():
            rows = tf.repeat(value, size, axis=0).numpy()
            request.inputs[name].CopyFrom(tf.make_tensor_proto(rows, value.dtype))
        logs.append(log.SerializeToString())
    return logs


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description="Store requests that TensorFlow Serving runs on loading a model.")
    parser.add_argument("folder", type=Path, help="of the SavedModel, such as models/captions/1")
    parser.add_argument("pictures", nargs="*", type=Path, help="one picture, or the frames of a clip")
    parser.add_argument("--signature", default="serving_default")
    parser.add_argument("--question", help="for vqa models and classifiers")
    parser.add_argument("--text", help="for matchers, and for --signature text")
    parser.add_argument("--seed", type=int, help="for generators")
    args = parser.parse_args(arguments)
    if not (args.folder / "saved_model.pb").is_file():
        raise SystemExit(f"{args.folder} has no saved_model.pb: expected a folder that export.saved_model wrote")
    try:
        pictures = [path.read_bytes() for path in args.pictures]
    except OSError as error:
        raise SystemExit(f"a picture cannot be read: {error}") from error
    given = {"image_bytes": pictures or None, "question": args.question, "text": args.text, "seed": args.seed}
    inputs = checked(args.folder, args.signature, {name: one for name, one in given.items() if one is not None})
    logs = requests(inputs, args.folder.absolute().parent.name, args.signature)
    target = args.folder / "assets.extra" / "tf_serving_warmup_requests"
    target.parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(target)) as file:
        for log in logs:
            file.write(log)
    print(target)


def checked(folder: Path, signature: str, given: dict) -> dict[str, tf.Tensor]:
    """Return the inputs of one row, after the signature has answered it: a failing request would stop the server."""
    signatures = tf.saved_model.load(str(folder)).signatures
    if signature not in signatures:
        raise SystemExit(f"--signature {signature}: expected one of {', '.join(sorted(signatures))}")
    specs = signatures[signature].structured_input_signature[1]
    if set(specs) != set(given):
        raise SystemExit(
            f"{signature} takes {', '.join(sorted(specs))}; given: {', '.join(sorted(given)) or 'nothing'}"
        )
    clip = "image_bytes" in specs and specs["image_bytes"].shape.rank == 2
    if not clip and len(given.get("image_bytes", [0])) > 1:
        raise SystemExit(f"{len(given['image_bytes'])} pictures are given: expected one, unless the model takes clips")
    rows = {name: value if name == "image_bytes" and not clip else [value] for name, value in given.items()}
    inputs = {name: tf.constant(value, specs[name].dtype) for name, value in rows.items()}
    outputs = signatures[signature](**inputs)
    if "ok" in outputs and not bool(outputs["ok"][0]):
        raise SystemExit("the picture or text cannot be read: expected one that is typical of what clients send")
    return inputs


if __name__ == "__main__":
    main(sys.argv[1:])
