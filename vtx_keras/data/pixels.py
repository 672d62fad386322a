"""Pictures inside tf.data: decoded, fitted and augmented as `media` does it, to one level of 255.

What TensorFlow decodes just as Pillow does (a plain JPEG or PNG) it decodes itself, and only the part that is wanted;
everything else (a turned, CMYK, 16-bit or palette picture, a WebP, a GIF ...) goes through `media.read`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from vtx_keras import media

AUGMENT = {
    "crop": 0.3,  # at most this share of the area is cut away
    "flip": False,  # half of the pictures mirrored, but none whose text says left or right
    "rotation": 8.0,  # degrees, at most, either way
    "colour": 0.2,  # change of brightness, contrast and saturation, at most
    "background": 0.0,  # share of the pictures with transparency ("alpha") that are laid on a random colour
    "words": 0.0,  # share of the input words hidden behind [MASK]
    "synonyms": 0.0,  # share of the texts replaced by one of the example's "keywords"; not for captioners
}


def decode(data: tf.Tensor, window: tf.Tensor | None = None) -> tf.Tensor:
    """Encoded bytes to uint8 (h, w, 3) by the project's rule; `window` (y, x, h, w) cuts, and a JPEG decodes no more.

    >>> import io
    >>> from PIL import Image
    >>> file = io.BytesIO()
    >>> Image.new("RGB", (4, 2), "red").save(file, "PNG")
    >>> decode(tf.constant(file.getvalue())).numpy()[0, 0].tolist()
    [255, 0, 0]
    """
    return _decoded(data, header(data), window)


def header(data: tf.Tensor) -> tf.Tensor:
    """(kind, height, width) of encoded bytes: kind 1 is a plain JPEG, 2 a plain PNG, 0 anything else."""
    return tf.ensure_shape(_by_python(lambda one: np.array(media.header(one), "int32"), data, tf.int32), (3,))


def _by_python(function: Callable[[bytes], np.ndarray], data: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    def run(one: Any) -> np.ndarray:
        return function(one if isinstance(one, bytes) else one.item())  # outside a graph it comes in an array

    return tf.numpy_function(run, [data], dtype, stateful=False)


def _decoded(data: tf.Tensor, head: tf.Tensor, window: tf.Tensor | None) -> tf.Tensor:
    def cut(picture: tf.Tensor) -> tf.Tensor:
        return picture if window is None else tf.slice(picture, [window[0], window[1], 0], [window[2], window[3], -1])

    def jpeg() -> tf.Tensor:
        exact = {"channels": 3, "dct_method": "INTEGER_ACCURATE"}
        if window is None:
            return tf.io.decode_jpeg(data, **exact)
        return tf.io.decode_and_crop_jpeg(data, window, **exact)

    def png() -> tf.Tensor:
        picture = tf.cast(cut(tf.io.decode_png(data, channels=4)), tf.int32)
        return on_colour(picture[..., :3], picture[..., 3:], tf.constant([255, 255, 255]))

    def other() -> tf.Tensor:
        return cut(tf.ensure_shape(_by_python(media.read, data, tf.uint8), (None, None, 3)))

    picture = tf.switch_case(head[0], [other, jpeg, png])
    return tf.ensure_shape(picture, (None, None, 3))


def on_colour(picture: tf.Tensor, alpha: tf.Tensor, colour: tf.Tensor) -> tf.Tensor:
    """RGB with its transparency laid on a colour, rounded as Pillow rounds."""
    mixed = tf.cast(picture, tf.int32) * tf.cast(alpha, tf.int32) + colour * (255 - tf.cast(alpha, tf.int32)) + 128
    return tf.cast(((mixed // 256) + mixed) // 256, tf.uint8)


def resize(picture: tf.Tensor, size: Sequence[int], fit: str) -> tf.Tensor:
    """uint8 (h, w, 3) or (frames, h, w, 3) at `size`, as `media.resize` does it, to one level.

    >>> resize(tf.zeros((20, 40, 3), tf.uint8), (4, 4), "pad").numpy()[:, 0, 0].tolist()
    [255, 0, 0, 255]
    """
    height, width = size
    found = tf.shape(picture)[-3:-1]
    rank = picture.shape.rank

    def sized() -> tf.Tensor:
        shape = tf.cast(found, tf.float32)
        goal = tf.constant([height, width], tf.float32)
        scale = goal / shape
        if fit == "stretch":
            return _rounded(tf.image.resize(picture, (height, width), antialias=True))
        if fit == "crop":
            even = tf.repeat(tf.reduce_max(scale), 2)
            return _scaled(picture, (height, width), even, (goal - shape * even) / 2)
        inner = tf.maximum(1, tf.cast(tf.floor(shape * tf.reduce_min(scale) + 0.5), tf.int32))
        drawn = _rounded(tf.image.resize(picture, inner, antialias=True))
        before = ([height, width] - inner) // 2
        pads = tf.stack([before, [height, width] - inner - before], axis=1)
        pads = tf.concat([tf.zeros((rank - 3, 2), tf.int32), pads, tf.zeros((1, 2), tf.int32)], axis=0)
        return tf.pad(drawn, pads, constant_values=255)

    already = tf.reduce_all(found == [height, width])
    return tf.ensure_shape(tf.cond(already, lambda: picture, sized), (*picture.shape[:-3], height, width, 3))


def _rounded(picture: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.clip_by_value(tf.floor(picture + 0.5), 0, 255), tf.uint8)


def _scaled(picture: tf.Tensor, size: tuple[int, int], scale: tf.Tensor, shift: tf.Tensor) -> tf.Tensor:
    batch = tf.cast(picture if picture.shape.rank == 4 else picture[None], tf.float32)
    drawn = _rounded(
        tf.raw_ops.ScaleAndTranslate(
            images=batch, size=size, scale=scale, translation=shift, kernel_type="triangle", antialias=True
        )
    )
    return drawn if picture.shape.rank == 4 else drawn[0]


def random_window(head: tf.Tensor, seed: tf.Tensor, most: float) -> tf.Tensor:
    """(y, x, h, w) of a random part of a picture that leaves out at most the share `most` of its area."""
    sides = tf.cast(head[1:], tf.float32)
    area, aspect, y, x = tf.unstack(tf.random.stateless_uniform([4], seed))
    stretch = tf.exp((aspect - 0.5) * most)  # a cut that leaves much out may also change the aspect
    part = tf.sqrt(1 - area * most) * tf.stack([stretch, 1 / stretch])
    cut = tf.clip_by_value(tf.round(sides * tf.minimum(part, 1.0)), 1, sides)
    return tf.cast(tf.concat([tf.floor((sides - cut + 1) * tf.stack([y, x]) * 0.999999), cut], 0), tf.int32)


def augment(
    picture: tf.Tensor, seed: tf.Tensor, how: dict[str, Any], *, flip: tf.Tensor, clear: tf.Tensor | None = None
) -> tf.Tensor:
    """A picture or clip of uint8 changed at random, as float32 of whole numbers; `how` as in AUGMENT.

    A clip's frames all change alike. `flip` says whether mirroring is allowed. `clear` is how transparent each pixel
    of the picture was before it was laid on white (255: wholly); with it the ground may be another colour.
    """
    draws = tf.random.stateless_uniform([9], seed)
    x = tf.cast(picture if picture.shape.rank == 4 else picture[None], tf.float32)
    if clear is not None:
        x = tf.concat([x, tf.cast(clear[None], tf.float32)], axis=-1)
    if how["rotation"] or how["flip"]:
        mirrored = tf.logical_and(flip, draws[1] < 0.5) if how["flip"] else tf.constant(False)
        x = _turned(x, (draws[2] * 2 - 1) * how["rotation"] * np.pi / 180, mirrored)
    if clear is not None:
        # On white it is p = a·c + (1 - a)·255, so another ground only changes the second part.
        ground = tf.where(draws[0] < how["background"], draws[6:9] * 255, 255.0)
        x = x[..., :3] + (ground - 255) * x[..., 3:] / 255
    if how["colour"]:
        light, contrast, saturation = tf.unstack(1 + (draws[3:6] * 2 - 1) * how["colour"])
        mean = tf.reduce_mean(x)
        x = (x - mean) * contrast + mean * light
        grey = tf.reduce_sum(x * [0.299, 0.587, 0.114], axis=-1, keepdims=True)
        x = grey + (x - grey) * saturation
    x = tf.round(tf.clip_by_value(x, 0, 255))
    return tf.ensure_shape(x if picture.shape.rank == 4 else x[0], picture.shape)


def _turned(x: tf.Tensor, angle: tf.Tensor, mirrored: tf.Tensor) -> tf.Tensor:
    """Rotated about the centre and perhaps mirrored, on white."""
    height, width = x.shape[1] - 1.0, x.shape[2] - 1.0
    cos, sin = tf.cos(angle), tf.sin(angle)
    side = tf.where(mirrored, -1.0, 1.0)
    a, b, d, e = cos * side, -sin, sin * side, cos
    shift_x = (width - a * width - b * height) / 2
    shift_y = (height - d * width - e * height) / 2
    matrix = tf.stack([a, b, shift_x, d, e, shift_y, 0.0, 0.0])
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=x,
        transforms=tf.repeat(matrix[None], tf.shape(x)[0], axis=0),
        output_shape=tf.shape(x)[1:3],
        fill_value=255.0,
        interpolation="BILINEAR",
        fill_mode="CONSTANT",
    )
