"""The layers that own weights: attention with reusable keys and values, the transformer block, positions.

All of it is `keras.ops`. Three rules keep every graph convertible to LiteRT builtins and ONNX: no tensor of more than
five dimensions, no `slice_update` (a cache is written with `where`), no `argmax`. In shapes, dim = heads * head_dim.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import keras
from keras import ops

__all__ = [
    "ACTIVATIONS", "MASKED", "MLP", "Attention", "Block", "Composite", "Pool", "Positions", "RowDense", "RowNorm",
    "causal_mask", "changed", "combine_masks", "gelu", "key_mask", "layer_norm", "lengths", "masked_mean", "register",
    "registered_as",
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


ACTIVATIONS = {"gelu_tanh": gelu, "gelu": exact_gelu, "quick_gelu": quick_gelu, "relu": ops.relu}
EPSILON = 1e-6  # of layer norms


def layer_norm(name: str, epsilon: float = EPSILON, **kwargs: Any) -> keras.layers.Layer:
    """Create the layer norm that all layers use: a small epsilon, as in published transformers."""
    return RowNorm(epsilon=epsilon, name=name, **kwargs)


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

    There is one table per axis, and they are summed. A text may be shorter than its axis.
    """

    def __init__(self, grid: tuple[int, ...], **kwargs: Any):
        super().__init__(**kwargs)
        self.grid = tuple(grid)

    def compute_output_shape(self, shape: tuple) -> tuple:
        return shape

    def build(self, shape: tuple) -> None:
        self.axes = [
            self.add_weight(
                shape=(size, shape[-1]), initializer=keras.initializers.RandomNormal(0.02), name=f"axis_{i}"
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
        return {**super().get_config(), "grid": self.grid}


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
class Attention(Composite):
    """Multi-head attention in two halves, so that keys and values can be computed once and used many times.

    Keys are (batch, heads, head_dim, keys) and values (batch, heads, keys, head_dim): each is the right-hand side of a
    plain matrix product, in training and in every decoding step. The context may have another width, `context_dim`.
    """

    def __init__(self, dim: int, heads: int, context_dim: int | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        self.dim, self.heads, self.context_dim = dim, heads, context_dim
        self.query = RowDense(dim, name="query", dtype=self.dtype_policy)
        self.key_value = RowDense(2 * dim, name="key_value", dtype=self.dtype_policy)
        self.output_projection = RowDense(dim, name="output", dtype=self.dtype_policy)

    def parts(self) -> Iterator[tuple[keras.layers.Layer, int]]:
        yield from ((self.query, self.dim), (self.key_value, self.context_dim or self.dim))
        yield self.output_projection, self.dim

    def split_heads(self, x: Any) -> Any:
        return ops.reshape(x, (-1, *lengths(x), self.heads, self.dim // self.heads))  # (batch, tokens, heads, head_dim)

    def keys_values(self, context: Any) -> tuple[Any, Any]:
        keys, values = ops.split(self.key_value(context), 2, axis=-1)  # each (batch, keys, dim)
        keys = ops.transpose(self.split_heads(keys), (0, 2, 3, 1))  # (batch, heads, head_dim, keys)
        return keys, ops.transpose(self.split_heads(values), (0, 2, 1, 3))  # (batch, heads, keys, head_dim)

    def weights_over(self, x: Any, keys: Any, mask: Any = None) -> Any:
        """Return attention weights (batch, heads, queries, keys); `mask` (batch, queries, keys) keeps visible keys."""
        scale = (self.dim // self.heads) ** -0.5
        queries = self.split_heads(self.query(x) * scale)  # (batch, queries, heads, head_dim)
        queries = ops.transpose(queries, (0, 2, 1, 3))  # (batch, heads, queries, head_dim)
        logits = ops.cast(ops.matmul(queries, keys), "float32")  # (batch, heads, queries, keys)
        if mask is not None:
            logits = ops.where(ops.expand_dims(mask, 1), logits, MASKED)
        return ops.cast(ops.softmax(logits), self.compute_dtype)

    def weights_between(self, x: Any, context: Any, mask: Any = None) -> Any:
        """Return the attention weights that `call` computes, to be shown by `explain`."""
        return self.weights_over(x, self.keys_values(context)[0], mask)

    def attend(self, x: Any, keys: Any, values: Any, mask: Any = None) -> Any:
        mixed = ops.matmul(self.weights_over(x, keys, mask), values)  # (batch, heads, queries, head_dim)
        mixed = ops.reshape(ops.transpose(mixed, (0, 2, 1, 3)), (-1, *lengths(x), self.dim))  # (batch, queries, dim)
        return self.output_projection(mixed)

    def call(self, x: Any, context: Any, mask: Any = None) -> Any:
        return self.attend(x, *self.keys_values(context), mask)

    def get_config(self) -> dict:
        later = changed(self, {"context_dim": None})
        return {**super().get_config(), "dim": self.dim, "heads": self.heads, **later}


@register
class MLP(Composite):
    """Two dense layers with an activation, one of `ACTIVATIONS`, between them."""

    def __init__(self, dim: int, hidden: int, activation: str = "gelu_tanh", **kwargs: Any):
        super().__init__(**kwargs)
        self.dim, self.hidden, self.activation = dim, hidden, activation
        self.up = RowDense(hidden, activation=ACTIVATIONS[activation], name="up", dtype=self.dtype_policy)
        self.down = RowDense(dim, name="down", dtype=self.dtype_policy)

    def parts(self) -> Iterator[tuple[keras.layers.Layer, int]]:
        yield from ((self.up, self.dim), (self.down, self.hidden))

    def call(self, x: Any) -> Any:
        return self.down(self.up(x))  # (batch, tokens, dim) -> (batch, tokens, hidden) -> (batch, tokens, dim)

    def get_config(self) -> dict:
        later = changed(self, {"activation": "gelu_tanh"})
        return {**super().get_config(), "dim": self.dim, "hidden": self.hidden, **later}


@register
class Block(Composite):
    """The transformer block: self-attention, then an MLP. A fusion (fusion.py) adds a third part between them.

    Each part reads a normed input and adds to it or, with `post_norm`, reads the input itself, and the sum is normed
    (BERT). With `epsilon`, `activation` and `hidden`, the MLP's width, it is the block of a published model.

    The same weights serve whole sequences (`call`) and decoding, where `step` takes the newest token of every beam
    and a key-value cache: keys (batch, heads, head_dim, length, beams) and values (batch, heads, length, beams,
    head_dim). Beams are query rows over one shared cache. A mask (batch, beams, slots), with slots = length * beams,
    marks the slots of each beam's own history, so reordering beams moves no keys or values.
    """

    LATER: ClassVar[dict[str, Any]] = {
        "post_norm": False, "epsilon": EPSILON, "activation": "gelu_tanh", "hidden": None
    }  # fmt: skip

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        causal: bool = False,
        dropout: float = 0.0,
        post_norm: bool = False,
        epsilon: float = EPSILON,
        activation: str = "gelu_tanh",
        hidden: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.dim, self.heads, self.causal, self.rate = dim, heads, causal, dropout
        self.post_norm, self.epsilon, self.activation, self.hidden = post_norm, epsilon, activation, hidden
        self.attention_norm = layer_norm("attention_norm", epsilon, dtype=self.dtype_policy)
        self.attention = Attention(dim, heads, name="attention", dtype=self.dtype_policy)
        self.mlp_norm = layer_norm("mlp_norm", epsilon, dtype=self.dtype_policy)
        self.mlp = MLP(dim, hidden or 4 * dim, activation, name="mlp", dtype=self.dtype_policy)
        self.dropout = keras.layers.Dropout(dropout, name="dropout", dtype=self.dtype_policy)

    def parts(self) -> Iterator[tuple[keras.layers.Layer, int]]:
        for part in (self.attention_norm, self.attention, self.mlp_norm, self.mlp, self.dropout):
            yield part, self.dim

    def call(self, x: Any, mask: Any = None) -> Any:
        return self.apply_mlp(self.self_attend(x, self.self_attention_mask(x, mask)))

    def self_attention_mask(self, x: Any, mask: Any = None) -> Any:
        """Return the mask that hides padding and, in a causal block, the future."""
        return combine_masks(key_mask(mask), causal_mask(*lengths(x)) if self.causal else None)

    def before(self, norm: Any, x: Any) -> Any:
        """Return what a part reads of `x`."""
        return x if self.post_norm else norm(x)

    def after(self, norm: Any, x: Any) -> Any:
        """Return what follows a part, from the sum `x` of its input and its output."""
        return norm(x) if self.post_norm else x

    def self_attend(self, x: Any, mask: Any = None) -> Any:
        read = self.before(self.attention_norm, x)
        return self.after(self.attention_norm, x + self.dropout(self.attention(read, read, mask)))

    def apply_mlp(self, x: Any) -> Any:
        return self.after(self.mlp_norm, x + self.dropout(self.mlp(self.before(self.mlp_norm, x))))

    def begin(self, vision: Any, mask: Any = None) -> tuple[Any, Any]:
        """Return what `step` needs of the image (None here), computed once, and the image for the next block."""
        return None, vision

    def empty_cache(self, batch: Any, length: int, beams: int) -> tuple[Any, Any]:
        width = self.dim // self.heads
        return (
            ops.zeros((batch, self.heads, width, length, beams), self.compute_dtype),
            ops.zeros((batch, self.heads, length, beams, width), self.compute_dtype),
        )

    def step(self, x: Any, cache: tuple, now: Any, visible: Any, state: Any = None) -> tuple[Any, tuple]:
        """Apply the block to the newest tokens `x` (batch, beams, dim), at the position where `now` (length,) holds."""
        x, cache = self.self_attend_step(x, cache, now, visible)
        return self.apply_mlp(x), cache

    def self_attend_step(self, x: Any, cache: tuple, now: Any, visible: Any, prefix: Any = None) -> tuple[Any, tuple]:
        """Attend to the cache and, before it, to an optional `prefix` of (keys, values, mask) from the image."""
        read = self.before(self.attention_norm, x)
        new_keys, new_values = self.attention.keys_values(read)  # (batch, heads, head_dim, beams) and its transpose
        cache = (
            ops.where(now[:, None], ops.expand_dims(new_keys, 3), cache[0]),
            ops.where(now[:, None, None], ops.expand_dims(new_values, 2), cache[1]),
        )
        slots, width = cache[0].shape[3] * cache[0].shape[4], self.dim // self.heads
        keys = ops.reshape(cache[0], (-1, self.heads, width, slots))  # (batch, heads, head_dim, slots)
        values = ops.reshape(cache[1], (-1, self.heads, slots, width))  # (batch, heads, slots, head_dim)
        if prefix is not None:
            keys = ops.concatenate([prefix[0], keys], axis=3)  # (batch, heads, head_dim, image tokens + slots)
            values = ops.concatenate([prefix[1], values], axis=2)  # (batch, heads, image tokens + slots, head_dim)
            visible = ops.concatenate([prefix[2], visible], axis=2)  # (batch, beams, image tokens + slots)
        return self.after(self.attention_norm, x + self.attention.attend(read, keys, values, visible)), cache

    def get_config(self) -> dict:
        config = {"dim": self.dim, "heads": self.heads, "causal": self.causal, "dropout": self.rate}
        return {**super().get_config(), **config, **changed(self, self.LATER)}


@register
class Pool(keras.layers.Layer):
    """Returns the mean (batch, dim) of the tokens that are not padding."""

    def compute_output_shape(self, x_shape: tuple) -> tuple:
        return (x_shape[0], x_shape[-1])

    def call(self, x: Any, keep: Any = None) -> Any:  # not `mask`, a name that Keras fills by itself
        return masked_mean(x, keep)[:, 0]
