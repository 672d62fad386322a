"""Layers over feature maps: conditioned on a vector or on words, over the frames of a clip, halved.

Maps are (batch, h, w, channels); of clips the frames are rows, (batch * frames, h, w, channels).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
from keras import layers, ops

from vtx_keras.models.blocks import Attention
from vtx_keras.models.fusion import Gate
from vtx_keras.models.layers import Composite, layer_norm, register

__all__ = ["Affine", "Clip", "EachFrame", "Gating", "OverTime", "OverWords", "Shrink", "leaky"]
SLOPE = 0.2  # of leaky ReLU below 0


@register
def leaky(x: Any) -> Any:
    """Return leaky ReLU of x, the activation of both halves.

    >>> round(float(leaky(ops.array(-1.0))), 1)
    -0.2
    """
    return ops.leaky_relu(x, SLOPE)


class Conditioning(Composite):
    """A layer that changes a map (batch, h, w, channels) by a condition (batch, dim)."""

    def __init__(self, channels: int, dim: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.channels, self.dim = channels, dim

    def compute_output_shape(self, x_shape: tuple, condition_shape: tuple) -> tuple:  # type: ignore[override]
        del condition_shape
        return x_shape

    def get_config(self) -> dict:
        return {**super().get_config(), "channels": self.channels, "dim": self.dim}


@register
class Affine(Conditioning):
    """Scales and shifts each channel by what is read from the condition: x · (1 + γ) + β."""

    def __init__(self, channels: int, dim: int, **kwargs: Any):
        super().__init__(channels, dim, **kwargs)
        self.both = layers.Dense(2 * channels, name="both", dtype=self.dtype_policy)

    def parts(self) -> Iterator[tuple[keras.layers.Layer, int]]:
        yield self.both, self.dim

    def call(self, x: Any, condition: Any) -> Any:
        scale, shift = ops.split(self.both(condition)[:, None, None], 2, axis=-1)  # each (batch, 1, 1, channels)
        return x * (1 + scale) + shift


@register
class Gating(Conditioning):
    """Gates each cell by the condition, as a GRU gates its state by what it reads."""

    def __init__(self, channels: int, dim: int, **kwargs: Any):
        super().__init__(channels, dim, **kwargs)
        self.narrowed = layers.Dense(channels, name="narrowed", dtype=self.dtype_policy)
        self.gate = Gate(channels, name="gate", dtype=self.dtype_policy)

    def parts(self) -> Iterator[tuple[keras.layers.Layer, int]]:
        yield from ((self.narrowed, self.dim), (self.gate, self.channels))

    def call(self, x: Any, condition: Any) -> Any:
        cells = ops.reshape(x, (-1, x.shape[1] * x.shape[2], self.channels))  # (batch, h * w, channels)
        gated = self.gate(cells, self.narrowed(condition)[:, None])
        return ops.reshape(gated, (-1, *x.shape[1:]))


@register
class OverWords(Composite):
    """Attends from each cell of a map (batch, h, w, channels) over the words (batch, words, dim) of its text.

    Of a clip each frame is a row, so the words of a text serve `frames` rows.
    """

    def __init__(self, channels: int, dim: int, frames: int = 1, **kwargs: Any):
        super().__init__(**kwargs)
        self.channels, self.dim, self.frames = channels, dim, frames
        self.norm = layer_norm("norm", dtype=self.dtype_policy)
        heads = max(1, channels // 64)
        self.attention = Attention(channels, heads, dim, name="attention", dtype=self.dtype_policy)

    def parts(self) -> Iterator[tuple[keras.layers.Layer, int]]:
        yield from ((self.norm, self.channels), (self.attention, self.channels))

    def compute_output_shape(self, x_shape: tuple, words_shape: tuple, keep_shape: tuple) -> tuple:  # type: ignore[override]
        del words_shape, keep_shape
        return x_shape

    def read(self, x: Any, words: Any, keep: Any) -> tuple[Any, Any, Any]:
        """Return queries (batch, h * w, channels), words, and their mask (batch, 1, words), for each row."""
        cells = ops.reshape(x, (-1, x.shape[1] * x.shape[2], self.channels))
        if self.frames > 1:
            words, keep = ops.repeat(words, self.frames, axis=0), ops.repeat(keep, self.frames, axis=0)
        return self.norm(cells), words, ops.expand_dims(keep, 1)

    def call(self, x: Any, words: Any, keep: Any) -> Any:
        return x + ops.reshape(self.attention(*self.read(x, words, keep)), (-1, *x.shape[1:]))

    def weights_of(self, x: Any, words: Any, keep: Any) -> Any:
        """Return the attention weights (batch, heads, cells, words) that `call` computes."""
        return self.attention.weights_between(*self.read(x, words, keep))

    def get_config(self) -> dict:
        return {**super().get_config(), "channels": self.channels, "dim": self.dim, "frames": self.frames}


# --- clips: the frames of a clip are rows, and exchange what they hold


@register
class EachFrame(keras.layers.Layer):
    """Repeats each row for every frame of its clip; with `placed`, a learned vector is added that tells the frame."""

    def __init__(self, frames: int, placed: bool = False, **kwargs: Any):
        super().__init__(**kwargs)
        self.frames, self.placed = frames, placed

    def build(self, shape: tuple) -> None:
        if self.placed:
            self.places = self.add_weight(shape=(self.frames, shape[-1]), initializer="random_normal", name="places")

    def compute_output_shape(self, shape: tuple) -> tuple:
        return (None if shape[0] is None else shape[0] * self.frames, *shape[1:])

    def call(self, x: Any) -> Any:
        repeated = ops.reshape(ops.repeat(x[:, None], self.frames, axis=1), (-1, self.frames, *x.shape[1:]))
        repeated = repeated + ops.cast(self.places, x.dtype) if self.placed else repeated
        return ops.reshape(repeated, (-1, *x.shape[1:]))

    def get_config(self) -> dict:
        return {**super().get_config(), "frames": self.frames, "placed": self.placed}


@register
class OverTime(keras.layers.Layer):
    """Adds to each cell a convolution over the same cell of the frames before and after."""

    def __init__(self, frames: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.frames = frames

    def build(self, shape: tuple) -> None:
        self.conv = layers.Conv1D(shape[-1], 3, padding="same", name="conv", dtype=self.dtype_policy)
        self.conv.build((None, self.frames, shape[-1]))

    def compute_output_shape(self, shape: tuple) -> tuple:
        return shape

    def call(self, x: Any) -> Any:  # (batch * frames, h, w, channels)
        cells, count = x.shape[1] * x.shape[2], x.shape[3]
        lines = ops.transpose(ops.reshape(x, (-1, self.frames, cells, count)), (0, 2, 1, 3))
        mixed = self.conv(ops.reshape(leaky(lines), (-1, self.frames, count)))  # (batch * cells, frames, channels)
        mixed = ops.transpose(ops.reshape(mixed, (-1, cells, self.frames, count)), (0, 2, 1, 3))
        return x + ops.reshape(mixed, (-1, *x.shape[1:]))

    def get_config(self) -> dict:
        return {**super().get_config(), "frames": self.frames}


@register
class Clip(keras.layers.Layer):
    """Makes the frames of a clip an axis: (batch * frames, h, w, 3) to (batch, frames, h, w, 3)."""

    def __init__(self, frames: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.frames = frames

    def compute_output_shape(self, shape: tuple) -> tuple:
        return (None if shape[0] is None else shape[0] // self.frames, self.frames, *shape[1:])

    def call(self, x: Any) -> Any:
        return ops.reshape(x, (-1, self.frames, *x.shape[1:]))

    def get_config(self) -> dict:
        return {**super().get_config(), "frames": self.frames}


@register
class Shrink(keras.layers.Layer):
    """Halves a map: two convolutions and, past them, an average and a change of width; their sum keeps its variance."""

    def __init__(self, channels: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.channels = channels
        more = {"dtype": self.dtype_policy, "padding": "same"}
        self.first = layers.Conv2D(channels, 4, strides=2, name="first", **more)
        self.second = layers.Conv2D(channels, 3, name="second", **more)
        self.skip = layers.Conv2D(channels, 1, use_bias=False, name="skip", **more)
        self.halved = layers.AveragePooling2D(2, name="halved", dtype=self.dtype_policy)

    def build(self, shape: tuple) -> None:
        self.first.build(shape)
        half = self.compute_output_shape(shape)
        self.second.build(half)
        self.skip.build((*half[:3], shape[3]))

    def compute_output_shape(self, shape: tuple) -> tuple:
        return (shape[0], shape[1] // 2, shape[2] // 2, self.channels)

    def call(self, x: Any) -> Any:
        changed = self.second(leaky(self.first(leaky(x))))
        return (changed + self.skip(self.halved(x))) * 0.5**0.5

    def get_config(self) -> dict:
        return {**super().get_config(), "channels": self.channels}
