"""Run an exported .onnx on an image, with onnxruntime, NumPy and Pillow alone.

    python run.py model.onnx photo.png                 # a captioner; one of form `split` prints word by word
    python run.py model.onnx photo.png "is it a cat?"  # a model that also takes a text
    python run.py model.onnx "a red circle" 7          # a generator, with a seed: writes drawn.png

For a model in two files (model.encode.onnx, model.decode_step.onnx), give the common name: model.onnx.
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read on import; otherwise it stores a device id in the home
import onnxruntime

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from pictures_and_words import check_onnx, companions, draw, pixels, result, show, stream, tokens


def main(model: str, picture: str, text: str | None = None) -> None:
    path = Path(model)
    about, vocabulary = companions(path)
    if about["task"] == "generator":
        drawing = session(path)
        print(draw(lambda **inputs: run(drawing, inputs), picture, text or "0", about, vocabulary))
        return
    image = pixels(picture, about)
    if about["form"] == "split":
        show(caption_ids(path, image, about), about, vocabulary)
        return
    if about["task"] != "captioner" and text is None:
        sys.exit(f"a {about['task']} needs a text besides the image: give it after the image's name")
    if about["task"] == "retriever":
        image_embedding = run(session(path, "image"), {"image": image})["image_embedding"]
        text_embedding = run(session(path, "text"), {"tokens": tokens(text, about, vocabulary)})["text_embedding"]
        print(f"similarity {float((image_embedding @ text_embedding.T)[0, 0]):.3f}")
        return
    texts = {} if about["task"] == "captioner" else {"tokens": tokens(text, about, vocabulary)}
    print(result(run(session(path), {"image": image, **texts}), about, vocabulary))


def session(path: Path, part: str = "") -> onnxruntime.InferenceSession:
    """Open a model's file, or one of its two parts."""
    file = check_onnx(path.with_name(f"{path.stem}.{part}.onnx") if part else path)
    return onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])


def run(model: onnxruntime.InferenceSession, inputs: dict) -> dict:
    """Return the outputs by name."""
    return dict(zip([output.name for output in model.get_outputs()], model.run(None, inputs), strict=True))


def caption_ids(path: Path, image: np.ndarray, about: dict) -> Iterator[int]:
    """Yield the ids of a caption, from the two files of form `split`."""
    step, states = session(path, "decode_step"), run(session(path, "encode"), {"image": image})
    shapes = {one.name: (1, *one.shape[1:]) for one in step.get_inputs() if one.name.startswith("cache_")}
    caches = {name: np.zeros(shape, "float32") for name, shape in shapes.items()}
    return stream(lambda **inputs: run(step, inputs), states, caches, about)


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    try:
        main(*sys.argv[1:])
    except Exception as error:  # onnxruntime's errors have no common class
        sys.exit(f"{sys.argv[1]} on {sys.argv[2]}: {' '.join(str(error).split())}")
