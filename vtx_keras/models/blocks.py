"""Attention with reusable keys and values, the MLP, and the one transformer block, whose options make it anyone's.

All of it is `keras.ops`, by the three rules of layers.py. In shapes, dim is the width of a token, and there are `heads`
of queries and `kv_heads` of keys and values, each of width `head_dim`; mostly dim = heads * head_dim.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any, ClassVar

import keras
import numpy as np
from keras import ops

from vtx_keras.models.layers import (
    ACTIVATIONS,
    EPSILON,
    MASKED,
    Composite,
    causal_mask,
    changed,
    combine_masks,
    dense,
    key_mask,
    lengths,
    norm_of,
    register,
)

__all__ = ["MLP", "Attention", "Block", "frequencies", "ranks_of", "turned"]
BIASES = {"all": (True, True, True), "qkv": (True, True, False), "none": (False, False, False)}


def frequencies(width: int, theta: float = 10_000.0, scaling: Mapping[str, float] | None = None) -> np.ndarray:
    """Return the angles per position (width / 2,) by which rotary embedding turns pairs of numbers.

    Su et al. 2021, https://arxiv.org/abs/2104.09864. `scaling` is {"factor"}, or Llama 3's with {"low", "high",
    "original"}: slow pairs are slowed by the factor, fast ones are not, those between are in between.

    >>> frequencies(4, 100.0).round(3).tolist() == [1.0, np.float32(0.1)]
    True
    """
    angles = theta ** (-np.arange(0, width, 2) / width)
    if not scaling:
        return angles.astype("float32")
    slowed = angles / scaling["factor"]
    if "original" in scaling:
        turns = scaling["original"] * angles / (2 * math.pi)  # within the length that was trained first
        share = np.clip((turns - scaling["low"]) / (scaling["high"] - scaling["low"]), 0, 1)
        slowed = (1 - share) * slowed + share * angles
    return slowed.astype("float32")


def turned(x: Any, places: Any, angles: np.ndarray) -> Any:
    """Return `x` (batch, tokens, heads, head_dim) turned by its places (batch or 1, tokens): rotary embedding."""
    angle = ops.cast(places, "float32")[:, :, None, None] * ops.convert_to_tensor(angles)  # (…, tokens, 1, head_dim/2)
    first, second = ops.split(ops.cast(x, "float32"), 2, axis=-1)
    cos, sin = ops.cos(angle), ops.sin(angle)
    return ops.cast(ops.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1), x.dtype)


@register
class Attention(Composite):
    """Multi-head attention in two halves, so that keys and values can be computed once and used many times.

    Keys are (batch, kv_heads, head_dim, keys) and values (batch, kv_heads, keys, head_dim): each is the right-hand side
    of a plain matrix product, in training and in every decoding step. The context may have another width,
    `context_dim`. With fewer `kv_heads` a group of queries shares each (https://arxiv.org/abs/2305.13245). `rotary` is
    {"theta", "scaling"} of `frequencies`; then queries and keys have places, by default 0, 1, 2 …
    """

    LATER: ClassVar[dict[str, Any]] = {
        "context_dim": None, "kv_heads": None, "head_dim": None, "bias": "all", "rotary": None, "qk_norm": None,
        "scale": None, "ranks": {},
    }  # fmt: skip

    def __init__(
        self,
        dim: int,
        heads: int,
        context_dim: int | None = None,
        *,
        kv_heads: int | None = None,
        head_dim: int | None = None,
        bias: str = "all",
        rotary: Mapping[str, Any] | None = None,
        qk_norm: float | None = None,
        scale: float | None = None,
        ranks: Mapping[str, int] = {},
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.dim, self.heads, self.context_dim, self.ranks = dim, heads, context_dim, dict(ranks)
        self.kv_heads, self.head_dim, self.bias = kv_heads, head_dim, bias
        self.rotary, self.qk_norm, self.scale = rotary, qk_norm, scale
        self.groups, self.width = kv_heads or heads, head_dim or dim // heads
        self.angles = frequencies(self.width, **rotary) if rotary else None
        for_queries, for_keys, for_output = BIASES[bias]
        units, more = heads * self.width, {"dtype": self.dtype_policy}
        pairs, rank = 2 * self.groups * self.width, self.ranks.get
        self.query = dense(units, rank("query"), use_bias=for_queries, name="query", **more)
        self.key_value = dense(pairs, rank("key_value"), use_bias=for_keys, name="key_value", **more)
        self.output_projection = dense(dim, rank("output"), use_bias=for_output, name="output", **more)
        if qk_norm:  # the epsilon of norms of every query and key
            self.query_norm = norm_of("rms", "query_norm", qk_norm, self.dtype_policy)
            self.key_norm = norm_of("rms", "key_norm", qk_norm, self.dtype_policy)

    def parts(self) -> Iterator[tuple[keras.layers.Layer, int]]:
        yield from ((self.query, self.dim), (self.key_value, self.context_dim or self.dim))
        yield self.output_projection, self.heads * self.width
        if self.qk_norm:
            yield from ((self.query_norm, self.width), (self.key_norm, self.width))

    def split_heads(self, x: Any, heads: int) -> Any:
        return ops.reshape(x, (-1, *lengths(x), heads, self.width))  # (batch, tokens, heads, head_dim)

    def placed(self, x: Any, norm: Any, places: Any) -> Any:
        """Return queries or keys (batch, tokens, heads, head_dim), normed and turned where the options say so."""
        x = norm(x) if self.qk_norm else x
        if self.angles is None:
            return x
        return turned(x, ops.arange(lengths(x)[0])[None] if places is None else places, self.angles)

    def keys_values(self, context: Any, places: Any = None) -> tuple[Any, Any]:
        keys, values = ops.split(self.key_value(context), 2, axis=-1)  # each (batch, keys, kv_heads * head_dim)
        keys, values = (self.split_heads(one, self.groups) for one in (keys, values))
        keys = self.placed(keys, getattr(self, "key_norm", None), places)
        keys = ops.transpose(keys, (0, 2, 3, 1))  # (batch, kv_heads, head_dim, keys)
        return keys, ops.transpose(values, (0, 2, 1, 3))  # (batch, kv_heads, keys, head_dim)

    def weights_over(self, x: Any, keys: Any, mask: Any = None, places: Any = None) -> Any:
        """Return attention weights (batch, heads, queries, keys); `mask` (batch, queries, keys) keeps visible keys."""
        (count,), scale = lengths(x), self.scale or self.width**-0.5
        queries = self.query(x) if self.qk_norm else self.query(x) * scale  # a norm would undo the scale
        queries = self.placed(self.split_heads(queries, self.heads), getattr(self, "query_norm", None), places)
        queries = ops.transpose(
            queries * scale if self.qk_norm else queries, (0, 2, 1, 3)
        )  # (batch, heads, queries, …)
        if self.groups < self.heads:  # the queries of a group, one after the other
            queries = ops.reshape(queries, (-1, self.groups, self.heads // self.groups * count, self.width))
        logits = ops.cast(ops.matmul(queries, keys), "float32")
        if self.groups < self.heads:
            logits = ops.reshape(logits, (-1, self.heads, count, keys.shape[-1] or ops.shape(keys)[-1]))
        if mask is not None:  # (batch, heads, queries, keys)
            logits = ops.where(ops.expand_dims(mask, 1), logits, MASKED)
        return ops.cast(ops.softmax(logits), self.compute_dtype)

    def weights_between(self, x: Any, context: Any, mask: Any = None) -> Any:
        """Return the attention weights that `call` computes, to be shown by `explain`."""
        return self.weights_over(x, self.keys_values(context)[0], mask)

    def attend(self, x: Any, keys: Any, values: Any, mask: Any = None, places: Any = None) -> Any:
        (count,), weights = lengths(x), self.weights_over(x, keys, mask, places)
        if self.groups < self.heads:
            queries, slots = self.heads // self.groups * count, values.shape[2] or ops.shape(values)[2]
            weights = ops.reshape(weights, (-1, self.groups, queries, slots))
        mixed = ops.reshape(ops.matmul(weights, values), (-1, self.heads, count, self.width))
        mixed = ops.reshape(ops.transpose(mixed, (0, 2, 1, 3)), (-1, count, self.heads * self.width))
        return self.output_projection(mixed)  # (batch, queries, dim)

    def call(self, x: Any, context: Any, mask: Any = None) -> Any:
        return self.attend(x, *self.keys_values(context), mask)

    def get_config(self) -> dict:
        return {**super().get_config(), "dim": self.dim, "heads": self.heads, **changed(self, self.LATER)}


@register
class MLP(Composite):
    """Two dense layers with an activation, one of `ACTIVATIONS`, between them.

    If it is `gated`, a third scales what is between: down(activation(gate(x)) * up(x)), GLU of
    https://arxiv.org/abs/2002.05202.
    """

    LATER: ClassVar[dict[str, Any]] = {"activation": "gelu_tanh", "gated": False, "bias": True, "ranks": {}}

    def __init__(
        self,
        dim: int,
        hidden: int,
        activation: str = "gelu_tanh",
        gated: bool = False,
        bias: bool = True,
        ranks: Mapping[str, int] = {},
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.dim, self.hidden, self.activation, self.gated, self.bias = dim, hidden, activation, gated, bias
        self.ranks = dict(ranks)
        activate, rank = ACTIVATIONS[activation], self.ranks.get
        more = {"use_bias": bias, "dtype": self.dtype_policy}
        self.up = dense(hidden, rank("up"), activation=None if gated else activate, name="up", **more)
        if gated:
            self.gate = dense(hidden, rank("gate"), activation=activate, name="gate", **more)
        self.down = dense(dim, rank("down"), name="down", **more)

    def parts(self) -> Iterator[tuple[keras.layers.Layer, int]]:
        yield self.up, self.dim
        if self.gated:
            yield self.gate, self.dim
        yield self.down, self.hidden

    def call(self, x: Any) -> Any:  # (batch, tokens, dim) -> (batch, tokens, hidden) -> (batch, tokens, dim)
        return self.down(self.gate(x) * self.up(x) if self.gated else self.up(x))

    def get_config(self) -> dict:
        return {**super().get_config(), "dim": self.dim, "hidden": self.hidden, **changed(self, self.LATER)}


def ranks_of(ranks: Mapping[str, int], part: str) -> dict[str, int]:
    """Return the ranks within one part of a block, of those of the whole block.

    >>> ranks_of({"mlp/up": 32, "attention/query": 16}, "mlp")
    {'up': 32}
    """
    return {name.rpartition("/")[2]: rank for name, rank in ranks.items() if name.partition("/")[0] == part}


@register
class Block(Composite):
    """The transformer block: self-attention, then an MLP. A fusion (fusion.py) adds a third part between them.

    Each part reads a normed input and adds to it or, with `post_norm`, reads the input itself, and the sum is normed
    (BERT); with `sandwich` what it adds is normed, too (Gemma). Other options make it the block of a published model:
    `epsilon` and `norm` ("layer" or "rms"); `hidden`, `activation`, `gated` of the MLP; `bias` ("all", "qkv", "none");
    `kv_heads`, `head_dim`, `rotary`, `qk_norm`, `scale` of `Attention`, and the `window` of tokens that it reaches.
    `ranks` {"mlp/up": 32} says which matrices are products of two narrow ones (`compress.factor`).

    The same weights serve whole sequences (`call`) and decoding. `step` takes the newest token of every beam and a
    key-value cache: keys (batch, kv_heads, head_dim, length, beams) and values (batch, kv_heads, length, beams,
    head_dim). Beams are query rows over one shared cache. A mask (batch, beams, slots), with slots = length * beams,
    marks the slots of each beam's own history, so reordering beams moves no keys or values. `extend` takes any number
    of tokens of one text at once, for prompts and conversations.
    """

    LATER: ClassVar[dict[str, Any]] = {
        "post_norm": False, "epsilon": EPSILON, "activation": "gelu_tanh", "hidden": None, "norm": "layer",
        "sandwich": False, "gated": False, "bias": "all", "kv_heads": None, "head_dim": None, "rotary": None,
        "qk_norm": None, "scale": None, "window": None, "ranks": {},
    }  # fmt: skip

    def __init__(self, dim: int, heads: int, *, causal: bool = False, dropout: float = 0.0, **kwargs: Any):
        options = {name: kwargs.pop(name, default) for name, default in self.LATER.items()}
        super().__init__(**kwargs)
        self.dim, self.heads, self.causal, self.rate = dim, heads, causal, dropout
        for name, value in options.items():
            setattr(self, name, value)
        o, more = SimpleNamespace(**options), {"dtype": self.dtype_policy}
        of_attention = {name: options[name] for name in Attention.LATER if name in options}
        of_attention["ranks"] = ranks_of(o.ranks, "attention")
        of_mlp = {"ranks": ranks_of(o.ranks, "mlp"), **more}
        hidden = o.hidden or 4 * dim
        self.attention_norm = norm_of(o.norm, "attention_norm", o.epsilon, self.dtype_policy)
        self.attention = Attention(dim, heads, name="attention", **of_attention, **more)
        self.mlp_norm = norm_of(o.norm, "mlp_norm", o.epsilon, self.dtype_policy)
        self.mlp = MLP(dim, hidden, o.activation, o.gated, o.bias == "all", name="mlp", **of_mlp)
        self.dropout = keras.layers.Dropout(dropout, name="dropout", **more)
        if o.sandwich:
            self.attention_end = norm_of(o.norm, "attention_end", o.epsilon, self.dtype_policy)
            self.mlp_end = norm_of(o.norm, "mlp_end", o.epsilon, self.dtype_policy)

    def parts(self) -> Iterator[tuple[keras.layers.Layer, int]]:
        ends = (self.attention_end, self.mlp_end) if self.sandwich else ()
        for part in (self.attention_norm, self.attention, self.mlp_norm, self.mlp, self.dropout, *ends):
            yield part, self.dim

    def call(self, x: Any, mask: Any = None) -> Any:
        return self.apply_mlp(self.self_attend(x, self.self_attention_mask(x, mask)))

    def self_attention_mask(self, x: Any, mask: Any = None) -> Any:
        """Return the mask that hides padding and, in a causal block, the future and what is out of the window."""
        if not self.causal:
            return key_mask(mask)
        places = ops.arange(lengths(x)[0])[None]
        return combine_masks(key_mask(mask), self.within(causal_mask(*lengths(x)), places, places))

    def within(self, mask: Any, places: Any, key_places: Any) -> Any:
        """Return a mask (batch, queries, keys) without keys that are out of the window of queries at `places`."""
        if self.window is None:
            return mask
        return ops.logical_and(mask, ops.expand_dims(places, 2) - ops.expand_dims(key_places, 1) < self.window)

    def before(self, norm: Any, x: Any) -> Any:
        """Return what a part reads of `x`."""
        return x if self.post_norm else norm(x)

    def after(self, norm: Any, x: Any, added: Any) -> Any:
        """Return what follows a part, from its input `x` and what it adds."""
        end = getattr(self, norm.name.replace("_norm", "_end"), None)
        x = x + self.dropout(end(added) if end else added)
        return norm(x) if self.post_norm else x

    def self_attend(self, x: Any, mask: Any = None) -> Any:
        read = self.before(self.attention_norm, x)
        return self.after(self.attention_norm, x, self.attention(read, read, mask))

    def apply_mlp(self, x: Any) -> Any:
        return self.after(self.mlp_norm, x, self.mlp(self.before(self.mlp_norm, x)))

    def begin(self, vision: Any, mask: Any = None) -> tuple[Any, Any]:
        """Return what `step` needs of the image (None here), computed once, and the image for the next block."""
        return None, vision

    def empty_cache(self, batch: Any, length: int, beams: int) -> tuple[Any, Any]:
        groups, width = self.attention.groups, self.attention.width
        return (
            ops.zeros((batch, groups, width, length, beams), self.compute_dtype),
            ops.zeros((batch, groups, length, beams, width), self.compute_dtype),
        )

    def step(self, x: Any, cache: tuple, now: Any, visible: Any, state: Any = None) -> tuple[Any, tuple]:
        """Apply the block to the newest tokens `x` (batch, beams, dim), at the position where `now` (length,) holds.

        `state` may be the keys, the values and the mask (batch, 1, keys) of what comes before the text.
        """
        if state is not None:
            state = (state[0], state[1], ops.tile(state[2], (1, x.shape[1], 1)))  # the mask (batch, beams, keys)
        x, cache = self.self_attend_step(x, cache, now, visible, state)
        return self.apply_mlp(x), cache

    def self_attend_step(self, x: Any, cache: tuple, now: Any, visible: Any, prefix: Any = None) -> tuple[Any, tuple]:
        """Attend to the cache and, before it, to an optional `prefix` of (keys, values, mask)."""
        if prefix is not None:
            visible = ops.concatenate([prefix[2], visible], axis=2)  # (batch, beams, prefix + slots)
        # A token's place is the number of those before it.
        places = ops.sum(ops.cast(visible, "int32"), axis=2) - 1 if self.rotary or self.window else None
        read = self.before(self.attention_norm, x)
        new_keys, new_values = self.attention.keys_values(read, places)  # (…, head_dim, beams), (…, beams, head_dim)
        cache = (
            ops.where(now[:, None], ops.expand_dims(new_keys, 3), cache[0]),
            ops.where(now[:, None, None], ops.expand_dims(new_values, 2), cache[1]),
        )
        (length, beams), groups, width = cache[0].shape[3:], self.attention.groups, self.attention.width
        keys = ops.reshape(cache[0], (-1, groups, width, length * beams))  # (batch, kv_heads, head_dim, slots)
        values = ops.reshape(cache[1], (-1, groups, length * beams, width))  # (batch, kv_heads, slots, head_dim)
        if self.window:
            slots = ops.zeros_like(visible[:, 0, -length * beams :], "int32") + np.repeat(np.arange(length), beams)
            if prefix is not None:
                upto = ops.cumsum(ops.cast(prefix[2][:, 0], "int32"), axis=1)  # (batch, prefix)
                slots = ops.concatenate([upto - 1, slots + upto[:, -1:]], axis=1)
            visible = self.within(visible, places, slots)
        if prefix is not None:
            keys = ops.concatenate([prefix[0], keys], axis=3)  # (batch, kv_heads, head_dim, prefix + slots)
            values = ops.concatenate([prefix[1], values], axis=2)  # (batch, kv_heads, prefix + slots, head_dim)
        return self.after(self.attention_norm, x, self.attention.attend(read, keys, values, visible, places)), cache

    def extend(self, x: Any, past: tuple, places: Any, state: Any = None) -> tuple[Any, tuple]:
        """Apply the block to further tokens `x` (batch, n, dim) at `places` (batch, n); return them and the new past.

        `past` holds the keys (batch, kv_heads, head_dim, capacity) and values (batch, kv_heads, capacity, head_dim)
        of all places before. Padding has the place -1, and is not kept.
        """
        x, past = self.self_attend_further(x, past, places)
        return self.apply_mlp(x), past

    def self_attend_further(self, x: Any, past: tuple, places: Any) -> tuple[Any, tuple]:
        read, slots = self.before(self.attention_norm, x), ops.arange(past[0].shape[3])[None]  # (1, capacity)
        keys, values = self.attention.keys_values(read, places)
        put = ops.expand_dims(places, 2) == slots[:, None]  # (batch, n, capacity): which token goes where
        new, move = ops.any(put, axis=1), ops.expand_dims(ops.cast(put, keys.dtype), 1)
        keys = ops.where(new[:, None, None], ops.matmul(keys, move), past[0])
        values = ops.where(new[:, None, :, None], ops.matmul(ops.transpose(move, (0, 1, 3, 2)), values), past[1])
        visible = self.within(slots[:, None] <= ops.expand_dims(places, 2), places, slots)  # (batch, n, capacity)
        attended = self.attention.attend(read, keys, values, visible, places)
        return self.after(self.attention_norm, x, attended), (keys, values)

    def get_config(self) -> dict:
        config = {"dim": self.dim, "heads": self.heads, "causal": self.causal, "dropout": self.rate}
        return {**super().get_config(), **config, **changed(self, self.LATER)}
