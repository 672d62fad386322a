"""Build the data set exercises: clips of rendered people exercising, as drawn or with the worked muscle in gray."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from vtx_keras.data import sets
from vtx_keras.data.sets._builder import WORD, Builder
from vtx_keras.data.sets._emoji import _png
from vtx_keras.inputs import media

FRAMES, SIDE = 8, 96
COLUMNS = ("clip", "name", "body_part", "equipment", "target", "instructions", "split")
VERSION = r"\s*\bv\. ?\d+|\s*\(version [^)]*\)|\s*\((fe)?male\)|(?<=\)) (fe)?male$"


class Exercises(Builder):
    """Clips of exercises; the clip is the field `image`, as in every model of the zoo."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = sets.SETS["exercises"].by_hand.format(folder="the manual directory")
    BUILDER_CONFIGS: ClassVar[list] = [
        tfds.core.BuilderConfig(name="plain", description="The worked muscle, drawn in red, is as gray as the others."),
        tfds.core.BuilderConfig(name="coloured", description="The worked muscle is red, which gives the target away."),
    ]
    FEATURES: ClassVar[dict[str, Any]] = {
        "id": WORD(),
        "image": tfds.features.Video(shape=(FRAMES, SIDE, SIDE, 3), encoding_format="png"),
        "caption": WORD(),
        "concept": WORD(),
        "body_part": WORD(),
        "equipment": WORD(),
        "target": WORD(),
        "text": WORD(),
    }

    def examples(self) -> Iterator[tuple[str, str, dict]]:
        change = recoloured if self.builder_config.name == "plain" else np.asarray
        for path, row in self.rows_by_hand("exercises.csv", "clips", COLUMNS):
            frames = (media.resize(frame, (SIDE, SIDE)) for frame in media.read_clip(path, FRAMES))
            example = {
                "id": path.stem,
                "image": [_png(change(frame)) for frame in frames],
                "caption": row["name"],
                "concept": concept(row["name"]),
                "text": row["instructions"],
                **{column: row[column] for column in ("body_part", "equipment", "target")},
            }
            yield row["split"], path.stem, example


def recoloured(frame: np.ndarray) -> np.ndarray:
    """Return a frame (h, w, 3) in gray, each pixel as light as its lightest channel.

    In red that is the red channel, which the paint on the worked muscle leaves as the shading of the body was. Their
    mean would show the muscle as a dark spot.

    >>> recoloured(np.array([[[230, 70, 60], [90, 90, 90]]], "uint8")).tolist()
    [[[230, 230, 230], [90, 90, 90]]]
    """
    return np.repeat(frame.max(axis=-1, keepdims=True), 3, axis=-1)


def concept(name: str) -> str:
    """Return the name without the version or the sex of the figure: such exercises are in one split.

    >>> concept("high jump (rope) v. 2"), concept("long jump v. 2 (male)")
    ('high jump (rope)', 'long jump')
    """
    return re.sub(VERSION, "", name).strip(" -")
