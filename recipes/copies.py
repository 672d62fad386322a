"""Changed copies of pictures, as other artists, grounds and lamps would have them: arrays, made once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from vtx_keras.inputs import media
from vtx_keras.data import _pixels as pixels
from recipes.augment import changed


def with_copies(examples: tf.data.Dataset, shape: Sequence[int], copies: int, seed: int = 0) -> tf.data.Dataset:
    """Every picture or clip `copies` times: as it is, and changed; all of them ready, as arrays."""
    rows = list(examples.encoded.as_numpy_iterator())
    shown = (of_pictures if len(shape) == 3 else of_clips)(rows, shape, copies, seed)
    kept = [
        name for name in rows[0] if name not in ("image", "alpha") and len({np.shape(row[name]) for row in rows}) == 1
    ]
    columns = {name: np.concatenate([np.array([row[name] for row in rows])] * copies) for name in kept}
    return tf.data.Dataset.from_tensor_slices({"image": np.concatenate(shown), **columns})


def of_pictures(rows: Sequence[Mapping[str, Any]], shape: Sequence[int], copies: int, seed: int) -> list[np.ndarray]:
    """All pictures, then all of them changed, and again."""
    pictures = np.stack([with_clearness(row, shape[0]) for row in rows])
    draws = keras.random.SeedGenerator(seed)
    shown = [pictures[..., :3]]
    for _ in range(copies - 1):
        parts = (changed(pictures[at : at + 256], seed=draws) for at in range(0, len(pictures), 256))
        shown.append(np.concatenate([np.rint(keras.ops.convert_to_numpy(part)).astype("uint8") for part in parts]))
    return shown


def of_clips(rows: Sequence[Mapping[str, Any]], shape: Sequence[int], copies: int, seed: int) -> list[np.ndarray]:
    """All clips, then all of them cut, turned and lit otherwise, every frame of a clip alike."""
    clips = [row["image"] for row in rows]
    shown = [pixels.fitted_rows(clips, shape, "pad")]
    how = {**pixels.AUGMENT, "rotation": 15.0}
    for copy in range(1, copies):
        draw = tf.constant([seed, copy])
        cut = pixels.fitted_rows(clips, shape, "pad", pixels.windows(draw, len(clips), how["crop"]).numpy())
        unmirrored = tf.zeros(256, tf.bool)
        parts = [
            pixels.augment(tf.constant(cut[at : at + 256]), draw + at, how, flip=unmirrored[: len(cut) - at])
            for at in range(0, len(cut), 256)
        ]
        shown.append(np.concatenate([part.numpy().astype("uint8") for part in parts]))
    return shown


def with_clearness(row: Mapping[str, Any], side: int) -> np.ndarray:
    """An example's picture on white, and how clear each pixel was: (side, side, 4)."""
    clear = np.zeros((side, side), "uint8")
    if "alpha" in row:
        clear = media.resize(np.repeat(255 - media.read(row["alpha"])[..., :1], 3, -1), (side, side))[..., 0]
    return np.dstack([media.resize(media.read(row["image"]), (side, side)), clear])
