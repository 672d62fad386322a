"""Augmented copies of pictures and clips as arrays in memory, made once before training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from recipes.augment import augment
from vtx_keras import data, media
from vtx_keras.data import _tensors as tensors

CHUNK = 256  # pictures or clips that are augmented in one call


def with_copies(examples: data.Examples, shape: Sequence[int], copies: int, seed: int = 0) -> tf.data.Dataset:
    """Return every example `copies` times, in memory: once as it is, then with its picture or clip augmented.

    Fields whose shape differs between examples are left out.
    """
    rows = list(examples.encoded.as_numpy_iterator())
    images = (picture_copies if len(shape) == 3 else clip_copies)(rows, shape, copies, seed)
    fields = [
        name for name in rows[0] if name not in ("image", "alpha") and len({np.shape(row[name]) for row in rows}) == 1
    ]
    columns = {name: np.concatenate([np.array([row[name] for row in rows])] * copies) for name in fields}
    return tf.data.Dataset.from_tensor_slices({"image": np.concatenate(images), **columns})


def picture_copies(rows: Sequence[Mapping[str, Any]], shape: Sequence[int], copies: int, seed: int) -> list[np.ndarray]:
    """Return all pictures as they are, then `copies - 1` arrays of them augmented."""
    pictures = np.stack([with_transparency(row, shape[0]) for row in rows])
    draws = keras.random.SeedGenerator(seed)
    arrays = [pictures[..., :3]]
    for _ in range(copies - 1):
        parts = (augment(pictures[start : start + CHUNK], seed=draws) for start in range(0, len(pictures), CHUNK))
        arrays.append(np.concatenate([np.rint(keras.ops.convert_to_numpy(part)).astype("uint8") for part in parts]))
    return arrays


def clip_copies(rows: Sequence[Mapping[str, Any]], shape: Sequence[int], copies: int, seed: int) -> list[np.ndarray]:
    """Return all clips as they are, then `copies - 1` arrays of them augmented, every frame of a clip alike."""
    clips = [row["image"] for row in rows]
    arrays = [tensors.fitted_rows(clips, shape, "pad")]
    options = {**tensors.AUGMENT, "rotation": 15.0}
    for copy in range(1, copies):
        draw = tf.constant([seed, copy])
        cut = tensors.fitted_rows(clips, shape, "pad", tensors.windows(draw, len(clips), options["crop"]).numpy())
        no_flip = tf.zeros(CHUNK, tf.bool)
        parts = [
            tensors.augment(
                tf.constant(cut[start : start + CHUNK]), draw + start, options, flip=no_flip[: len(cut) - start]
            )
            for start in range(0, len(cut), CHUNK)
        ]
        arrays.append(np.concatenate([part.numpy().astype("uint8") for part in parts]))
    return arrays


def with_transparency(row: Mapping[str, Any], side: int) -> np.ndarray:
    """Return an example's picture on white, with the transparency of each pixel as fourth channel: (side, side, 4)."""
    transparency = np.zeros((side, side), "uint8")
    if "alpha" in row:
        inverted = np.repeat(255 - media.read(row["alpha"])[..., :1], 3, -1)
        transparency = media.resize(inverted, (side, side))[..., 0]
    return np.dstack([media.resize(media.read(row["image"]), (side, side)), transparency])
