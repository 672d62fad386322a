"""Changed copies of pictures, as other artists, grounds and lamps would have them: arrays, made once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from vtx_keras import media
from vtx_keras.data import pixels


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
    tf.random.set_seed(seed)
    shown = [pictures[..., :3]]
    for _ in range(copies - 1):
        parts = (changed(pictures[at : at + 256]).numpy() for at in range(0, len(pictures), 256))
        shown.append(np.concatenate([np.rint(part).astype("uint8") for part in parts]))
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


def changed(rgba: tf.Tensor, paint: Any = 1.0) -> tf.Tensor:
    """A batch of pictures (with their clearness) as other artists, grounds and lamps would have them.

    `paint`: how freely colours change, one number for all or one each. At 1 skin tones can still be told apart.
    """
    n, side = tf.shape(rgba)[0], rgba.shape[1]
    paint = tf.reshape(tf.cast(paint, tf.float32), (-1, 1, 1, 1))

    def draw(low: float, high: float, *shape: int) -> tf.Tensor:
        return tf.random.uniform((n, *shape), low, high)

    def hills(steps: int, height: float) -> tf.Tensor:
        return tf.image.resize(tf.random.normal((n, steps, steps, 1)) * height, (side, side))

    x = 255 - tf.cast(rgba, tf.float32)  # ink and cover: what comes in from outside is 0, blank
    scale, aspect = tf.exp(draw(-0.1, 0.5)), tf.exp(draw(-0.15, 0.15))
    angle, shear = draw(-0.35, 0.35), draw(-0.15, 0.15)
    a, b = scale * aspect * tf.cos(angle), shear - scale * tf.sin(angle)
    d, e = scale * tf.sin(angle), scale / aspect * tf.cos(angle)
    centre, room = (side - 1) / 2, 0.4 * side * tf.maximum(scale - 1, 0.1)
    right, down = centre * (1 - a - b) + draw(-1, 1) * room, centre * (1 - d - e) + draw(-1, 1) * room
    lean = [draw(-0.0012, 0.0012), draw(-0.0012, 0.0012)]
    x = tf.raw_ops.ImageProjectiveTransformV3(
        images=x,
        transforms=tf.stack([a, b, right, d, e, down, *lean], axis=1),
        output_shape=(side, side),
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="CONSTANT",
    )
    cover = x[..., 3:]
    drawn = cover - x[..., :3]  # without its ground
    lit = tf.cast(draw(0, 1, 1, 1, 1) < 0.6, tf.float32)
    drawn = drawn * tf.exp(lit * hills(3, 0.1)) + lit * cover * tf.nn.relu(hills(5, 0.1) - 0.08)
    ground = tf.where(draw(0, 1, 1, 1, 1) < 0.5, draw(0, 255, 1, 1, 3) + hills(2, 20.0), 255.0)
    x = drawn + ground * (255 - cover) / 255
    mean = tf.reduce_mean(x, (1, 2, 3), keepdims=True)
    x = (x - mean) * (1 + paint * draw(-0.15, 0.15, 1, 1, 1)) + mean * draw(0.92, 1.08, 1, 1, 1)
    grey = tf.reduce_sum(x * [0.299, 0.587, 0.114], -1, keepdims=True)
    x = (grey + (x - grey) * (1 + paint * draw(-0.15, 0.15, 1, 1, 1))) * (1 + paint * draw(-0.02, 0.02, 1, 1, 3))
    x += (tf.nn.avg_pool2d(x, 3, 1, "SAME") - x) * draw(-0.8, 1.0, 1, 1, 1)  # sharper or softer
    return tf.clip_by_value(x + tf.random.normal(tf.shape(x)) * draw(0, 6, 1, 1, 1), 0, 255)
