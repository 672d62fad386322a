"""Five fusions of text and vision, each a transformer block whose fusion comes between self-attention and MLP.

All are called alike, `text, vision = block(text, vision, text_mask, vision_mask)`, and keep the text's length, so any
head takes any fusion. For decoding, `begin(vision)` computes once per image what `step` uses for every token. Shapes:
text is (batch, words, dim), vision (batch, image tokens, dim), text_mask (batch, words), True where there is a word.

    >>> block = FUSIONS["cross_attn"](dim=8, heads=2)
    >>> text, vision = block(ops.ones((1, 5, 8)), ops.ones((1, 9, 8)))
    >>> tuple(text.shape), tuple(vision.shape)
    ((1, 5, 8), (1, 9, 8))
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import keras
from keras import ops

from vtx_keras.models.blocks import Attention, Block, ranks_of
from vtx_keras.models.layers import (
    MASKED,
    Composite,
    Positions,
    RowDense,
    causal_mask,
    changed,
    combine_masks,
    gelu,
    key_mask,
    layer_norm,
    lengths,
    masked_mean,
    register,
)
from vtx_keras.models.options import CO_ATTN_NEEDS_THE_WHOLE_TEXT

__all__ = ["FUSIONS", "POOLING", "CoAttn", "ConcatMLP", "CrossAttn", "Fused", "Gate", "Gated", "MergedAttn", "Vision"]


class Fused(Block):
    """Self-attention, then the fusion of text and vision, then the MLP.

    A fusion defines `begin`, what it computes from the image, and `fuse`, what it does with each text token. `fuse`
    treats every token by itself, so one definition serves a whole sequence, a single step, and several beams.
    """

    # A fusion takes other arguments than a block, which Keras allows.
    def compute_output_shape(self, text_shape: tuple, vision_shape: tuple) -> tuple[tuple, tuple]:  # type: ignore[override]
        return text_shape, vision_shape

    def call(self, text: Any, vision: Any, text_mask: Any = None, vision_mask: Any = None) -> tuple[Any, Any]:  # type: ignore[override]
        text = self.self_attend(text, self.self_attention_mask(text, text_mask))
        text, vision = self.fuse_sequences(text, vision, text_mask, vision_mask)
        return self.apply_mlp(text), vision

    def fuse_sequences(self, text: Any, vision: Any, text_mask: Any, vision_mask: Any) -> tuple[Any, Any]:
        """Return text and vision after the fusion, in the shapes they came in."""
        state, vision = self.begin(vision, vision_mask)
        return self.fuse(text, state), vision

    def step(self, x: Any, cache: tuple, now: Any, visible: Any, state: Any = None) -> tuple[Any, tuple]:
        x, cache = self.self_attend_step(x, cache, now, visible)  # (batch, beams, dim)
        return self.apply_mlp(self.fuse(x, state)), cache

    def extend(self, x: Any, past: tuple, places: Any, state: Any = None) -> tuple[Any, tuple]:
        x, past = self.self_attend_further(x, past, places)  # (batch, n, dim)
        return self.apply_mlp(self.fuse(x, state)), past

    def self_attention_weights(self, text: Any, mask: Any = None) -> Any:
        """Return the weights (batch, heads, words, words) of the text's self-attention."""
        read = self.before(self.attention_norm, text)
        return self.attention.weights_between(read, read, self.self_attention_mask(text, mask))


@register
class ConcatMLP(Fused):
    """Concatenates the pooled image to each text token, and applies a two-layer MLP.

    W[x, y] is computed as Wx·x + Wy·y: y is the same for all tokens, so Wy·y is computed once per image.
    """

    def __init__(self, dim: int, heads: int, **kwargs: Any):
        super().__init__(dim, heads, **kwargs)
        self.fusion_norm = layer_norm("fusion_norm", self.epsilon, dtype=self.dtype_policy)
        self.from_text = RowDense(2 * dim, name="from_text", dtype=self.dtype_policy)
        self.from_image = RowDense(2 * dim, use_bias=False, name="from_image", dtype=self.dtype_policy)
        self.joined = RowDense(dim, name="joined", dtype=self.dtype_policy)

    def parts(self) -> Iterator[tuple[keras.layers.Layer, int]]:
        yield from super().parts()
        yield from ((self.fusion_norm, self.dim), (self.from_text, self.dim), (self.from_image, self.dim))
        yield self.joined, 2 * self.dim

    def begin(self, vision: Any, mask: Any = None) -> tuple[Any, Any]:
        return self.from_image(masked_mean(vision, mask)), vision  # (batch, 1, 2 * dim)

    def fuse(self, text: Any, state: Any) -> Any:
        hidden = gelu(self.from_text(self.before(self.fusion_norm, text)) + state)  # (batch, words, 2 * dim)
        return self.after(self.fusion_norm, text, self.joined(hidden))  # (batch, words, dim)


