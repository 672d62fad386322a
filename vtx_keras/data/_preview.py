"""Examples and batches drawn: pictures with their texts on one sheet."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vtx_keras._files import whole
from vtx_keras.inputs import media
from vtx_keras.models._base import VisionText

TILE, LINES, MARGIN = 144, 3, 8


def preview(ds: Iterable, path: str | os.PathLike, model: VisionText | None = None, *, count: int = 24) -> Path:
    """Draws the first examples of a data set, or with `model` the first rows of its batches, as a PNG at `path`.

    >>> import tempfile
    >>> import tensorflow as tf
    >>> ds = tf.data.Dataset.from_tensors({"image": np.zeros((8, 8, 3), "uint8"), "caption": "a black square"})
    >>> preview(ds, tempfile.mkdtemp() + "/sheet.png").name
    'sheet.png'
    """
    tiles = []
    for element in ds:
        tiles += _rows(element, model) if isinstance(element, tuple) else [_example(element)]
        if len(tiles) >= count:
            break
    if not tiles:
        raise ValueError("there is nothing to draw: the data set is empty")
    tiles = tiles[:count]
    columns = min(len(tiles), 6)
    font = ImageFont.load_default(size=12)
    height = TILE + 16 * LINES
    size = (columns * (TILE + MARGIN) + MARGIN, math.ceil(len(tiles) / columns) * (height + MARGIN) + MARGIN)
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    for number, (pixels, words) in enumerate(tiles):
        row, column = divmod(number, columns)
        x, y = MARGIN + column * (TILE + MARGIN), MARGIN + row * (height + MARGIN)
        sheet.paste(Image.fromarray(media.resize(pixels, (TILE, TILE))), (x, y))
        draw.rectangle((x - 1, y - 1, x + TILE, y + TILE), outline="lightgrey")
        draw.multiline_text((x, y + TILE + 2), _wrapped(words, font), "black", font, spacing=2)
    with whole(path) as part:
        sheet.save(part, "PNG")
    return Path(path)


def _example(example: dict) -> tuple[np.ndarray, str]:
    picture = example["image"]
    pixels = (picture[0] if hasattr(picture, "to_tensor") else picture).numpy()  # of ragged frames, the first
    said = []
    for key in ("caption", "captions", "question", "answer", "text", "label"):
        if key in example:
            said += [
                value.decode() if isinstance(value, bytes) else str(value)
                for value in np.atleast_1d(example[key].numpy())
            ]
    return _still(pixels), " / ".join(filter(None, said))


def _rows(batch: tuple, model: VisionText | None) -> list[tuple[np.ndarray, str]]:
    inputs, labels, *_ = batch
    ids = inputs["tokens"].numpy()
    said = model.vocabulary.decode(ids) if model else ["" for _ in ids]
    names: Any = getattr(model, "class_names", None)
    if names and labels.shape.rank == 1:
        said = [f"{words} / {names[int(label)]}" for words, label in zip(said, labels.numpy(), strict=True)]
    return [(_still(pixels), words) for pixels, words in zip(inputs["image"].numpy(), said, strict=True)]


def _still(pixels: np.ndarray) -> np.ndarray:
    """The middle frame of a clip; a picture as it is."""
    pixels = pixels[len(pixels) // 2] if pixels.ndim == 4 else pixels
    return np.rint(pixels).astype("uint8")


def _wrapped(words: str, font: Any) -> str:
    lines = [""]
    for word in words.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= TILE:
            lines[-1] = longer
        else:
            lines.append(word)
    return "\n".join(lines[:LINES])
