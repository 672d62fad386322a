"""The layers that blocks are made of: norms, dense layers over rows, positions; and masks.

All of it is `keras.ops`. Three rules keep every graph convertible to LiteRT builtins and ONNX: no tensor of more than
five dimensions, no `slice_update` (a cache is written with `where`), no `argmax`. In shapes, dim = heads * head_dim.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

__all__ = [
    "ACTIVATIONS", "EPSILON", "MASKED", "NEVER", "Composite", "Fewer", "ImageWords", "LowRank", "Pool", "Positions",
    "RowDense", "RowNorm", "WordBias", "causal_mask", "changed", "combine_masks", "dense", "gelu", "key_mask",
    "layer_norm", "lengths", "masked_mean", "norm_of", "register", "registered_as",
]  # fmt: skip
register = keras.saving.register_keras_serializable("vtx_keras")


def registered_as(name: str) -> Callable[[type], type]:
    """Register a class under the name that saved files use: a weights file calls a layer by its class's `__name__`."""

    def decorate(cls: type) -> type:
        cls.__name__ = name
        return keras.saving.register_keras_serializable("vtx_keras", name)(cls)

    return decorate


# The logit of a masked key: finite, so that a fully masked row is not NaN, and within the range of float16.
MASKED = -3e4


def gelu(x: Any) -> Any:
    """Return the tanh form of GELU: the exact form becomes `Erfc`, which onnxruntime refuses."""
    return keras.activations.gelu(x, approximate=True)


@register
def exact_gelu(x: Any) -> Any:
    """Return GELU by the error function (BERT, ViT): `Erf` is exact in ONNX and LiteRT, where Keras makes `Erfc`."""
    return 0.5 * x * (1 + ops.erf(x * math.sqrt(0.5)))


def quick_gelu(x: Any) -> Any:
    """Return x · σ(1.702 x), the approximation of GELU that CLIP was trained with."""
    return x * ops.sigmoid(1.702 * x)


def silu(x: Any) -> Any:
    """Return x · σ(x), the activation of Llama's gated MLP."""
    return x * ops.sigmoid(x)


ACTIVATIONS = {"gelu_tanh": gelu, "gelu": exact_gelu, "quick_gelu": quick_gelu, "relu": ops.relu, "silu": silu}
EPSILON = 1e-6  # of layer norms
NEVER = -1e9  # the logit or score of what is never chosen


def layer_norm(name: str, epsilon: float = EPSILON, **kwargs: Any) -> keras.layers.Layer:
    """Create the layer norm that all layers use: a small epsilon, as in published transformers."""
    return RowNorm(epsilon=epsilon, name=name, **kwargs)


def norm_of(kind: str, name: str, epsilon: float, dtype: Any) -> keras.layers.Layer:
    """Create a norm: "layer", or "rms", which only scales (Zhang & Sennrich 2019, https://arxiv.org/abs/1910.07467)."""
    if kind == "rms":
        return keras.layers.RMSNormalization(epsilon=epsilon, name=name, dtype=dtype)
    return layer_norm(name, epsilon, dtype=dtype)


def changed(layer: Any, defaults: dict[str, Any]) -> dict[str, Any]:
    """Return the options of a layer that differ from their defaults: others stay out of its config.

    So files of before these options, and files read by versions of before them, stay readable.
    """
    return {name: getattr(layer, name) for name, default in defaults.items() if getattr(layer, name) != default}


