"""The few layers that own weights: attention with reusable keys and values, the transformer block, positions.

Everything here is `keras.ops`. Three habits keep every graph convertible to LiteRT builtins and ONNX: no tensor of
more than five dimensions, no `slice_update` (a cache is written with `where`), and no `argmax`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import keras
from keras import ops

from vtx_keras._compat import history_of, restore_history

register = keras.saving.register_keras_serializable("vtx_keras")


def registered_as(name: str) -> Callable[[type], type]:
    """Register a class under the name by which saved files know it.

    Weight files name a model's layers by the `__name__` of their class, so a class that was renamed keeps it.
    """

    def decorate(cls: type) -> type:
        cls.__name__ = name
        return keras.saving.register_keras_serializable("vtx_keras", name)(cls)

    return decorate


# Added to a masked logit. Finite, so that a row with nothing to see stays a number, and within float16.
MASKED = -3e4


def gelu(x: Any) -> Any:
    """The tanh form of GELU: the exact one becomes `Erfc`, which onnxruntime refuses."""
    return keras.activations.gelu(x, approximate=True)


def layer_norm(name: str, **kwargs: Any) -> keras.layers.Layer:
    """The one layer norm of the zoo: a small epsilon, as in published transformers."""
    return RowNorm(epsilon=1e-6, name=name, **kwargs)


@registered_as("LayerNormalization")
class RowNorm(keras.layers.LayerNormalization):
    """Layer normalization over the last axis, with gamma and beta, in half of the operations that Keras traces.

    Any other form (`scale=False`, `center=False`, another axis) is Keras' own. `benchmarks/first_step.py` has the
    figure for which it is kept.

    >>> [round(float(one), 2) for one in RowNorm()(ops.array([[1.0, 3.0]]))[0]]
    [-1.0, 1.0]
    """

    def call(self, inputs: Any) -> Any:  # (..., dim)
        axes = [self.axis] if isinstance(self.axis, int) else list(self.axis)
        if not (self.scale and self.center) or axes not in ([-1], [len(inputs.shape) - 1]):
            return super().call(inputs)
        wide = keras.backend.result_type(self.compute_dtype, "float32")
        x, share = ops.cast(inputs, wide), 1 / inputs.shape[-1]  # the gradient of `ops.mean` computes it again
        x = x - ops.sum(x, axis=-1, keepdims=True) * share
        scale = ops.rsqrt(ops.sum(ops.square(x), axis=-1, keepdims=True) * share + self.epsilon)
        gamma, beta = ops.cast(self.gamma, wide), ops.cast(self.beta, wide)
        return ops.cast(x * (scale * gamma) + beta, self.compute_dtype)


def lengths(x: Any) -> tuple:
    """How many tokens, or rows and columns of them, `x` has: numbers where they are known, for to ask is operations.

    >>> lengths(ops.ones((2, 3, 4, 5)))
    (3, 4)
    """
    known = tuple(x.shape[1:-1])
    return ops.shape(x)[1:-1] if None in known else known


@registered_as("Dense")
class RowDense(keras.layers.Dense):
    """A dense layer over the rows of all tokens: one matrix product, where Keras traces a tensor product.

    `benchmarks/first_step.py` has the figure for which it is kept.

    >>> tuple(RowDense(4)(ops.ones((2, 3, 5))).shape)
    (2, 3, 4)
    """

    def call(self, x: Any, training: bool | None = None) -> Any:  # (..., dim) -> (..., units)
        if len(x.shape) < 3:
            return super().call(x, training)
        rows = super().call(ops.reshape(x, (-1, x.shape[-1])), training)  # (rows, units)
        return ops.reshape(rows, (-1, *lengths(x), self.units))


def graph(inputs: Any, outputs: Any, name: str, kind: type = keras.Model) -> Any:
    """A functional model that leaves the precision of its inputs to its layers.

    The container's own dtype policy is not saved, so under another global policy a loaded model would round its
    pictures differently: here it is always float32.
    """
    model = kind(inputs, outputs, name=name)
    model.dtype_policy = "float32"
    return model


def cut(model: keras.Model, inputs: dict, outputs: Any, kind: type = keras.Model, name: str = "part") -> Any:
    """The part of a model's graph from `inputs`, which may lie in its middle, to `outputs`; the layers are shared.

    Keras marks the model's own inputs anew when it cuts, after which the model could no longer be saved as `.keras`.

    >>> x = keras.Input((2,), name="x")
    >>> middle = keras.layers.Dense(3, name="first")(x)
    >>> model = keras.Model({"x": x}, keras.layers.Dense(1)(middle))
    >>> cut(model, {"middle": middle}, model.output, name="rest").output_shape
    (None, 1)
    """
    marks = history_of(keras.tree.flatten(model.input))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that names of inputs and keys differ
            return graph(inputs, outputs, name, kind)
    finally:
        restore_history(marks)


def masked_mean(x: Any, mask: Any = None) -> Any:
    """Mean over the tokens of `x` (batch, tokens, dim) that `mask` (batch, tokens) keeps, as (batch, 1, dim).

    >>> tuple(masked_mean(ops.ones((2, 3, 4)), ops.ones((2, 3), "bool")).shape)
    (2, 1, 4)
    """
    if mask is None:
        return ops.mean(x, axis=1, keepdims=True)
    weight = ops.expand_dims(ops.cast(mask, x.dtype), -1)
    return ops.sum(x * weight, axis=1, keepdims=True) / ops.maximum(
        ops.sum(weight, axis=1, keepdims=True), ops.cast(1, x.dtype)
    )


def causal_mask(length: Any) -> Any:
    """(1, length, length) booleans: a query sees the keys at or before its own position."""
    positions = ops.arange(length)
    return ops.expand_dims(positions[:, None] >= positions[None, :], 0)


def key_mask(mask: Any) -> Any:
    """A padding mask (batch, keys) as an attention mask (batch, 1, keys); None stays None."""
    return None if mask is None else ops.expand_dims(mask, 1)


def both(first: Any, second: Any) -> Any:
    """The conjunction of two attention masks, either of which may be None."""
    if first is None or second is None:
        return second if first is None else first
    return ops.logical_and(first, second)


@register
class Spec(keras.layers.Layer):
    """Passes tokens through, and makes a saved model whole.

    Its config is what the model was built from: name, options, vocabulary. It travels inside `.keras`, which is why
    a loaded model can tokenize, resize and decode with nothing else at hand.
    """

    def __init__(self, spec: dict, **kwargs: Any):
        super().__init__(**kwargs)
        self.spec = spec

    def call(self, tokens: Any) -> Any:
        return tokens

    def get_config(self) -> dict:
        return {**super().get_config(), "spec": self.spec}


@register
class Positions(keras.layers.Layer):
    """Adds learned positions to tokens laid out on a grid: (length,) of words, (rows, columns) of patches.

    One table per axis, summed. A single axis may be longer than the tokens it meets.
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
        """(product of the grid, dim): the position of every cell, row by row."""
        table = ops.convert_to_tensor(self.axes[0])
        for axis in self.axes[1:]:
            table = ops.reshape(table[:, None, :] + axis[None, :, :], (-1, axis.shape[-1]))
        return ops.cast(table, self.compute_dtype)

    def call(self, x: Any) -> Any:
        return x + self.table()[: lengths(x)[0]]

    def step(self, x: Any, index: Any) -> Any:
        """The tokens `x` (batch, beams, dim) all stand at position `index`."""
        return x + ops.take(self.table(), index, axis=0)

    def get_config(self) -> dict:
        return {**super().get_config(), "grid": self.grid}


