"""Beside the blocks of a causal language model: what fits an image to it, and texts that grow as they are read.

A language model is the text side of a captioner (`tasks.language_captioner`). Each fusion begins so that its words are
as they were: behind a gate that is closed (Flamingo, https://arxiv.org/abs/2204.14198), or with the image as tokens in
front of the text (ClipCap, https://arxiv.org/abs/2111.09734; LLaVA, https://arxiv.org/abs/2304.08485).

A `Reading` is what a model has read: the keys and values of each block, with a slot for every place up to a capacity.
`extend` reads further tokens in one pass, be it a prompt or the newest word; the slot of a token is its place, so a
text is cut by counting less.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import keras
from keras import ops

from vtx_keras.inputs.text import PAD
from vtx_keras.models.blocks import MLP, Attention, Block
from vtx_keras.models.fusion import Gate, MergedAttn
from vtx_keras.models.layers import Composite, layer_norm, masked_mean, register

__all__ = [
    "ADAPTERS",
    "Adapter",
    "CrossAdapter",
    "GatedAdapter",
    "Opening",
    "Reading",
    "begin",
    "block_options",
    "extend",
]

# --- layers


@register
class Opening(keras.layers.Layer):
    """Multiplies by tanh of a learned number that begins at 0: what comes behind it is added little by little."""

    def build(self, shape: tuple) -> None:
        self.opening = self.add_weight(shape=(), initializer="zeros", name="opening")

    def call(self, x: Any) -> Any:
        return ops.tanh(ops.cast(self.opening, self.compute_dtype)) * x


class Adapter(Composite):
    """A fusion between two blocks of a language model. It treats every token by itself, so it needs no cache."""

    def call(self, text: Any, vision: Any) -> tuple[Any, Any]:  # (batch, words, dim), (batch, image tokens, dim)
        return self.fuse(text, self.begin(vision)[0]), vision

    def compute_output_shape(self, text_shape: tuple, vision_shape: tuple) -> tuple[tuple, tuple]:  # type: ignore[override]
        return text_shape, vision_shape

    def begin(self, vision: Any, mask: Any = None) -> tuple[Any, Any]:
        """Return what `fuse` needs of the image, computed once, and the image for the next block."""
        return (vision, mask), vision

    fuse: Callable[[Any, Any], Any]  # what an adapter does with text tokens (batch, n, dim) and what `begin` returned

    def empty_cache(self, batch: Any, length: int, beams: int) -> tuple:
        del batch, length, beams
        return ()

    def step(self, x: Any, cache: tuple, now: Any, visible: Any, state: Any = None) -> tuple[Any, tuple]:
        del now, visible
        return self.fuse(x, state), cache

    def extend(self, x: Any, past: tuple, places: Any, state: Any = None) -> tuple[Any, tuple]:
        del places
        return self.fuse(x, state), past


@register
class CrossAdapter(Adapter):
    """Attends to image tokens, then applies an MLP, each behind a gate that begins closed (Flamingo)."""

    def __init__(self, dim: int, heads: int, hidden: int | None = None, dropout: float = 0.0, **kwargs: Any):
        super().__init__(**kwargs)
        self.dim, self.heads, self.hidden, self.rate = dim, heads, hidden or 2 * dim, dropout
        more = {"dtype": self.dtype_policy}
        self.fusion_norm = layer_norm("fusion_norm", **more)
        self.cross_attention = Attention(dim, heads, name="cross_attention", **more)
        self.attention_opening = Opening(name="attention_opening", **more)
        self.mlp_norm = layer_norm("mlp_norm", **more)
        self.mlp = MLP(dim, self.hidden, name="mlp", **more)
        self.mlp_opening = Opening(name="mlp_opening", **more)
        self.dropout = keras.layers.Dropout(dropout, name="dropout", **more)

    def parts(self) -> Iterator[tuple[keras.layers.Layer, int]]:
        parts = (self.fusion_norm, self.cross_attention, self.attention_opening, self.mlp_norm, self.mlp)
        for part in (*parts, self.mlp_opening, self.dropout):
            yield part, self.dim

    def begin(self, vision: Any, mask: Any = None) -> tuple[Any, Any]:
        return self.cross_attention.keys_values(vision), vision

    def fuse(self, text: Any, state: Any) -> Any:
        attended = self.cross_attention.attend(self.fusion_norm(text), *state)  # (batch, words, dim)
        text = text + self.attention_opening(self.dropout(attended))
        return text + self.mlp_opening(self.dropout(self.mlp(self.mlp_norm(text))))

    def get_config(self) -> dict:
        config = {"dim": self.dim, "heads": self.heads, "hidden": self.hidden, "dropout": self.rate}
        return {**super().get_config(), **config}


@register
class GatedAdapter(Adapter):
    """Moves each token towards the GRU gate of it and the mean of the image, as far as a gate that begins closed."""

    def __init__(self, dim: int, heads: int, dropout: float = 0.0, **kwargs: Any):
        super().__init__(**kwargs)
        self.dim, self.heads, self.rate = dim, heads, dropout
        more = {"dtype": self.dtype_policy}
        self.fusion_norm = layer_norm("fusion_norm", **more)
        self.gate = Gate(dim, name="gate", **more)
        self.opening = Opening(name="opening", **more)
        self.dropout = keras.layers.Dropout(dropout, name="dropout", **more)

    def parts(self) -> Iterator[tuple[keras.layers.Layer, int]]:
        for part in (self.fusion_norm, self.gate, self.opening, self.dropout):
            yield part, self.dim

    def begin(self, vision: Any, mask: Any = None) -> tuple[Any, Any]:
        return self.gate.summary(masked_mean(vision, mask)), vision  # (batch, 1, 3 * dim)

    def fuse(self, text: Any, state: Any) -> Any:
        read = self.fusion_norm(text)
        return text + self.opening(self.dropout(self.gate.mix(read, state) - read))  # (batch, words, dim)

    def get_config(self) -> dict:
        return {**super().get_config(), "dim": self.dim, "heads": self.heads, "dropout": self.rate}


ADAPTERS: dict[str, type[Adapter]] = {"cross_attn": CrossAdapter, "gated": GatedAdapter}


def is_language(path: str) -> bool:
    """Return whether a layer of a captioner, by its path, belongs to the language model that writes.

    >>> is_language("block_3/mlp"), is_language("vision"), is_language("adapter_3/mlp")
    (True, False, False)
    """
    return re.match(r"(words|positions|norm|word_head|block_\d+)(/|$)", path) is not None


def block_options(layout: dict[str, Any], index: int) -> dict[str, Any]:
    """Return the options of one block of a language model, whose layers may alternate between two attentions.

    >>> block_options({"dim": 8, "window": 4, "full_layers": [1], "local_rotary": {"theta": 10.0}}, 0)
    {'window': 4, 'rotary': {'theta': 10.0}}
    """
    options = {name: layout[name] for name in Block.LATER if name in layout}
    if index in layout.get("full_layers", ()):
        options.pop("window", None)
    elif "local_rotary" in layout:
        options["rotary"] = layout["local_rotary"]
    return options


# --- a text that grows as it is read


class Reading(NamedTuple):
    """What a captioner has read, of an image and of a text for each row, up to a capacity of places."""

    pasts: list[Any]  # of each block: (keys, values), () of what keeps none
    states: list[Any]  # of each block: what it needs of the image, or None
    count: Any  # (batch, 1): the number of places that are taken


def begin(model: Any, features: Any, words: int) -> tuple[Reading, int]:
    """Return the reading of an image alone, from its features, and the places it takes, before those for `words`."""
    vision, prefix = model.vision_tokens(features), 0
    pasts: list[Any] = []
    states: list[Any] = []
    rows = ops.shape(features)[0]
    for block in model.blocks:
        state, vision = block.begin(vision)
        if isinstance(block, MergedAttn):  # the image is what was read first
            keys, values, _ = state
            prefix, state = keys.shape[3], None
            room = [0, words]
            pasts.append((ops.pad(keys, [[0, 0]] * 3 + [room]), ops.pad(values, [[0, 0], [0, 0], room, [0, 0]])))
        elif isinstance(block, Block):
            keys, values = block.empty_cache(rows, words, 1)
            pasts.append((keys[..., 0], values[:, :, :, 0]))
        else:
            pasts.append(())
        states.append(state)
    return Reading(pasts, states, ops.zeros((rows, 1), "int32") + prefix), prefix


def extend(model: Any, reading: Reading, prefix: int, tokens: Any) -> tuple[Any, Reading]:
    """Read further tokens (batch, n), PAD at the end; return the logits after the last (batch, vocabulary).

    `prefix` is the number of places that the image takes.
    """
    keep = ops.cast(tokens != PAD, "int32")
    upto = ops.cumsum(keep, axis=1)  # (batch, n)
    places = ops.where(keep > 0, reading.count + upto - 1, -1)
    x = model.embedded(tokens, ops.maximum(places - prefix, 0))  # (batch, n, dim)
    pasts = []
    for block, past, state in zip(model.blocks, reading.pasts, reading.states, strict=True):
        x, past = block.extend(x, past, places, state)
        pasts.append(past)
    last = ops.cast(ops.logical_and(keep > 0, upto == upto[:, -1:]), x.dtype)
    x = ops.sum(x * last[:, :, None], axis=1, keepdims=True)  # (batch, 1, dim)
    return model.word_logits()(x)[:, 0], Reading(pasts, reading.states, reading.count + upto[:, -1:])