@registered_as("LayerNormalization")
class RowNorm(keras.layers.LayerNormalization):
    """Layer normalization over the last axis, with gamma and beta, in half of the operations that Keras traces.

    Other forms (`scale=False`, `center=False`, another axis) run Keras' code. `benchmarks/first_step.py` measures both.

    >>> [round(float(one), 2) for one in RowNorm()(ops.array([[1.0, 3.0]]))[0]]
    [-1.0, 1.0]
    """

    def call(self, inputs: Any) -> Any:  # (..., dim)
        axes = [self.axis] if isinstance(self.axis, int) else list(self.axis)
        if not (self.scale and self.center) or axes not in ([-1], [len(inputs.shape) - 1]):
            return super().call(inputs)
        dtype = keras.backend.result_type(self.compute_dtype, "float32")
        x, share = ops.cast(inputs, dtype), 1 / inputs.shape[-1]  # the gradient of `ops.mean` recomputes the count
        x = x - ops.sum(x, axis=-1, keepdims=True) * share
        scale = ops.rsqrt(ops.sum(ops.square(x), axis=-1, keepdims=True) * share + self.epsilon)  # (..., 1)
        gamma, beta = ops.cast(self.gamma, dtype), ops.cast(self.beta, dtype)
        return ops.cast(x * (scale * gamma) + beta, self.compute_dtype)


def lengths(x: Any) -> tuple:
    """Return the axes of `x` between batch and dim: Python numbers where they are static, else tensors.

    >>> lengths(ops.ones((2, 3, 4, 5)))
    (3, 4)
    """
    static = tuple(x.shape[1:-1])
    return ops.shape(x)[1:-1] if None in static else static


@registered_as("Dense")
class RowDense(keras.layers.Dense):
    """A dense layer over all tokens as rows: one matrix product, where Keras traces a tensor product.

    `benchmarks/first_step.py` measures the gain.

    >>> tuple(RowDense(4)(ops.ones((2, 3, 5))).shape)
    (2, 3, 4)
    """

    def call(self, x: Any, training: bool | None = None) -> Any:  # (..., dim) -> (..., units)
        if len(x.shape) < 3:
            return super().call(x, training)
        rows = super().call(ops.reshape(x, (-1, x.shape[-1])), training)  # (batch * tokens, units)
        return ops.reshape(rows, (-1, *lengths(x), self.units))  # (batch, tokens, units)


def masked_mean(x: Any, mask: Any = None) -> Any:
    """Return the mean (batch, 1, dim) over the tokens of `x` (batch, tokens, dim) where `mask` (batch, tokens) is true.

    >>> tuple(masked_mean(ops.ones((2, 3, 4)), ops.ones((2, 3), "bool")).shape)
    (2, 1, 4)
    """
    if mask is None:
        return ops.mean(x, axis=1, keepdims=True)
    weight = ops.expand_dims(ops.cast(mask, x.dtype), -1)  # (batch, tokens, 1)
    return ops.sum(x * weight, axis=1, keepdims=True) / ops.maximum(
        ops.sum(weight, axis=1, keepdims=True), ops.cast(1, x.dtype)
    )


def causal_mask(length: Any) -> Any:
    """Return the mask (1, length, length) that shows each query the keys at or before its own position."""
    positions = ops.arange(length)
    return ops.expand_dims(positions[:, None] >= positions[None, :], 0)


def key_mask(mask: Any) -> Any:
    """Turn a padding mask (batch, keys) into an attention mask (batch, 1, keys); None stays None."""
    return None if mask is None else ops.expand_dims(mask, 1)


def combine_masks(first: Any, second: Any) -> Any:
    """Return the conjunction of two attention masks, either of which may be None."""
    if first is None or second is None:
        return second if first is None else first
    return ops.logical_and(first, second)


