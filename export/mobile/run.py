"""What an exported .tflite says of a picture, with LiteRT, NumPy and Pillow alone.

python run.py model.tflite photo.png                 # a captioner; of the form `split` word by word
python run.py model.tflite photo.png "is it a cat?"  # a model that also reads a text
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from pictures_and_words import companions, pixels, show, stream, tokens, told


def main(model: str, picture: str, text: str | None = None) -> None:
    about, vocabulary = companions(Path(model))
    interpreter = Interpreter(model_path=model)
    runs = {name: interpreter.get_signature_runner(name) for name in interpreter.get_signature_list()}
    image = pixels(picture, about)
    if "encode" in runs:
        show(captioned(runs, image, about), about, vocabulary)
        return
    if about["task"] != "captioner" and text is None:
        sys.exit(f"a {about['task']} reads a text beside the picture: give it behind the picture's name")
    if "text" in runs:
        seen = runs["image"](image=image)["image_embedding"]
        read = runs["text"](tokens=tokens(text, about, vocabulary))["text_embedding"]
        print(f"similarity {float((seen @ read.T)[0, 0]):.3f}")
        return
    more = {} if about["task"] == "captioner" else {"tokens": tokens(text, about, vocabulary)}
    print(told(runs["serving_default"](image=image, **more), about, vocabulary))


def captioned(runs: dict, image: np.ndarray, about: dict) -> Iterator[int]:
    """Ids one by one, from a file of the form `split`."""
    step = runs["decode_step"]
    details = step.get_input_details()
    caches = {name: np.zeros(one["shape"], one["dtype"]) for name, one in details.items() if name.startswith("cache_")}
    return stream(step, runs["encode"](image=image), caches, about)


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    try:
        main(*sys.argv[1:])
    except Exception as error:  # those of zipfile and LiteRT have no common kind
        sys.exit(f"{sys.argv[1]} on {sys.argv[2]}: {' '.join(str(error).split())}")
