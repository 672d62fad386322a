"""Augment pictures in `keras.ops`: other shapes, colours, grounds and light. Runs inside a model, on any backend."""

from __future__ import annotations

from typing import Any

from keras import layers, ops, random


def augment(rgba: Any, colour: Any = 1.0, *, side: int | None = None, seed: Any = None) -> Any:
    """Augment each picture of a batch with its own random draws, and resize it to `side` pixels.

    Pictures are square; the fourth channel is their transparency, 0 to 255 (0: opaque). `colour` scales how much
    colours change, one number for all pictures or one for each. At 1 skin tones can still be told apart.

    >>> tuple(augment(ops.full((2, 33, 33, 4), 255, dtype="uint8"), side=17, seed=0).shape)
    (2, 17, 17, 3)
    """
    n, size, side = ops.shape(rgba)[0], rgba.shape[1], side or rgba.shape[1]
    colour = ops.reshape(ops.cast(colour, "float32"), (-1, 1, 1, 1))
    seed = seed if isinstance(seed, random.SeedGenerator) else random.SeedGenerator(seed)

    def draw(low: float, high: float, *shape: int) -> Any:
        return random.uniform((n, *shape), low, high, seed=seed)

    def smooth_noise(steps: int, height: float) -> Any:
        return ops.image.resize(random.normal((n, steps, steps, 1), seed=seed) * height, (side, side))

    ink = 255 - ops.cast(rgba, "float32")  # ink and opacity: 0 is blank, which is what comes in from outside
    scale, aspect = ops.exp(draw(-0.1, 0.5)), ops.exp(draw(-0.15, 0.15))
    angle, shear = draw(-0.35, 0.35), draw(-0.15, 0.15)
    a, b = scale * aspect * ops.cos(angle), shear - scale * ops.sin(angle)
    d, e = scale * ops.sin(angle), scale / aspect * ops.cos(angle)
    room = 0.4 * ops.maximum(scale - 1, 0.1)
    right, down = draw(-1, 1) * room, draw(-1, 1) * room
    x = warp(ink, [a, b, right, d, e, down, draw(-0.1, 0.1), draw(-0.1, 0.1)], (size, side))  # (batch, side, side, 4)
    opacity = x[..., 3:]
    drawing = opacity - x[..., :3]  # without its ground
    lit = ops.cast(draw(0, 1, 1, 1, 1) < 0.6, "float32")
    drawing = drawing * ops.exp(lit * smooth_noise(3, 0.1)) + lit * opacity * ops.relu(smooth_noise(5, 0.1) - 0.08)
    ground = ops.where(draw(0, 1, 1, 1, 1) < 0.5, draw(0, 255, 1, 1, 3) + smooth_noise(2, 20.0), 255.0)
    x = drawing + ground * (255 - opacity) / 255  # (batch, side, side, 3)
    mean = ops.mean(x, (1, 2, 3), keepdims=True)
    x = (x - mean) * (1 + colour * draw(-0.15, 0.15, 1, 1, 1)) + mean * draw(0.92, 1.08, 1, 1, 1)
    grey = ops.sum(x * ops.convert_to_tensor([0.299, 0.587, 0.114]), -1, keepdims=True)
    x = (grey + (x - grey) * (1 + colour * draw(-0.15, 0.15, 1, 1, 1))) * (1 + colour * draw(-0.02, 0.02, 1, 1, 3))
    x += (ops.average_pool(x, 3, 1, "same") - x) * draw(-0.8, 1.0, 1, 1, 1)  # sharper or softer
    return ops.clip(x + random.normal(ops.shape(x), seed=seed) * draw(0, 6, 1, 1, 1), 0, 255)


def warp(x: Any, transform: list, sides: tuple[int, int]) -> Any:
    """Transform square pictures (n, size, size, channels) by one projective transform each; `sides` is (size, side).

    The pixel at (u, v) of the new picture, both from -0.5 to 0.5, is the old picture at
    (a u + b v + c, d u + e v + f) / (g u + h v + 1), interpolated between four pixels, and 0 outside.

    >>> picture = ops.reshape(ops.arange(9.0), (1, 3, 3, 1))
    >>> identity = [ops.full((1,), value) for value in (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0)]
    >>> bool(ops.all(warp(picture, identity, (3, 3)) == picture))
    True
    """
    size, side = sides
    a, b, c, d, e, f, g, h = (ops.reshape(value, (-1, 1, 1)) for value in transform)
    line = (ops.arange(side, dtype="float32") + 0.5) / side - 0.5
    u, v = line[None, None, :], line[None, :, None]
    k = g * u + h * v + 1

    def to_pixels(value: Any) -> Any:
        return ops.clip((value + 0.5) * size + 0.5, 0, size + 1)  # there is a blank pixel on each side

    across, down = to_pixels((a * u + b * v + c) / k), to_pixels((d * u + e * v + f) / k)  # (batch, side, side)
    wide = size + 2
    flat = ops.reshape(ops.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]]), (-1, wide * wide, x.shape[-1]))
    left, top = ops.minimum(ops.floor(across), size), ops.minimum(ops.floor(down), size)
    right, low = (across - left)[..., None], (down - top)[..., None]
    first = ops.cast(top * wide + left, "int32")

    def corner(offset: int) -> Any:
        index = ops.reshape(first + offset, (-1, side * side, 1))
        return ops.reshape(ops.take_along_axis(flat, index, axis=1), (-1, side, side, x.shape[-1]))

    above = corner(0) * (1 - right) + corner(1) * right
    below = corner(wide) * (1 - right) + corner(wide + 1) * right
    return above * (1 - low) + below * low


class Pictures(layers.Layer):
    """Look pictures up by number in a table on the model's device; in training each is augmented anew.

    `colour` holds a number for each picture, as in `augment`; without it nothing is augmented.
    """

    def __init__(self, pictures: Any, side: int, colour: Any = None, seed: int = 0, **kwargs: Any):
        super().__init__(dtype="float32", autocast=False, **kwargs)
        self.side = side
        self.colour = None if colour is None else self.add_weight(shape=colour.shape, trainable=False, name="colour")
        self.table = self.add_weight(shape=pictures.shape, dtype="uint8", trainable=False, name="table")
        self.table.assign(pictures)
        if colour is not None:
            self.colour.assign(colour)
        self.seed = random.SeedGenerator(seed)

    def call(self, numbers: Any, training: bool = False) -> Any:  # (batch,) -> (batch, side, side, 3)
        x = ops.take(self.table.value, numbers, axis=0)
        if training and self.colour is not None:
            return augment(x, ops.take(self.colour.value, numbers), side=self.side, seed=self.seed)
        x = ops.cast(x[..., :3], "float32")
        return x if x.shape[1] == self.side else ops.image.resize(x, (self.side, self.side), antialias=True)

    def compute_output_shape(self, shape: tuple) -> tuple:
        return (*shape, self.side, self.side, 3)