@register
class Positions(keras.layers.Layer):
    """Adds learned positions to tokens on a grid: (length,) of words, (rows, columns) of patches.

    There is one table per axis, and they are summed. A text may be shorter than its axis. `scale` is the standard
    deviation that the positions begin with, where it is not that of words.
    """

    def __init__(self, grid: tuple[int, ...], scale: float | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        self.grid, self.scale = tuple(grid), scale

    def compute_output_shape(self, shape: tuple) -> tuple:
        return shape

    def build(self, shape: tuple) -> None:
        normal = keras.initializers.RandomNormal
        self.axes = [
            self.add_weight(
                shape=(size, shape[-1]),
                initializer=normal(0.02) if self.scale is None else normal(stddev=self.scale),
                name=f"axis_{i}",
            )
            for i, size in enumerate(self.grid)
        ]

    def table(self) -> Any:
        """Return the positions (cells, dim) of the whole grid, row by row."""
        table = ops.convert_to_tensor(self.axes[0])
        for axis in self.axes[1:]:
            table = ops.reshape(table[:, None, :] + axis[None, :, :], (-1, axis.shape[-1]))  # (cells so far, dim)
        return ops.cast(table, self.compute_dtype)

    def call(self, x: Any) -> Any:  # (batch, tokens, dim)
        return x + self.table()[: lengths(x)[0]]

    def step(self, x: Any, index: Any) -> Any:
        """Add position `index` to tokens `x` (batch, beams, dim), which all stand there."""
        return x + ops.take(self.table(), index, axis=0)

    def get_config(self) -> dict:
        return {**super().get_config(), "grid": self.grid, **changed(self, {"scale": None})}


class Composite(keras.layers.Layer):
    """A layer made of other layers, built without tracing `call`, which JAX cannot do for texts of unknown length.

    Every part is created with this layer's own dtype policy: the global one may differ when the layer is loaded.
    """

    def parts(self) -> Iterator[tuple[keras.layers.Layer, int]]:
        """Yield each inner layer and the width of its input tokens."""
        raise NotImplementedError

    def build(self, shape: tuple) -> None:
        for part, width in self.parts():
            part.build((None, None, width))
            if not self.trainable:  # it was saved frozen, and its parts are new
                part.trainable = False

    def compute_output_shape(self, shape: tuple) -> tuple:
        return shape


@register
class LowRank(Composite):
    """A dense layer whose matrix is the product of two narrow ones: (dim, rank) and (rank, units).

    >>> layer = LowRank(6, 2)
    >>> tuple(layer(ops.ones((1, 3, 8))).shape), layer.count_params()
    ((1, 3, 6), 34)
    """

    def __init__(self, units: int, rank: int, activation: Any = None, use_bias: bool = True, **kwargs: Any):
        super().__init__(**kwargs)
        self.units, self.rank, self.activation, self.use_bias = units, rank, activation, use_bias
        self.narrow = RowDense(rank, use_bias=False, name="narrow", dtype=self.dtype_policy)
        self.wide = RowDense(units, activation, use_bias, name="wide", dtype=self.dtype_policy)

    def build(self, shape: tuple) -> None:
        self.width = shape[-1]
        super().build(shape)

    def parts(self) -> Iterator[tuple[keras.layers.Layer, int]]:
        yield from ((self.narrow, self.width), (self.wide, self.rank))

    def compute_output_shape(self, shape: tuple) -> tuple:
        return (*shape[:-1], self.units)

    def call(self, x: Any) -> Any:  # (batch, tokens, dim) -> (batch, tokens, rank) -> (batch, tokens, units)
        return self.wide(self.narrow(x))

    def get_config(self) -> dict:
        own = {"units": self.units, "rank": self.rank, "use_bias": self.use_bias}
        return {**super().get_config(), **own, "activation": keras.activations.serialize(self.activation)}


def dense(units: int, rank: int | None = None, **kwargs: Any) -> keras.layers.Layer:
    """Create a dense layer over rows, in two narrow ones if it has a `rank`."""
    return LowRank(units, rank, **kwargs) if rank else RowDense(units, **kwargs)


@register
class Pool(keras.layers.Layer):
    """Returns the mean (batch, dim) of the tokens that are not padding."""

    def compute_output_shape(self, x_shape: tuple) -> tuple:
        return (x_shape[0], x_shape[-1])

    def call(self, x: Any, keep: Any = None) -> Any:  # not `mask`, a name that Keras fills by itself
        return masked_mean(x, keep)[:, 0]


# --- what language models need beside blocks


@register
class Fewer(keras.layers.Layer):
    """Averages image tokens to `count` of them: of a grid (rows, columns) in a square, of a sequence in runs.

    A clip has as many for each frame.

    >>> tuple(Fewer((7, 7), 4)(ops.ones((1, 49, 8))).shape)
    (1, 4, 8)
    """

    def __init__(self, grid: Sequence[int], count: int, clip: bool = False, **kwargs: Any):
        super().__init__(**kwargs)
        self.grid, self.count, self.clip = tuple(grid), count, clip
        axes = self.grid[1:] if clip else self.grid
        cells = (math.isqrt(count),) * 2 if len(axes) == 2 else (count,)
        if math.prod(cells) != count:
            raise ValueError(f"image_words={count}: expected a square, for example {cells[0] ** 2}")
        self.shares = np.ones((1, 1), "float32")  # (count, places)
        for size, parts in zip(axes, cells, strict=True):
            first, last = size * np.arange(parts) // parts, -(-size * (np.arange(parts) + 1) // parts)
            within = (np.arange(size) >= first[:, None]) & (np.arange(size) < last[:, None])  # (parts, size)
            self.shares = np.kron(self.shares, within / within.sum(axis=1, keepdims=True)).astype("float32")

    def compute_output_shape(self, shape: tuple) -> tuple:
        return (shape[0], self.count * (self.grid[0] if self.clip else 1), shape[2])

    def call(self, x: Any) -> Any:  # (batch, image tokens, dim)
        count = self.compute_output_shape(x.shape)[1]
        x = ops.reshape(x, (-1, self.shares.shape[1], x.shape[2]))  # (batch * frames, places, dim)
        return ops.reshape(ops.matmul(ops.cast(self.shares, x.dtype), x), (-1, count, x.shape[2]))

    def get_config(self) -> dict:
        return {**super().get_config(), "grid": self.grid, "count": self.count, "clip": self.clip}


@register
class ImageWords(Composite):
    """Turns the mean of the image tokens into a few tokens of the text, by an MLP (ClipCap)."""

    def __init__(self, dim: int, count: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.dim, self.count = dim, count
        self.norm = layer_norm("norm", dtype=self.dtype_policy)
        self.up = keras.layers.Dense(2 * dim, activation=exact_gelu, name="up", dtype=self.dtype_policy)
        self.down = keras.layers.Dense(count * dim, name="down", dtype=self.dtype_policy)

    def parts(self) -> Iterator[tuple[keras.layers.Layer, int]]:
        yield from ((self.norm, self.dim), (self.up, self.dim), (self.down, 2 * self.dim))

    def compute_output_shape(self, shape: tuple) -> tuple:
        return (shape[0], self.count, self.dim)

    def call(self, vision: Any) -> Any:  # (batch, image tokens, dim)
        x = self.down(self.up(self.norm(masked_mean(vision))))  # (batch, 1, count * dim)
        return ops.reshape(x, (-1, self.count, self.dim))

    def get_config(self) -> dict:
        return {**super().get_config(), "dim": self.dim, "count": self.count}


@register
class WordBias(keras.layers.Layer):
    """Adds a learned number to the logit of each word, and hides the words that the checkpoint does not have.

    A checkpoint without a padding or unknown token has no logit for it: -1e9 leaves the softmax as it was.
    """

    def __init__(self, bias: bool = True, absent: Sequence[int] = (), **kwargs: Any):
        super().__init__(**kwargs)
        self.bias_used, self.absent = bias, list(absent)

    def build(self, shape: tuple) -> None:
        if self.bias_used:
            self.bias = self.add_weight(shape=(shape[-1],), initializer="zeros", name="bias")

    def compute_output_shape(self, shape: tuple) -> tuple:
        return shape

    def call(self, logits: Any) -> Any:  # (batch, words, vocabulary)
        logits = logits + self.bias if self.bias_used else logits
        return ops.where(np.isin(np.arange(logits.shape[-1]), self.absent), NEVER, logits) if self.absent else logits

    def get_config(self) -> dict:
        return {**super().get_config(), "bias": self.bias_used, "absent": self.absent}
