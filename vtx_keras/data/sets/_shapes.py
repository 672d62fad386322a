"""Build the data set shapes: the pictures of easy_vqa, each with sentences about its size, colour and shape."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from vtx_keras._files import BadArchive, read_archive
from vtx_keras.data import sets
from vtx_keras.data.sets import concepts
from vtx_keras.data.sets._builder import WORD, Builder
from vtx_keras.inputs import media

COLOURS = {
    "black": (0, 0, 0), "blue": (0, 0, 255), "brown": (165, 42, 42), "gray": (128, 128, 128), "green": (0, 255, 0),
    "red": (255, 0, 0), "teal": (0, 128, 128), "yellow": (255, 255, 0),
}  # fmt: skip
SHAPES = ("circle", "rectangle", "triangle")
SIZES = ("small", "large")
SIDE = 64  # pixels of a picture's side; others are measured in parts of it
LARGE = 22  # pixels of the longer side from which a shape is large: half of the pictures
MARGIN = 2  # pixels at the border, where a generated picture may have a frame
CONTRAST, FARTHEST = 60, 100  # distances in RGB: what stands out from the ground, and what is still a colour
IMPURE = 40  # mean distance of a shape's pixels from the mixtures of its colour and the ground
LEAST, MOST = 20, 0.5  # pixels of a shape, and its share of the picture
WHOLE, FIT = 0.9, 0.85  # its share of all that stands out, and its overlap with an ideal shape
SPREADS = {  # width and height as multiples of the standard deviation, and the height at which the centre lies
    "circle": (4.0, 4.0, 1 / 2),
    "rectangle": (12**0.5, 12**0.5, 1 / 2),
    "triangle": (24**0.5, 18**0.5, 2 / 3),
}
FINE = 4  # points per pixel's side
SENTENCES = (
    "a {size} {colour} {shape}",
    "one {shape}, {size} and {colour}",
    "a picture of a {size} {colour} {shape}",
    "the {shape} is {size} and {colour}",
    "there is a {size} {colour} {shape} in the picture",
    "a {colour} {shape}",
    "a {size} {shape}",
    "a {size} {colour} shape",
    "the shape is {colour}",
)


class Shapes(Builder):
    """Pictures of one coloured shape, with sentences."""

    FEATURES: ClassVar[dict[str, Any]] = {
        "id": WORD(),
        "image": tfds.features.Image(shape=(64, 64, 3), encoding_format="png"),
        "captions": tfds.features.Sequence(WORD()),
        "size": tfds.features.ClassLabel(names=list(SIZES)),
        "colour": tfds.features.ClassLabel(names=list(COLOURS)),
        "shape": tfds.features.ClassLabel(names=list(SHAPES)),
    }

    def examples(self) -> Iterator[tuple[str, str, dict]]:
        files = dict(read_archive(self.archive(sets.EASY_VQA), "easy_vqa/data/*/*"))
        for part in ("train", "test"):
            asked = told(json.loads(files[f"easy_vqa/data/{part}/questions.json"]))
            for number in sorted(asked):
                image_id, image = f"{part}-{number}", media.read(files[f"easy_vqa/data/{part}/images/{number}.png"])
                seen = described(image)
                if seen is None:
                    raise BadArchive(f"the picture {image_id} of easy_vqa shows no shape that can be described")
                colour, shape = (known or own for known, own in zip(asked[number], seen[1:], strict=True))
                split = "validation" if part == "train" and concepts.fraction(image_id) < 0.1 else part
                labels = {"size": seen[0], "colour": colour, "shape": shape}
                yield split, image_id, {"id": image_id, "image": image, "captions": sentences(**labels), **labels}


def sentences(size: str, colour: str, shape: str) -> list[str]:
    """Return what can be said about a picture; the first sentence says all.

    >>> sentences("small", "red", "triangle")[:2]
    ['a small red triangle', 'one triangle, small and red']
    """
    return [sentence.format(size=size, colour=colour, shape=shape) for sentence in SENTENCES]


def told(questions: Iterable[tuple[str, str, int]]) -> dict[int, tuple[str, str]]:
    """Return the colour and shape of each picture as far as its questions (text, answer, picture) tell, or "".

    >>> told([("is there not a red shape?", "no", 7), ("what color is the circle?", "blue", 8), ("a circle?", "no", 9)])
    {7: ('red', ''), 8: ('blue', 'circle'), 9: ('', '')}
    """
    words: dict[int, set[str]] = defaultdict(set)
    for question, answer, number in questions:
        asked = set(re.findall("[a-z]+", question))
        is_so = answer not in ("yes", "no") or (answer == "yes") != bool(asked & {"no", "not"})
        words[number] |= (asked if is_so else set()) | {answer}
    return {
        number: (next((one for one in COLOURS if one in found), ""), next((one for one in SHAPES if one in found), ""))
        for number, found in words.items()
    }


def described(image: np.ndarray) -> tuple[str, str, str] | None:
    """Return the size, colour and shape in a picture (64, 64, 3) of 0 to 255, or None if it does not show one shape.

    The ground is the median colour, and the shape is what differs from it by half as much as the shape's own colour, in
    one connected piece. What lies in the margin of 2 pixels counts only within 2 pixels of what lies inside. A circle
    (or ellipse), a rectangle and a triangle with the tip up are drawn with the piece's centre and spread, and the shape
    is the one that overlaps it most; if the overlap (intersection over union) is less than 0.85, it is none. It is
    large if its longer side has 22 pixels or more. Its colour is the nearest of eight; if it has several, it is none.

    >>> picture = np.full((64, 64, 3), 240)
    >>> described(picture) is None
    True
    >>> picture[10:20, 30:60] = 128
    >>> described(picture)
    ('large', 'gray', 'rectangle')
    """
    pixels = np.asarray(image, "float32")
    ground = np.median(pixels[MARGIN:-MARGIN, MARGIN:-MARGIN].reshape(-1, 3), axis=0)
    distance = np.linalg.norm(pixels - ground, axis=-1)
    least = float(CONTRAST)
    for _ in range(2):  # the second time at half of the shape's own contrast
        outstanding = _without_margin(distance > least)
        piece = _largest_piece(outstanding)
        if not max(LEAST, WHOLE * outstanding.sum()) <= piece.sum() <= MOST * piece.size:
            return None
        contrast = float(np.median(distance[piece]))
        least = contrast / 2
    own = np.median(pixels[piece], axis=0)
    colour, farness = _nearest_colour(own)
    impurity = float(_off_line(pixels[piece] - ground, own - ground).mean())
    cover = np.clip(2 * distance / contrast - 0.5, 0, 1) * _grown(piece, 1)  # steeper, because edges may be blurred
    overlap, shape, side = max(_fitted(cover, shape) for shape in SHAPES)
    if farness > FARTHEST or impurity > IMPURE or overlap < FIT:
        return None
    return SIZES[side * SIDE / max(pixels.shape[:2]) >= LARGE], colour, shape


def _without_margin(found: np.ndarray) -> np.ndarray:
    """Clear what lies in the margin and is more than MARGIN pixels from anything inside."""
    inside = np.zeros_like(found)
    inside[MARGIN:-MARGIN, MARGIN:-MARGIN] = found[MARGIN:-MARGIN, MARGIN:-MARGIN]
    return found & _grown(inside, MARGIN)


def _grown(found: np.ndarray, by: int) -> np.ndarray:
    """Add what lies within some pixels."""
    wide, (height, width) = np.pad(found, by), found.shape
    places = range(2 * by + 1)
    return np.any([wide[down : down + height, right : right + width] for down in places for right in places], axis=0)


def _largest_piece(found: np.ndarray) -> np.ndarray:
    """Return the largest set of pixels that are connected by their sides; all False if there are none."""
    names = np.pad(np.where(found, np.arange(1, found.size + 1).reshape(found.shape), 0), 1)
    middle = names[1:-1, 1:-1]
    while True:  # each pixel takes the highest name beside it
        beside = np.max([middle, names[:-2, 1:-1], names[2:, 1:-1], names[1:-1, :-2], names[1:-1, 2:]], axis=0) * found
        if (beside == middle).all():
            break
        middle[...] = beside
    sizes = np.bincount(middle.ravel())
    sizes[0] = 0
    return found & (middle == sizes.argmax())


def _nearest_colour(pixel: np.ndarray) -> tuple[str, float]:
    """Return the name of the nearest of the eight colours, and its distance."""
    distances = {name: float(np.linalg.norm(pixel - colour)) for name, colour in COLOURS.items()}
    name = min(distances, key=distances.__getitem__)
    return name, distances[name]


def _off_line(points: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Return the distances of points (n, 3) from the line through 0 and `end`."""
    along = end / np.linalg.norm(end)
    return np.linalg.norm(points - (points @ along)[:, None] * along, axis=-1)