class Composite(keras.layers.Layer):
    """A layer made of others, which says in `parts` how wide the tokens are that each of them reads.

    Building and shapes are then known without tracing `call`, which the JAX backend cannot do for texts of any length.
    Every part is made with this layer's own dtype policy: the global one may be another when the layer is loaded.
    """

    def parts(self) -> Iterator[tuple[keras.layers.Layer, int]]:
        raise NotImplementedError

    def build(self, shape: tuple) -> None:
        for part, width in self.parts():
            part.build((None, None, width))
            if not self.trainable:  # as it was saved: its parts are new and do not know
                part.trainable = False

    def compute_output_shape(self, shape: tuple) -> tuple:
        return shape


@register
class Attention(Composite):
    """Multi-head attention in two halves, so that keys and values can be made once and used many times.

    Keys are laid out (batch, heads, head_dim, keys) and values (batch, heads, keys, head_dim): both are then the
    right-hand side of a plain matrix product, in training and in every decoding step.
    """

    def __init__(self, dim: int, heads: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.dim, self.heads = dim, heads
        self.query = RowDense(dim, name="query", dtype=self.dtype_policy)
        self.key_value = RowDense(2 * dim, name="key_value", dtype=self.dtype_policy)
        self.output_projection = RowDense(dim, name="output", dtype=self.dtype_policy)

    def parts(self) -> Iterator[tuple[keras.layers.Layer, int]]:
        yield from ((self.query, self.dim), (self.key_value, self.dim), (self.output_projection, self.dim))

    def split_heads(self, x: Any) -> Any:
        return ops.reshape(x, (-1, *lengths(x), self.heads, self.dim // self.heads))

    def keys_values(self, context: Any) -> tuple[Any, Any]:
        keys, values = ops.split(self.key_value(context), 2, axis=-1)
        return ops.transpose(self.split_heads(keys), (0, 2, 3, 1)), ops.transpose(
            self.split_heads(values), (0, 2, 1, 3)
        )

    def weights_over(self, x: Any, keys: Any, mask: Any = None) -> Any:
        """(batch, heads, queries, keys): where each query looks. `mask` (batch, queries, keys) keeps what it sees."""
        scale = (self.dim // self.heads) ** -0.5
        queries = ops.transpose(self.split_heads(self.query(x) * scale), (0, 2, 1, 3))
        logits = ops.cast(ops.matmul(queries, keys), "float32")
        if mask is not None:
            logits = ops.where(ops.expand_dims(mask, 1), logits, MASKED)
        return ops.cast(ops.softmax(logits), self.compute_dtype)

    def weights_between(self, x: Any, context: Any, mask: Any = None) -> Any:
        """`weights_over` the keys that `call` would make of `context`: for those who want to see the attention."""
        return self.weights_over(x, self.keys_values(context)[0], mask)

    def attend(self, x: Any, keys: Any, values: Any, mask: Any = None) -> Any:
        seen = ops.transpose(ops.matmul(self.weights_over(x, keys, mask), values), (0, 2, 1, 3))
        return self.output_projection(ops.reshape(seen, (-1, *lengths(x), self.dim)))

    def call(self, x: Any, context: Any, mask: Any = None) -> Any:
        return self.attend(x, *self.keys_values(context), mask)

    def get_config(self) -> dict:
        return {**super().get_config(), "dim": self.dim, "heads": self.heads}


@register
class MLP(Composite):
    """Two dense layers with GELU between."""

    def __init__(self, dim: int, hidden: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.dim, self.hidden = dim, hidden
        self.up = RowDense(hidden, activation=gelu, name="up", dtype=self.dtype_policy)
        self.down = RowDense(dim, name="down", dtype=self.dtype_policy)

    def parts(self) -> Iterator[tuple[keras.layers.Layer, int]]:
        yield from ((self.up, self.dim), (self.down, self.hidden))

    def call(self, x: Any) -> Any:
        return self.down(self.up(x))

    def get_config(self) -> dict:
        return {**super().get_config(), "dim": self.dim, "hidden": self.hidden}


@register
class Block(Composite):
    """The transformer block: pre-norm self-attention, then an MLP. Fusions (fusion.py) put themselves in between.

    The same weights serve whole sequences (`call`) and decoding, where `step` takes the newest token of every beam
    and a cache of what came before. A cache is a pair of keys (batch, heads, head_dim, length, beams) and values
    (batch, heads, length, beams, head_dim); beams are query rows that share it, and a mask says which of its slots
    belong to whose history, so that choosing beams never moves it.
    """

    def __init__(self, dim: int, heads: int, *, causal: bool = False, dropout: float = 0.0, **kwargs: Any):
        super().__init__(**kwargs)
        self.dim, self.heads, self.causal, self.rate = dim, heads, causal, dropout
        self.attention_norm = layer_norm("attention_norm", dtype=self.dtype_policy)
        self.attention = Attention(dim, heads, name="attention", dtype=self.dtype_policy)
        self.mlp_norm = layer_norm("mlp_norm", dtype=self.dtype_policy)
        self.mlp = MLP(dim, 4 * dim, name="mlp", dtype=self.dtype_policy)
        self.dropout = keras.layers.Dropout(dropout, name="dropout", dtype=self.dtype_policy)

    def parts(self) -> Iterator[tuple[keras.layers.Layer, int]]:
        for part in (self.attention_norm, self.attention, self.mlp_norm, self.mlp, self.dropout):
            yield part, self.dim

    def call(self, x: Any, mask: Any = None) -> Any:
        return self.think(self.look_back(x, self.visible(x, mask)))

    def visible(self, x: Any, mask: Any = None) -> Any:
        """What self-attention may see: no padding, and no future where the block is causal."""
        return both(key_mask(mask), causal_mask(*lengths(x)) if self.causal else None)

    def look_back(self, x: Any, mask: Any = None) -> Any:
        normed = self.attention_norm(x)
        return x + self.dropout(self.attention(normed, normed, mask))

    def think(self, x: Any) -> Any:
        return x + self.dropout(self.mlp(self.mlp_norm(x)))

    def begin(self, vision: Any, mask: Any = None) -> tuple[Any, Any]:
        """What `step` needs of the image, made once, and the image as the next block sees it. Here: nothing."""
        return None, vision

    def empty_cache(self, batch: Any, length: int, beams: int) -> tuple[Any, Any]:
        width = self.dim // self.heads
        return (
            ops.zeros((batch, self.heads, width, length, beams), self.compute_dtype),
            ops.zeros((batch, self.heads, length, beams, width), self.compute_dtype),
        )

    def step(self, x: Any, cache: tuple, now: Any, visible: Any, state: Any = None) -> tuple[Any, tuple]:
        """The newest tokens `x` (batch, beams, dim) at the position where `now` (length,) is true."""
        x, cache = self.look_back_step(x, cache, now, visible)
        return self.think(x), cache

    def look_back_step(self, x: Any, cache: tuple, now: Any, visible: Any, prefix: Any = None) -> tuple[Any, tuple]:
        """Self-attention over the cache, behind an optional `prefix` of (keys, values, mask) from the image."""
        normed = self.attention_norm(x)
        new_keys, new_values = self.attention.keys_values(normed)
        cache = (
            ops.where(now[:, None], ops.expand_dims(new_keys, 3), cache[0]),
            ops.where(now[:, None, None], ops.expand_dims(new_values, 2), cache[1]),
        )
        slots, width = cache[0].shape[3] * cache[0].shape[4], self.dim // self.heads
        keys = ops.reshape(cache[0], (-1, self.heads, width, slots))
        values = ops.reshape(cache[1], (-1, self.heads, slots, width))
        if prefix is not None:
            keys = ops.concatenate([prefix[0], keys], axis=3)
            values = ops.concatenate([prefix[1], values], axis=2)
            visible = ops.concatenate([prefix[2], visible], axis=2)
        return x + self.attention.attend(normed, keys, values, visible), cache

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "dim": self.dim,
            "heads": self.heads,
            "causal": self.causal,
            "dropout": self.rate,
        }


@register
class Pool(keras.layers.Layer):
    """The mean of the tokens that are not padding, (batch, dim)."""

    def compute_output_shape(self, x_shape: tuple) -> tuple:
        return (x_shape[0], x_shape[-1])

    def call(self, x: Any, keep: Any = None) -> Any:  # not `mask`, a name that Keras gives a meaning of its own
        return masked_mean(x, keep)[:, 0]
