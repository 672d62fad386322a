"""Layers that published transformers have and the zoo's own models do not, and their image encoder.

>>> tokens = keras.Input((9, 8))
>>> ClassToken()(tokens).shape
(None, 10, 8)
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import keras
from keras import ops

from vtx_keras.inputs.text import END, PAD
from vtx_keras.models._base import graph
from vtx_keras.models.blocks import MLP, Attention, Block
from vtx_keras.models.layers import (
    ACTIVATIONS,
    Composite,
    Positions,
    RowDense,
    layer_norm,
    register,
)


@register
class ClassToken(keras.layers.Layer):
    """Puts a learned token in front of the others."""

    def build(self, shape: tuple) -> None:
        self.token = self.add_weight(shape=(1, 1, shape[-1]), name="token")

    def compute_output_shape(self, shape: tuple) -> tuple:
        return (shape[0], shape[1] + 1, shape[2])

    def call(self, x: Any) -> Any:  # (batch, tokens, dim) -> (batch, 1 + tokens, dim)
        return ops.concatenate([ops.cast(self.token, x.dtype) + ops.zeros_like(x[:, :1]), x], axis=1)


@register
class Padded(keras.layers.Layer):
    """Returns ids without START, padded with PAD to a fixed length, which SigLIP reads as if it were words."""

    def __init__(self, length: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.length = length

    def compute_output_spec(self, tokens: Any) -> keras.KerasTensor:
        return keras.KerasTensor((tokens.shape[0], self.length), dtype="int32")

    def call(self, tokens: Any) -> Any:  # (batch, words) -> (batch, length)
        return ops.pad(tokens[:, 1:], [[0, 0], [0, self.length]], constant_values=PAD)[:, : self.length]

    def get_config(self) -> dict:
        return {**super().get_config(), "length": self.length}


@register
class NormedPositions(keras.layers.Layer):
    """Adds positions, then norms the sum (BERT)."""

    def __init__(self, grid: tuple[int, ...], epsilon: float = 1e-12, **kwargs: Any):
        super().__init__(**kwargs)
        self.grid, self.epsilon = tuple(grid), epsilon
        self.places = Positions(self.grid, name="places", dtype=self.dtype_policy)
        self.norm = layer_norm("norm", epsilon, dtype=self.dtype_policy)

    def build(self, shape: tuple) -> None:
        self.places.build(shape)
        self.norm.build(shape)

    def compute_output_shape(self, shape: tuple) -> tuple:
        return shape

    def call(self, x: Any) -> Any:
        return self.norm(self.places(x))

    def step(self, x: Any, index: Any) -> Any:
        return self.norm(self.places.step(x, index))

    def get_config(self) -> dict:
        return {**super().get_config(), "grid": self.grid, "epsilon": self.epsilon}


@register
class WordTransform(Composite):
    """BERT's head in front of the word table: dense, activation, norm. It stands where a decoder's last norm does."""

    def __init__(self, dim: int, activation: str = "gelu", epsilon: float = 1e-12, **kwargs: Any):
        super().__init__(**kwargs)
        self.dim, self.activation, self.epsilon = dim, activation, epsilon
        self.dense = RowDense(dim, activation=ACTIVATIONS[activation], name="dense", dtype=self.dtype_policy)
        self.norm = layer_norm("norm", epsilon, dtype=self.dtype_policy)

    def parts(self) -> Iterator[tuple[keras.layers.Layer, int]]:
        yield from ((self.dense, self.dim), (self.norm, self.dim))

    def call(self, x: Any) -> Any:
        return self.norm(self.dense(x))

    def get_config(self) -> dict:
        return {**super().get_config(), "dim": self.dim, "activation": self.activation, "epsilon": self.epsilon}


@register
class ImageTokens(Composite):
    """What the fusion reads of an encoder's tokens: as they are, or projected to `dim` and, with `epsilon`, normed."""

    def __init__(self, places: int, width: int, dim: int | None = None, epsilon: float | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        self.places, self.width, self.dim, self.epsilon = places, width, dim, epsilon
        if dim:
            self.projection = RowDense(dim, name="projection", dtype=self.dtype_policy)
        if epsilon:
            self.norm = layer_norm("norm", epsilon, dtype=self.dtype_policy)

    def parts(self) -> Iterator[tuple[keras.layers.Layer, int]]:
        if self.dim:
            yield self.projection, self.width
        if self.epsilon:
            yield self.norm, self.dim or self.width

    def compute_output_shape(self, shape: tuple) -> tuple:
        return (*shape[:-1], self.dim or self.width)

    def call(self, x: Any) -> Any:  # (batch, places, width) -> (batch, places, dim or width)
        x = self.projection(x) if self.dim else x
        return self.norm(x) if self.epsilon else x

    def get_config(self) -> dict:
        config = {"places": self.places, "width": self.width, "dim": self.dim, "epsilon": self.epsilon}
        return {**super().get_config(), **config}


@register
class TokenAt(keras.layers.Layer):
    """Returns one token (batch, dim): the first of a sequence, the last, or, given ids, the one at the first END."""

    def __init__(self, place: str = "first", **kwargs: Any):
        super().__init__(**kwargs)
        self.place = place

    def compute_output_shape(self, x_shape: tuple, *_: Any) -> tuple:
        return (x_shape[0], x_shape[-1])

    def call(self, x: Any, tokens: Any = None) -> Any:
        if self.place != "end":
            return x[:, 0] if self.place == "first" else x[:, -1]
        ends = ops.cast(ops.equal(tokens, END), "int32")
        first = ops.logical_and(ops.equal(tokens, END), ops.equal(ops.cumsum(ends, axis=1), 1))  # (batch, words)
        return ops.sum(ops.where(ops.expand_dims(first, -1), x, ops.zeros_like(x)), axis=1)

    def get_config(self) -> dict:
        return {**super().get_config(), "place": self.place}


@register
class ProbePool(Composite):
    """Pools tokens (batch, dim) by the attention of a learned token to them, and an MLP with a residual (SigLIP)."""

    def __init__(self, dim: int, heads: int, hidden: int, epsilon: float, activation: str, **kwargs: Any):
        super().__init__(**kwargs)
        self.options = {"dim": dim, "heads": heads, "hidden": hidden, "epsilon": epsilon, "activation": activation}
        self.dim = dim
        self.probe = ClassToken(name="probe", dtype=self.dtype_policy)
        self.attention = Attention(dim, heads, name="attention", dtype=self.dtype_policy)
        self.norm = layer_norm("norm", epsilon, dtype=self.dtype_policy)
        self.mlp = MLP(dim, hidden, activation, name="mlp", dtype=self.dtype_policy)

    def parts(self) -> Iterator[tuple[keras.layers.Layer, int]]:
        for part in (self.probe, self.attention, self.norm, self.mlp):
            yield part, self.dim

    def compute_output_shape(self, shape: tuple) -> tuple:
        return (shape[0], self.dim)

    def call(self, x: Any) -> Any:  # (batch, tokens, dim) -> (batch, dim)
        x = self.attention(self.probe(x)[:, :1], x)  # (batch, 1, dim)
        return (x + self.mlp(self.norm(x)))[:, 0]

    def get_config(self) -> dict:
        return {**super().get_config(), **self.options}


def vit(
    size: int,
    patch: int,
    dim: int,
    heads: int,
    depth: int,
    hidden: int,
    *,
    epsilon: float,
    activation: str,
    mean: Sequence[float],
    std: Sequence[float],
    class_token: bool = True,
    first_norm: bool = False,
    patch_bias: bool = True,
    last_norm: bool = True,
) -> keras.Model:
    """Build a published vision transformer: 0-255 pixels to tokens (batch, tokens, dim), a class token in front.

    >>> half = (0.5, 0.5, 0.5)
    >>> vit(32, 16, 8, 2, 1, 16, epsilon=1e-5, activation="gelu", mean=half, std=half).output_shape
    (None, 5, 8)
    """
    patches = (size // patch) ** 2
    pixels = keras.Input((size, size, 3), name="image")
    scale, offset = [1 / (255 * s) for s in std], [-m / s for m, s in zip(mean, std, strict=True)]
    x = keras.layers.Rescaling(scale, offset, dtype="float32", name="rescale")(pixels)
    x = keras.layers.Conv2D(dim, patch, strides=patch, use_bias=patch_bias, name="patches")(x)
    x = keras.layers.Reshape((patches, dim), name="flatten")(x)  # (batch, patches, dim)
    if class_token:
        x = ClassToken(name="class")(x)
    x = Positions((patches + class_token,), name="positions")(x)
    if first_norm:
        x = layer_norm("first_norm", epsilon)(x)
    for i in range(depth):
        x = Block(dim, heads, hidden=hidden, epsilon=epsilon, activation=activation, name=f"block_{i}")(x)
    return graph(pixels, layer_norm("last_norm", epsilon)(x) if last_norm else x, "image_encoder")


def places_of(encoder: keras.Model) -> int:
    """Return the number of tokens that an image encoder gives."""
    return math.prod(encoder.output_shape[1:-1])
