"""Run an exported .tflite on an image, with LiteRT, NumPy and Pillow alone.

    python run.py model.tflite photo.png                 # a captioner; one of form `split` prints word by word
    python run.py model.tflite photo.png "is it a cat?"  # a model that also takes a text
    python run.py model.tflite "a red circle" 7          # a generator, with a seed: writes drawn.png

A damaged model or image ends the program with one line of explanation and exit code 1.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from pictures_and_words import companions, draw, pixels, result, show, stream, tokens


def main(model: str, picture: str, text: str | None = None) -> None:
    about, vocabulary = companions(Path(model))
    interpreter = Interpreter(model_path=model)
    runs = {name: interpreter.get_signature_runner(name) for name in interpreter.get_signature_list()}
    if about["task"] == "generator":
        print(draw(runs["serving_default"], picture, text or "0", about, vocabulary))
        return
    image = pixels(picture, about)
    if "encode" in runs:
        show(caption_ids(runs, image, about), about, vocabulary)
        return
    if about["task"] != "captioner" and text is None:
        sys.exit(f"a {about['task']} needs a text besides the image: give it after the image's name")
    if "text" in runs:
        image_embedding = runs["image"](image=image)["image_embedding"]
        text_embedding = runs["text"](tokens=tokens(text, about, vocabulary))["text_embedding"]
        print(f"similarity {float((image_embedding @ text_embedding.T)[0, 0]):.3f}")
        return
    texts = {} if about["task"] == "captioner" else {"tokens": tokens(text, about, vocabulary)}
    print(result(runs["serving_default"](image=image, **texts), about, vocabulary))


def caption_ids(runs: dict, image: np.ndarray, about: dict) -> Iterator[int]:
    """Yield the ids of a caption, from a file of form `split`."""
    step = runs["decode_step"]
    details = step.get_input_details()
    caches = {name: np.zeros(one["shape"], one["dtype"]) for name, one in details.items() if name.startswith("cache_")}
    return stream(step, runs["encode"](image=image), caches, about)


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    try:
        main(*sys.argv[1:])
    except Exception as error:  # those of zipfile and LiteRT have no common class
        sys.exit(f"{sys.argv[1]} on {sys.argv[2]}: {' '.join(str(error).split())}")
