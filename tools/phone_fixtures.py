"""Write export/mobile/fixtures/cases.json: what the phones' programs must compute, as the package computes it.

    python tools/phone_fixtures.py

The unit tests of the Android and the iOS project read the file, and tests/export/test_phones.py compares it with the
package. Pictures are smooth, as photographs are, because rounding differs by a level or two between programs.
"""

from __future__ import annotations

import base64
import io
import itertools
import json
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vtx_keras import zoo
from vtx_keras.export import _graphs as graphs
from vtx_keras.inputs import text
from vtx_keras.inputs.media import UPRIGHT, prepare

FILE = Path(__file__).parents[1] / "export/mobile/fixtures/cases.json"
SIZES = [(16, 16), (21, 13), (5, 30), (3, 5)]  # width, height
SHAPE = (8, 10, 3)
FITS = [f"{fit}{end}" for fit in ("pad", "stretch", "crop", "shortest") for end in ("", "-bicubic", "-lanczos")]
SAID = [
    "a man's t-shirt (red, 50% off)!", 'a sign that says "stop" on a "one way" street', "two dogs' bowls", "cats", "",
    "日本 の 猫", "it costs $5: #1 c\u00f4te d\u2019ivoire",
]  # fmt: skip
ASKED = [
    "Is it a CAT?", "  two\tdogs \n", "\uff23\uff21\uff34s", "what\u00ad is\u200d it", "日本の猫", "zebra cat",
    "x" * 101, "ΟΔΟΣ ΟΔΟΣ.", "\u0130 stop", "a_b a^b",
    "is is is is is is is is is is is is is is is is is is is is is is is is",
]  # fmt: skip
SPELLED = ["\u0120a", "\u0120cat", "s", "\u0120c\u00c3\u00b4te", "!"]  # pieces of GPT-2, after the special ones


def cases() -> dict[str, Any]:
    """Return the content of the file."""
    pieces = vocabulary()
    options = {
        "weights": None,
        "dim": 32,
        "depth": 1,
        "image_shape": (32, 16, 3),
        "vocabulary": pieces,
        "max_length": 24,
    }
    captioner = graphs.describe(zoo.build("cross_attn_captioner", **options), "one")
    vqa = graphs.describe(zoo.build("gated_vqa", classes=["no", "yes"], **options), "one")
    said = text.encode(SAID, pieces, 40, end=True, allow_empty=True)
    asked = text.encode(ASKED, pieces, vqa["max_length"], start=True)
    images = pictures()
    return {
        "captioner": captioner,
        "vqa": vqa,
        "vocabulary": pieces,
        "shape": SHAPE,
        "pictures": [packed(image) for image in images],
        "fits": [
            {"picture": at, "resize": fit, "pixels": encoded(prepare(image, SHAPE, fit).astype("uint8"))}
            for fit in FITS
            for at, image in enumerate(images)
        ],
        "turns": turns(),
        "words": [
            {"ids": list(map(int, ids)), "text": joined}
            for ids, joined in zip(said, text.decode(said, pieces), strict=True)
        ],
        "tokens": [{"text": one, "ids": list(map(int, ids))} for one, ids in zip(ASKED, asked, strict=True)],
        "spelled": {
            "pieces": [*text.SPECIALS, *SPELLED],
            "ids": [text.START, 5, 6, 7, 8, 9, text.END, text.PAD],
            "text": "a cats c\u00f4te!",
        },
        "zips": [
            {"method": "stored", "file": zipped(captioner, pieces, zipfile.ZIP_STORED)},
            {"method": "deflated", "file": zipped(captioner, pieces, zipfile.ZIP_DEFLATED)},
            {"method": "fixed codes", "file": fixed(zipped, captioner, pieces)},
        ],
    }


def zipped(about: dict, pieces: list[str], method: int) -> str:
    """Return a file that ends as an exported model does, after bytes that stand for the model."""
    stream = io.BytesIO(bytes(range(200)))
    with zipfile.ZipFile(stream, "a", method) as archive:
        for name, content in {"model.json": json.dumps(about), "vocabulary.txt": "\n".join(pieces) + "\n"}.items():
            entry = zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0))
            entry.compress_type = method
            archive.writestr(entry, content)
    return base64.b64encode(stream.getvalue()).decode()


def fixed(write: Any, *content: Any) -> str:
    """Return the same file with the fixed codes of DEFLATE, which zlib itself takes for the shortest texts only."""
    compressor = zlib.compressobj
    zipfile.zlib.compressobj = lambda level, method, bits: compressor(level, method, bits, 9, zlib.Z_FIXED)
    try:
        return write(*content, zipfile.ZIP_DEFLATED)
    finally:
        zipfile.zlib.compressobj = compressor


def vocabulary() -> list[str]:
    """Return the words of the cases, with the letters that spell others."""
    letters = list("abcdefghijklmnopqrstuvwxyz0123456789")
    known = text.normalize(" ".join(SAID)).split(" ")
    runs = ["".join(run) for word in known for _, run in itertools.groupby(word, str.isalnum)]
    greek = ["\u03bf\u03b4\u03bf", "##\u03c2", "##\u03c3", "i", "##\u0307"]
    spelled = ["##s", *("##" + letter for letter in letters)]
    alone = [letter for run in runs for letter in run if not letter.isascii() or not letter.isalnum()]
    return list(dict.fromkeys([*text.SPECIALS, *letters, *alone, *filter(None, runs), "cat", "dog", *greek, *spelled]))


def pictures() -> list[Image.Image]:
    """Return smooth RGBA pictures; one is opaque."""
    random = np.random.default_rng(0)
    small = [Image.fromarray(random.integers(40, 216, (4, 4, 4), "uint8"), "RGBA") for _ in SIZES]
    made = [image.resize(size, Image.Resampling.BICUBIC) for image, size in zip(small, SIZES, strict=True)]
    made[1].putalpha(255)
    return made


def packed(image: Image.Image) -> dict[str, Any]:
    """Return a picture as its size and its RGBA bytes."""
    return {"width": image.width, "height": image.height, "rgba": encoded(np.asarray(image))}


def encoded(array: np.ndarray) -> str:
    """Return bytes as text."""
    return base64.b64encode(array.tobytes()).decode()


def turns() -> list[dict[str, Any]]:
    """Return a picture of 3 x 2 numbers with its upright form for each EXIF orientation."""
    numbers = np.arange(1, 7, dtype="uint8").reshape(2, 3)
    rows = []
    for orientation in range(1, 9):
        turn, image = UPRIGHT.get(orientation), Image.fromarray(numbers)
        upright = np.asarray(image if turn is None else image.transpose(turn))
        rows.append({"orientation": orientation, "width": upright.shape[1], "numbers": upright.ravel().tolist()})
    return rows


if __name__ == "__main__":
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(json.dumps(cases(), ensure_ascii=False, indent=None, separators=(",", ":")) + "\n", "utf-8")
    print(f"{FILE.name}: {FILE.stat().st_size:,} bytes")