def _fitted(cover: np.ndarray, shape: str) -> tuple[float, str, float]:
    """Return the overlap of what is covered with a shape of the same centre and spread, the shape, its longer side."""
    wide, high, centre = SPREADS[shape]
    x, width = _middle_and_side(cover.sum(axis=0), wide)
    y, height = _middle_and_side(cover.sum(axis=1), high)
    down, right = ((np.arange(FINE * side) + 0.5) / FINE for side in cover.shape)
    across, along = 2 * np.abs(right - x)[None] / width, (down - y)[:, None] / height + centre
    ideal = {
        "circle": across**2 + (2 * along - 1) ** 2 <= 1,
        "rectangle": (across <= 1) & (along >= 0) & (along <= 1),
        "triangle": (across <= along) & (along <= 1),
    }[shape]
    ideal = ideal.reshape(cover.shape[0], FINE, cover.shape[1], FINE).mean(axis=(1, 3))
    return float(np.minimum(cover, ideal).sum() / np.maximum(cover, ideal).sum()), shape, max(width, height)


def _middle_and_side(profile: np.ndarray, factor: float) -> tuple[float, float]:
    """Return the middle of a profile, and the side of a shape whose deviation is 1 / factor of its side."""
    places = np.arange(len(profile)) + 0.5
    middle = float(np.average(places, weights=profile))
    variance = float(np.average((places - middle) ** 2, weights=profile)) - 1 / 12  # a pixel's own
    return middle, factor * max(variance, 1 / 12) ** 0.5
