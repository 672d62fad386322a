"""What an exported .onnx says of a picture, with onnxruntime, NumPy and Pillow alone.

    python run.py model.onnx photo.png                 # a captioner; of the form `split` word by word
    python run.py model.onnx photo.png "is it a cat?"  # a model that also reads a text

A model in two files (model.encode.onnx, model.decode_step.onnx) is named as one: model.onnx.
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read on import: else it keeps a device's number in the home
import onnxruntime

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from pictures_and_words import companions, pixels, show, stream, tokens, told


def main(model: str, picture: str, text: str | None = None) -> None:
    path = Path(model)
    about, vocabulary = companions(path)
    image = pixels(picture, about)
    if about["form"] == "split":
        show(captioned(path, image, about), about, vocabulary)
        return
    if about["task"] != "captioner" and text is None:
        sys.exit(f"a {about['task']} reads a text beside the picture: give it behind the picture's name")
    if about["task"] == "retriever":
        seen = run(opened(path, "image"), {"image": image})["image_embedding"]
        read = run(opened(path, "text"), {"tokens": tokens(text, about, vocabulary)})["text_embedding"]
        print(f"similarity {float((seen @ read.T)[0, 0]):.3f}")
        return
    more = {} if about["task"] == "captioner" else {"tokens": tokens(text, about, vocabulary)}
    print(told(run(opened(path), {"image": image, **more}), about, vocabulary))


def opened(path: Path, part: str = "") -> onnxruntime.InferenceSession:
    """The session of a file, or of one of two."""
    file = path.with_name(f"{path.stem}.{part}.onnx") if part else path
    return onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])


def run(session: onnxruntime.InferenceSession, inputs: dict) -> dict:
    """Outputs by name."""
    return dict(zip([one.name for one in session.get_outputs()], session.run(None, inputs), strict=True))


def captioned(path: Path, image: np.ndarray, about: dict) -> Iterator[int]:
    """Ids one by one, from the two files of the form `split`."""
    step, states = opened(path, "decode_step"), run(opened(path, "encode"), {"image": image})
    shapes = {one.name: (1, *one.shape[1:]) for one in step.get_inputs() if one.name.startswith("cache_")}
    caches = {name: np.zeros(shape, "float32") for name, shape in shapes.items()}
    return stream(lambda **inputs: run(step, inputs), states, caches, about)


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    try:
        main(*sys.argv[1:])
    except Exception as error:  # onnxruntime's own errors have no common kind
        sys.exit(f"{sys.argv[1]} on {sys.argv[2]}: {' '.join(str(error).split())}")
