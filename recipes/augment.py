"""Pictures as other artists, grounds and lamps would have them, in `keras.ops`: inside a model too, on any backend."""

from __future__ import annotations

from typing import Any

from keras import layers, ops, random


def changed(rgba: Any, paint: Any = 1.0, *, side: int | None = None, seed: Any = None) -> Any:
    """A batch of square pictures (with their clearness, 0 to 255) changed, each otherwise, to `side` pixels.

    `paint`: how freely colours change, one number for all or one each. At 1 skin tones can still be told apart.

    >>> tuple(changed(ops.full((2, 33, 33, 4), 255, dtype="uint8"), side=17, seed=0).shape)
    (2, 17, 17, 3)
    """
    n, given, side = ops.shape(rgba)[0], rgba.shape[1], side or rgba.shape[1]
    paint = ops.reshape(ops.cast(paint, "float32"), (-1, 1, 1, 1))
    seed = seed if isinstance(seed, random.SeedGenerator) else random.SeedGenerator(seed)

    def draw(low: float, high: float, *shape: int) -> Any:
        return random.uniform((n, *shape), low, high, seed=seed)

    def hills(steps: int, height: float) -> Any:
        return ops.image.resize(random.normal((n, steps, steps, 1), seed=seed) * height, (side, side))

    ink = 255 - ops.cast(rgba, "float32")  # ink and cover: what comes in from outside is 0, blank
    scale, aspect = ops.exp(draw(-0.1, 0.5)), ops.exp(draw(-0.15, 0.15))
    angle, shear = draw(-0.35, 0.35), draw(-0.15, 0.15)
    a, b = scale * aspect * ops.cos(angle), shear - scale * ops.sin(angle)
    d, e = scale * ops.sin(angle), scale / aspect * ops.cos(angle)
    room = 0.4 * ops.maximum(scale - 1, 0.1)
    right, down = draw(-1, 1) * room, draw(-1, 1) * room
    x = warped(ink, [a, b, right, d, e, down, draw(-0.1, 0.1), draw(-0.1, 0.1)], (given, side))
    cover = x[..., 3:]
    drawn = cover - x[..., :3]  # without its ground
    lit = ops.cast(draw(0, 1, 1, 1, 1) < 0.6, "float32")
    drawn = drawn * ops.exp(lit * hills(3, 0.1)) + lit * cover * ops.relu(hills(5, 0.1) - 0.08)
    ground = ops.where(draw(0, 1, 1, 1, 1) < 0.5, draw(0, 255, 1, 1, 3) + hills(2, 20.0), 255.0)
    x = drawn + ground * (255 - cover) / 255
    mean = ops.mean(x, (1, 2, 3), keepdims=True)
    x = (x - mean) * (1 + paint * draw(-0.15, 0.15, 1, 1, 1)) + mean * draw(0.92, 1.08, 1, 1, 1)
    grey = ops.sum(x * ops.convert_to_tensor([0.299, 0.587, 0.114]), -1, keepdims=True)
    x = (grey + (x - grey) * (1 + paint * draw(-0.15, 0.15, 1, 1, 1))) * (1 + paint * draw(-0.02, 0.02, 1, 1, 3))
    x += (ops.average_pool(x, 3, 1, "same") - x) * draw(-0.8, 1.0, 1, 1, 1)  # sharper or softer
    return ops.clip(x + random.normal(ops.shape(x), seed=seed) * draw(0, 6, 1, 1, 1), 0, 255)


def warped(x: Any, transform: list, sides: tuple[int, int]) -> Any:
    """Square pictures (n, given, given, channels) seen through a projective transform each, blank where nothing is.

    A place (u, v) of the new picture, each from -0.5 to 0.5, shows the old one's at
    (a u + b v + c, d u + e v + f) / (g u + h v + 1); pixels between four are mixed of them.

    >>> picture = ops.reshape(ops.arange(9.0), (1, 3, 3, 1))
    >>> same = [ops.full((1,), value) for value in (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0)]
    >>> bool(ops.all(warped(picture, same, (3, 3)) == picture))
    True
    """
    given, side = sides
    a, b, c, d, e, f, g, h = (ops.reshape(value, (-1, 1, 1)) for value in transform)
    line = (ops.arange(side, dtype="float32") + 0.5) / side - 0.5
    u, v = line[None, None, :], line[None, :, None]
    k = g * u + h * v + 1

    def place(value: Any) -> Any:
        return ops.clip((value + 0.5) * given + 0.5, 0, given + 1)  # in pixels, with a blank one around

    across, down = place((a * u + b * v + c) / k), place((d * u + e * v + f) / k)
    wide = given + 2
    flat = ops.reshape(ops.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]]), (-1, wide * wide, x.shape[-1]))
    left, top = ops.minimum(ops.floor(across), given), ops.minimum(ops.floor(down), given)
    right, low = (across - left)[..., None], (down - top)[..., None]
    first = ops.cast(top * wide + left, "int32")

    def corner(beside: int) -> Any:
        at = ops.reshape(first + beside, (-1, side * side, 1))
        return ops.reshape(ops.take_along_axis(flat, at, axis=1), (-1, side, side, x.shape[-1]))

    above = corner(0) * (1 - right) + corner(1) * right
    below = corner(wide) * (1 - right) + corner(wide + 1) * right
    return above * (1 - low) + below * low


class Shown(layers.Layer):
    """Numbers to pictures of a table that lies where the model does: in training changed, each time otherwise.

    `paint` as in `changed`, one for each picture; without it pictures are shown as they are.
    """

    def __init__(self, pictures: Any, side: int, paint: Any = None, seed: int = 0, **kwargs: Any):
        super().__init__(dtype="float32", autocast=False, **kwargs)
        self.side = side
        self.paint = None if paint is None else self.add_weight(shape=paint.shape, trainable=False, name="paint")
        self.table = self.add_weight(shape=pictures.shape, dtype="uint8", trainable=False, name="table")
        self.table.assign(pictures)
        if paint is not None:
            self.paint.assign(paint)
        self.seed = random.SeedGenerator(seed)

    def call(self, numbers: Any, training: bool = False) -> Any:
        x = ops.take(self.table.value, numbers, axis=0)
        if training and self.paint is not None:
            return changed(x, ops.take(self.paint.value, numbers), side=self.side, seed=self.seed)
        x = ops.cast(x[..., :3], "float32")
        return x if x.shape[1] == self.side else ops.image.resize(x, (self.side, self.side), antialias=True)

    def compute_output_shape(self, shape: tuple) -> tuple:
        return (*shape, self.side, self.side, 3)