@register
class Gate(Composite):
    """The gate of a GRU between a token x and a summary y of the other modality.

    z = σ(Wz[x, y]), r = σ(Wr[x, y]), h̃ = tanh(W[r⊙x, y]), h = (1 − z)⊙x + z⊙h̃
    """

    def __init__(self, dim: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.dim = dim
        self.gates = RowDense(2 * dim, name="gates", dtype=self.dtype_policy)
        self.candidate = RowDense(dim, name="candidate", dtype=self.dtype_policy)
        self.summary = RowDense(3 * dim, use_bias=False, name="summary", dtype=self.dtype_policy)

    def parts(self) -> Iterator[tuple[keras.layers.Layer, int]]:
        yield from ((self.gates, self.dim), (self.candidate, self.dim), (self.summary, self.dim))

    def call(self, x: Any, y: Any) -> Any:
        return self.mix(x, self.summary(y))

    def mix(self, x: Any, summary: Any) -> Any:
        """Gate `x` by `summary` (batch, 1, 3 * dim), the part of the three products that depends on y alone."""
        gates_y, candidate_y = ops.split(summary, [2 * self.dim], axis=-1)  # (batch, 1, 2 * dim), (batch, 1, dim)
        z, r = ops.split(ops.sigmoid(self.gates(x) + gates_y), 2, axis=-1)  # each (batch, tokens, dim)
        candidate = ops.tanh(self.candidate(r * x) + candidate_y)
        return (1 - z) * x + z * candidate

    def get_config(self) -> dict:
        return {**super().get_config(), "dim": self.dim}


@register
class Gated(Fused):
    """Gates each text token by the mean of the image and, unless causal, each image token by the mean of the text.

    The gated image is pooled and added to every text token. In a captioner this would show words their future, so a
    causal block gates only the text.
    """

    def __init__(self, dim: int, heads: int, **kwargs: Any):
        super().__init__(dim, heads, **kwargs)
        self.text_gate = Gate(dim, name="text_gate", dtype=self.dtype_policy)
        if not self.causal:
            self.vision_gate = Gate(dim, name="vision_gate", dtype=self.dtype_policy)

    def parts(self) -> Iterator[tuple[keras.layers.Layer, int]]:
        yield from super().parts()
        yield self.text_gate, self.dim
        if not self.causal:
            yield self.vision_gate, self.dim

    def begin(self, vision: Any, mask: Any = None) -> tuple[Any, Any]:
        return self.text_gate.summary(masked_mean(vision, mask)), vision  # (batch, 1, 3 * dim)

    def fuse(self, text: Any, state: Any) -> Any:
        return self.text_gate.mix(text, state)

    def fuse_sequences(self, text: Any, vision: Any, text_mask: Any, vision_mask: Any) -> tuple[Any, Any]:
        fused, vision = super().fuse_sequences(text, vision, text_mask, vision_mask)
        if not self.causal:
            gated = self.vision_gate(vision, masked_mean(text, text_mask))  # (batch, image tokens, dim)
            fused = fused + masked_mean(gated, vision_mask)  # (batch, words, dim) + (batch, 1, dim)
        return fused, vision


@register
class CrossAttn(Fused):
    """Attends from text to image tokens, whose keys and values are computed once and shared by all beams.

    The image tokens may have another width, `context_dim`, and `fusion_heads` as many heads as are left.
    """

    def __init__(
        self, dim: int, heads: int, context_dim: int | None = None, fusion_heads: int | None = None, **kwargs: Any
    ):
        super().__init__(dim, heads, **kwargs)
        self.context_dim, self.fusion_heads = context_dim, fusion_heads
        more = {"head_dim": self.head_dim, "ranks": ranks_of(self.ranks, "cross_attention"), "dtype": self.dtype_policy}
        self.fusion_norm = layer_norm("fusion_norm", self.epsilon, dtype=self.dtype_policy)
        self.cross_attention = Attention(dim, fusion_heads or heads, context_dim, name="cross_attention", **more)

    def get_config(self) -> dict:
        return {**super().get_config(), **changed(self, {"context_dim": None, "fusion_heads": None})}

    def parts(self) -> Iterator[tuple[keras.layers.Layer, int]]:
        yield from super().parts()
        yield from ((self.fusion_norm, self.dim), (self.cross_attention, self.dim))

    def begin(self, vision: Any, mask: Any = None) -> tuple[Any, Any]:
        keys, values = self.cross_attention.keys_values(vision)
        return (keys, values, key_mask(mask)), vision

    def fuse(self, text: Any, state: Any) -> Any:
        read = self.before(self.fusion_norm, text)
        return self.after(self.fusion_norm, text, self.cross_attention.attend(read, *state))

    def attention_weights(self, text: Any, vision: Any, text_mask: Any = None, vision_mask: Any = None) -> tuple:
        """Return attention weights over the image (batch, heads, words, image tokens) and the text (…, words)."""
        words = self.before(self.fusion_norm, self.self_attend(text, self.self_attention_mask(text, text_mask)))
        over_image = self.cross_attention.weights_between(words, vision, key_mask(vision_mask))
        return over_image, self.self_attention_weights(text, text_mask)


@register
class CoAttn(Fused):
    """Computes the affinity T·W·Vᵀ of text and image tokens, and re-expresses each modality by the other.

    The re-expressed image is pooled and added to every text token. That path, text → image → text, would show a
    left-to-right decoder its own future, so `causal` is refused.
    """

    def __init__(self, dim: int, heads: int, **kwargs: Any):
        if kwargs.get("causal"):
            raise ValueError(CO_ATTN_NEEDS_THE_WHOLE_TEXT)
        super().__init__(dim, heads, **kwargs)
        self.fusion_norm = layer_norm("fusion_norm", self.epsilon, dtype=self.dtype_policy)
        self.bilinear = RowDense(dim, use_bias=False, name="bilinear", dtype=self.dtype_policy)
        self.to_text = RowDense(dim, name="to_text", dtype=self.dtype_policy)
        self.to_vision = RowDense(dim, name="to_vision", dtype=self.dtype_policy)

    def parts(self) -> Iterator[tuple[keras.layers.Layer, int]]:
        yield from super().parts()
        for part in (self.fusion_norm, self.bilinear, self.to_text, self.to_vision):
            yield part, self.dim

    def fuse_sequences(self, text: Any, vision: Any, text_mask: Any, vision_mask: Any) -> tuple[Any, Any]:
        words = self.before(self.fusion_norm, text)
        affinity = self.affinity(words, vision)
        image_for_text = self.weighted_sum(affinity, vision, vision_mask)  # (batch, words, dim)
        affinity = ops.transpose(affinity, (0, 2, 1))  # (batch, image tokens, words)
        text_for_image = self.weighted_sum(affinity, words, text_mask)  # (batch, image tokens, dim)
        vision = vision + self.dropout(self.to_vision(text_for_image))
        text = text + self.dropout(self.to_text(image_for_text)) + masked_mean(vision, vision_mask)
        return (self.fusion_norm(text) if self.post_norm else text), vision

    def affinity(self, words: Any, vision: Any) -> Any:
        """Return how well words and image tokens fit (batch, words, image tokens)."""
        return ops.matmul(self.bilinear(words), ops.transpose(vision, (0, 2, 1))) * self.dim**-0.5

    def weighted_sum(self, affinity: Any, other: Any, mask: Any) -> Any:
        """Return the softmax-weighted sum of the `other` modality's tokens, without padding."""
        return ops.matmul(self.weights_of(affinity, mask), other)

    def weights_of(self, affinity: Any, mask: Any) -> Any:
        """Return the softmax of the affinity over its last axis, where `mask` (batch, keys) is true."""
        affinity = ops.cast(affinity, "float32")
        if mask is not None:
            affinity = ops.where(key_mask(mask), affinity, MASKED)
        return ops.cast(ops.softmax(affinity), self.compute_dtype)

    def attention_weights(self, text: Any, vision: Any, text_mask: Any = None, vision_mask: Any = None) -> tuple:
        """Return attention weights over the image (batch, 1, words, image tokens) and the text (…, words)."""
        words = self.before(self.fusion_norm, self.self_attend(text, self.self_attention_mask(text, text_mask)))
        over_image = ops.expand_dims(self.weights_of(self.affinity(words, vision), vision_mask), 1)
        return over_image, self.self_attention_weights(text, text_mask)


@register
class MergedAttn(Fused):
    """Applies one block to one sequence of image tokens, then text tokens (VisualBERT); a prefix LM when causal.

    When causal, the image attends only to itself, so its keys and values do not depend on the text. With
    `causal_prefix` each image token attends to those before it, as language models read all that comes.
    """

    def __init__(self, dim: int, heads: int, causal_prefix: bool = False, **kwargs: Any):
        super().__init__(dim, heads, **kwargs)
        self.causal_prefix = causal_prefix

    def get_config(self) -> dict:
        return {**super().get_config(), **changed(self, {"causal_prefix": False})}

    def call(self, text: Any, vision: Any, text_mask: Any = None, vision_mask: Any = None) -> tuple[Any, Any]:  # type: ignore[override]  # as in Fused
        (prefix,) = lengths(vision)
        merged = ops.concatenate([vision, text], axis=1)  # (batch, image tokens + words, dim)
        merged = self.apply_mlp(self.self_attend(merged, self.merged_mask(text, vision, text_mask, vision_mask)))
        return merged[:, prefix:], merged[:, :prefix]

    def attention_weights(self, text: Any, vision: Any, text_mask: Any = None, vision_mask: Any = None) -> tuple:
        """Return attention weights over the image (batch, heads, words, image tokens) and the text (…, words).

        They are parts of one softmax: together they sum to 1.
        """
        (prefix,) = lengths(vision)
        merged = self.before(self.attention_norm, ops.concatenate([vision, text], axis=1))
        mask = self.merged_mask(text, vision, text_mask, vision_mask)
        weights = self.attention.weights_between(merged, merged, mask)
        weights = weights[:, :, prefix:]  # (batch, heads, words, image tokens + words)
        return weights[..., :prefix], weights[..., prefix:]

    def merged_mask(self, text: Any, vision: Any, text_mask: Any, vision_mask: Any) -> Any:
        """Return the attention mask of the merged sequence, None where everything is visible."""
        order = keep = None
        if self.causal:  # a query sees the whole image, and the text up to its own position
            prefix, positions = lengths(vision)[0], ops.arange(lengths(vision)[0] + lengths(text)[0])
            seen_by_all = positions[None, :] < (0 if self.causal_prefix else prefix)
            order = ops.logical_or(seen_by_all, positions[:, None] >= positions[None, :])
            order = self.within(order[None], positions[None], positions[None])  # (1, image tokens + words, …)
        if text_mask is not None or vision_mask is not None:
            masks = [
                ops.ones_like(tokens[:, :, 0], "bool") if mask is None else mask
                for tokens, mask in ((vision, vision_mask), (text, text_mask))
            ]
            keep = key_mask(ops.concatenate(masks, axis=1))  # (batch, 1, image tokens + words)
        return combine_masks(keep, order)

    def begin(self, vision: Any, mask: Any = None) -> tuple[Any, Any]:
        keep = ops.ones_like(vision[:, :, 0], "bool") if mask is None else mask
        keys, values = self.attention.keys_values(self.before(self.attention_norm, vision))
        visible, places = key_mask(mask), ops.arange(lengths(vision)[0])[None]
        if self.causal_prefix:
            visible = combine_masks(visible, self.within(causal_mask(*lengths(vision)), places, places))
        return (keys, values, key_mask(keep)), self.apply_mlp(self.self_attend(vision, visible))

    def step(self, x: Any, cache: tuple, now: Any, visible: Any, state: Any = None) -> tuple[Any, tuple]:
        return Block.step(self, x, cache, now, visible, state)  # the image is what comes before the text

    def extend(self, x: Any, past: tuple, places: Any, state: Any = None) -> tuple[Any, tuple]:
        return Block.extend(self, x, past, places)  # the image is in the past


@register
class Vision(keras.layers.Layer):
    """Turns features into tokens (batch, tokens, dim): norm, projection, positions in space and, for a clip, in time.

    `clip` means that the first axis after the batch is frames. With `temporal="gru"` a GRU runs along the frames, for
    each place in the grid by itself, instead of learned positions per frame. `dropout` of the tokens, and half of it of
    the features: what stands behind a frozen encoder sees each image in one form alone, and would learn it by heart.
    """

    def __init__(self, dim: int, clip: bool = False, temporal: str = "positions", dropout: float = 0.0, **kwargs: Any):
        super().__init__(**kwargs)
        self.dim, self.clip, self.temporal, self.rate = dim, clip, temporal, dropout
        self.norm = layer_norm("norm", dtype=self.dtype_policy)
        self.feature_dropout = keras.layers.Dropout(dropout / 2, name="feature_dropout", dtype=self.dtype_policy)
        self.dropout = keras.layers.Dropout(dropout, name="dropout", dtype=self.dtype_policy)
        self.projection = RowDense(dim, dtype=self.dtype_policy, name="projection")
        if clip and temporal == "gru":  # images have no frames
            self.memory = keras.layers.GRU(dim, return_sequences=True, dtype=self.dtype_policy, name="memory")

    def compute_output_shape(self, shape: tuple) -> tuple:
        return (shape[0], math.prod(shape[1:-1]), self.dim)

    def build(self, shape: tuple) -> None:
        self.frames = shape[1] if self.clip else 1
        grid = shape[2:-1] if self.clip else shape[1:-1]
        self.places = math.prod(grid)
        self.norm.build(shape)
        self.projection.build(shape)
        self.space = Positions(grid, dtype=self.dtype_policy, name="space")
        self.space.build((None, self.places, self.dim))
        if self.clip and self.temporal == "gru":
            self.memory.build((None, self.frames, self.dim))
        elif self.clip:
            # As large as the tokens: small ones, as words have, are lost among them, and the order of frames with them.
            self.time = Positions((self.frames,), scale=1.0, dtype=self.dtype_policy, name="time")
            self.time.build((None, self.frames, self.dim))

    def call(self, features: Any) -> Any:
        x = ops.reshape(features, (-1, self.places, features.shape[-1]))  # (batch * frames, places, width)
        x = self.projection(self.feature_dropout(self.norm(x)))  # (batch * frames, places, dim)
        x = self.space(self.dropout(x))
        if not self.clip:
            return x
        x = ops.reshape(x, (-1, self.frames, self.places, self.dim))  # (batch, frames, places, dim)
        if self.temporal == "gru":
            by_place = ops.transpose(x, (0, 2, 1, 3))  # (batch, places, frames, dim)
            states = self.memory(ops.reshape(by_place, (-1, self.frames, self.dim)))  # (batch * places, frames, dim)
            states = ops.reshape(states, (-1, self.places, self.frames, self.dim))
            x = x + ops.transpose(states, (0, 2, 1, 3))  # (batch, frames, places, dim)
        else:
            x = x + ops.expand_dims(self.time.table(), 1)  # (frames, 1, dim)
        return ops.reshape(x, (-1, self.frames * self.places, self.dim))  # (batch, frames * places, dim)

    def get_config(self) -> dict:
        later = {"dropout": self.rate} if self.rate else {}  # absent from files of before
        return {**super().get_config(), "dim": self.dim, "clip": self.clip, "temporal": self.temporal, **later}


POOLING = ("concat_mlp", "gated")  # fusions that read the mean of the image tokens
FUSIONS = {
    "concat_mlp": ConcatMLP,
    "gated": Gated,
    "cross_attn": CrossAttn,
    "co_attn": CoAttn,
    "merged_attn": MergedAttn,
}
