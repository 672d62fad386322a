"""Resizing inside a TensorFlow graph, equal to Pillow's: its arithmetic is in whole numbers, and so is this.

Pillow goes along rows, then along columns. From version 13 on it goes the other way where that is less work; there a
pixel may differ by one level.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

STRIP = 1 << 22  # pixels resized at a time
BITS = 22  # of a weight


def resize(picture: tf.Tensor, size: Sequence[int], fit: str = "pad") -> tf.Tensor:
    """uint8 (h, w, 3) at `size`, equal to what `media.resize` gives: Pillow's own arithmetic, in whole numbers.

    >>> resize(tf.zeros((20, 40, 3), tf.uint8), (4, 4)).numpy()[:, 0, 0].tolist()
    [255, 0, 0, 255]
    """
    height, width = size
    found = tf.shape(picture)

    def sized() -> tf.Tensor:
        h, w = tf.cast(found[0], tf.float64), tf.cast(found[1], tf.float64)
        zero = tf.constant(0.0, tf.float64)
        if fit == "stretch":
            return _resampled(picture, (height, zero, h), (width, zero, w))
        if fit == "crop":
            across = tf.minimum(w, width / height * h)
            down = tf.where(w / h >= width / height, h, w / (width / height))
            left, top = (w - across) / 2, (h - down) / 2
            return _resampled(picture, (height, top, top + down), (width, left, left + across))
        scale = tf.minimum(width / w, height / h)
        high, wide = (tf.maximum(1, tf.cast(side * scale + 0.5, tf.int32)) for side in (h, w))
        inner = _resampled(picture, (high, zero, h), (wide, zero, w))
        top, left = (height - high) // 2, (width - wide) // 2
        around = [[top, height - high - top], [left, width - wide - left], [0, 0]]
        return tf.pad(inner, around, constant_values=255)

    already = tf.reduce_all(found[:2] == [height, width])
    return tf.ensure_shape(tf.cond(already, lambda: picture, sized), (height, width, 3))


def _resampled(picture: tf.Tensor, rows: tuple, columns: tuple) -> tf.Tensor:
    """Each of `rows` and `columns`: how many there will be, and which stretch of those there are they come from."""
    height, width = tf.shape(picture)[0], tf.shape(picture)[1]
    across, down = _weights(width, *columns), _weights(height, *rows)

    def narrow(strip: tf.Tensor) -> tf.Tensor:
        return tf.transpose(_weighed(across, tf.transpose(strip, [1, 0, 2])), [1, 0, 2])

    strips = tf.maximum(1, height * width // STRIP)  # so that a large picture takes no more memory
    high = -(-height // strips)
    padded = tf.pad(picture, [[0, strips * high - height], [0, 0], [0, 0]])
    padded = tf.reshape(padded, [strips, high, width, 3])
    spec = tf.TensorSpec((None, None, 3), tf.uint8)
    narrowed = tf.map_fn(narrow, padded, fn_output_signature=spec, parallel_iterations=1)
    return _weighed(down, tf.reshape(narrowed, [strips * high, -1, 3])[:height])


def _weighed(weights: tf.SparseTensor, picture: tf.Tensor) -> tf.Tensor:
    """The first axis of a picture resized."""
    flat = tf.cast(tf.reshape(picture, [tf.shape(picture)[0], -1]), tf.int32)
    summed = tf.sparse.sparse_dense_matmul(weights, flat) + (1 << (BITS - 1))
    whole = tf.clip_by_value(tf.bitwise.right_shift(summed, BITS), 0, 255)
    return tf.reshape(tf.cast(whole, tf.uint8), [-1, tf.shape(picture)[1], 3])


def _weights(length: tf.Tensor, size: Any, low: tf.Tensor, high: tf.Tensor) -> tf.SparseTensor:
    """The matrix (size, length) that resizes: a triangle on each centre, widened to shrink, summing to 1 << BITS."""
    # Pillow keeps the ends of the stretch in single precision, and reckons in double.
    low, high = (tf.cast(tf.cast(side, tf.float32), tf.float64) for side in (low, high))
    scale = (high - low) / tf.cast(size, tf.float64)
    reach = tf.maximum(scale, 1.0)
    centres = low + (tf.cast(tf.range(size), tf.float64) + 0.5) * scale
    first = tf.maximum(tf.cast(centres - reach + 0.5, tf.int32), 0)
    last = tf.minimum(tf.cast(centres + reach + 0.5, tf.int32), length)
    at = first[:, None] + tf.range(tf.cast(tf.math.ceil(reach), tf.int32) * 2 + 1)
    distance = tf.abs((tf.cast(at, tf.float64) - centres[:, None] + 0.5) * (1.0 / reach))
    weights = tf.where(at < last[:, None], tf.maximum(1.0 - distance, 0.0), 0.0)
    weights /= tf.reduce_sum(weights, axis=1, keepdims=True)
    whole = tf.cast(weights * (1 << BITS) + 0.5, tf.int32)
    places = tf.stack([tf.broadcast_to(tf.range(size)[:, None], tf.shape(at)), tf.minimum(at, length - 1)], axis=-1)
    shape = tf.cast(tf.stack([size, length]), tf.int64)
    return tf.SparseTensor(tf.cast(tf.reshape(places, [-1, 2]), tf.int64), tf.reshape(whole, [-1]), shape)
