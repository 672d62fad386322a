"""Five ways in which text and vision meet, each a transformer block between whose halves the image enters.

Every fusion is called alike, `text, vision = block(text, vision, text_mask, vision_mask)`, and keeps the text's
length, so any head takes any fusion. For decoding, `begin(vision)` makes once per image what `step` reads per token.

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

from vtx_keras.models.layers import (
    MASKED,
    Attention,
    Block,
    Composite,
    Positions,
    RowDense,
    both,
    gelu,
    key_mask,
    layer_norm,
    lengths,
    masked_mean,
    register,
)
from vtx_keras.models.options import CO_ATTN_NEEDS_THE_WHOLE_TEXT


class Fused(Block):
    """Self-attention, then text and vision `meet`, then the MLP.

    `begin` is what a fusion takes from the image, `fuse` what each text token does with it. `fuse` treats every token
    by itself: that lets one definition serve a whole sequence, a single step, and several beams side by side.
    """

    # Keras calls a layer with what that layer takes, so a fusion's signature may differ from a block's.
    def compute_output_shape(self, text_shape: tuple, vision_shape: tuple) -> tuple[tuple, tuple]:  # type: ignore[override]
        return text_shape, vision_shape

    def call(self, text: Any, vision: Any, text_mask: Any = None, vision_mask: Any = None) -> tuple[Any, Any]:  # type: ignore[override]
        text = self.look_back(text, self.visible(text, text_mask))
        text, vision = self.meet(text, vision, text_mask, vision_mask)
        return self.think(text), vision

    def meet(self, text: Any, vision: Any, text_mask: Any, vision_mask: Any) -> tuple[Any, Any]:
        state, vision = self.begin(vision, vision_mask)
        return self.fuse(text, state), vision

    def step(self, x: Any, cache: tuple, now: Any, visible: Any, state: Any = None) -> tuple[Any, tuple]:
        x, cache = self.look_back_step(x, cache, now, visible)
        return self.think(self.fuse(x, state)), cache

    def self_attention_weights(self, text: Any, mask: Any = None) -> Any:
        normed = self.attention_norm(text)
        return self.attention.weights_between(normed, normed, self.visible(text, mask))


@register
class ConcatMLP(Fused):
    """The pooled image beside each text token, through a two-layer MLP.

    W[x, y] is computed as Wx·x + Wy·y: y is the same for all tokens, so its half is made once per image.
    """

    def __init__(self, dim: int, heads: int, **kwargs: Any):
        super().__init__(dim, heads, **kwargs)
        self.fusion_norm = layer_norm("fusion_norm", dtype=self.dtype_policy)
        self.from_text = RowDense(2 * dim, name="from_text", dtype=self.dtype_policy)
        self.from_image = RowDense(2 * dim, use_bias=False, name="from_image", dtype=self.dtype_policy)
        self.joined = RowDense(dim, name="joined", dtype=self.dtype_policy)

    def parts(self) -> Iterator[tuple[keras.layers.Layer, int]]:
        yield from super().parts()
        yield from ((self.fusion_norm, self.dim), (self.from_text, self.dim), (self.from_image, self.dim))
        yield self.joined, 2 * self.dim

    def begin(self, vision: Any, mask: Any = None) -> tuple[Any, Any]:
        return self.from_image(masked_mean(vision, mask)), vision

    def fuse(self, text: Any, state: Any) -> Any:
        return text + self.dropout(self.joined(gelu(self.from_text(self.fusion_norm(text)) + state)))


@register
class Gate(Composite):
    """The GRU's gate between a token x and a summary y of the other modality.

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
        """`summary` is y's share of the three products, made once for all tokens."""
        gates_y, candidate_y = ops.split(summary, [2 * self.dim], axis=-1)
        z, r = ops.split(ops.sigmoid(self.gates(x) + gates_y), 2, axis=-1)
        candidate = ops.tanh(self.candidate(r * x) + candidate_y)
        return (1 - z) * x + z * candidate

    def get_config(self) -> dict:
        return {**super().get_config(), "dim": self.dim}


@register
class Gated(Fused):
    """Each text token gated by the image's mean and, where no head is left-to-right, the image gated by the text's.

    The image gated by text is pooled and added to every text token. In a captioner it would carry words of the
    future into the past, so there only text is gated.
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
        return self.text_gate.summary(masked_mean(vision, mask)), vision

    def fuse(self, text: Any, state: Any) -> Any:
        return self.text_gate.mix(text, state)

    def meet(self, text: Any, vision: Any, text_mask: Any, vision_mask: Any) -> tuple[Any, Any]:
        fused, vision = super().meet(text, vision, text_mask, vision_mask)
        if not self.causal:
            gated = self.vision_gate(vision, masked_mean(text, text_mask))
            fused = fused + masked_mean(gated, vision_mask)
        return fused, vision


@register
class CrossAttn(Fused):
    """Text queries the image's tokens, whose keys and values are made once and shared by all beams."""

    def __init__(self, dim: int, heads: int, **kwargs: Any):
        super().__init__(dim, heads, **kwargs)
        self.fusion_norm = layer_norm("fusion_norm", dtype=self.dtype_policy)
        self.cross_attention = Attention(dim, heads, name="cross_attention", dtype=self.dtype_policy)

    def parts(self) -> Iterator[tuple[keras.layers.Layer, int]]:
        yield from super().parts()
        yield from ((self.fusion_norm, self.dim), (self.cross_attention, self.dim))

    def begin(self, vision: Any, mask: Any = None) -> tuple[Any, Any]:
        return (*self.cross_attention.keys_values(vision), key_mask(mask)), vision

    def fuse(self, text: Any, state: Any) -> Any:
        return text + self.dropout(self.cross_attention.attend(self.fusion_norm(text), *state))

    def attention_weights(self, text: Any, vision: Any, text_mask: Any = None, vision_mask: Any = None) -> tuple:
        """Where each word looks: over the image (batch, heads, words, image tokens), over the text (…, words)."""
        words = self.fusion_norm(self.look_back(text, self.visible(text, text_mask)))
        over_image = self.cross_attention.weights_between(words, vision, key_mask(vision_mask))
        return over_image, self.self_attention_weights(text, text_mask)


@register
class CoAttn(Fused):
    """Bilinear affinity T·W·Vᵀ, softmax both ways: each modality is re-expressed by the other.

    The re-expressed image is pooled and added to every text token. That path, text → image → text, would show a
    left-to-right decoder its own future, so a causal block is refused.
    """

    def __init__(self, dim: int, heads: int, **kwargs: Any):
        if kwargs.get("causal"):
            raise ValueError(CO_ATTN_NEEDS_THE_WHOLE_TEXT)
        super().__init__(dim, heads, **kwargs)
        self.fusion_norm = layer_norm("fusion_norm", dtype=self.dtype_policy)
        self.bilinear = RowDense(dim, use_bias=False, name="bilinear", dtype=self.dtype_policy)
        self.to_text = RowDense(dim, name="to_text", dtype=self.dtype_policy)
        self.to_vision = RowDense(dim, name="to_vision", dtype=self.dtype_policy)

    def parts(self) -> Iterator[tuple[keras.layers.Layer, int]]:
        yield from super().parts()
        for part in (self.fusion_norm, self.bilinear, self.to_text, self.to_vision):
            yield part, self.dim

    def meet(self, text: Any, vision: Any, text_mask: Any, vision_mask: Any) -> tuple[Any, Any]:
        words = self.fusion_norm(text)
        affinity = self.affinity(words, vision)
        image_for_text = self.read(affinity, vision, vision_mask)
        text_for_image = self.read(ops.transpose(affinity, (0, 2, 1)), words, text_mask)
        vision = vision + self.dropout(self.to_vision(text_for_image))
        text = text + self.dropout(self.to_text(image_for_text)) + masked_mean(vision, vision_mask)
        return text, vision

    def affinity(self, words: Any, vision: Any) -> Any:
        return ops.matmul(self.bilinear(words), ops.transpose(vision, (0, 2, 1))) * self.dim**-0.5

    def read(self, affinity: Any, other: Any, mask: Any) -> Any:
        """The softmax-weighted tokens of the `other` modality, padding left out."""
        return ops.matmul(self.weights_of(affinity, mask), other)

    def weights_of(self, affinity: Any, mask: Any) -> Any:
        affinity = ops.cast(affinity, "float32")
        if mask is not None:
            affinity = ops.where(key_mask(mask), affinity, MASKED)
        return ops.cast(ops.softmax(affinity), self.compute_dtype)

    def attention_weights(self, text: Any, vision: Any, text_mask: Any = None, vision_mask: Any = None) -> tuple:
        """Where each word looks: over the image (batch, 1, words, image tokens), over the text (…, words)."""
        words = self.fusion_norm(self.look_back(text, self.visible(text, text_mask)))
        over_image = ops.expand_dims(self.weights_of(self.affinity(words, vision), vision_mask), 1)
        return over_image, self.self_attention_weights(text, text_mask)


@register
class MergedAttn(Fused):
    """One sequence, image tokens then text tokens, through one block (VisualBERT); a prefix-LM when causal.

    Causally the image sees only itself, so its keys and values do not depend on the text and are made once.
    """

    def call(self, text: Any, vision: Any, text_mask: Any = None, vision_mask: Any = None) -> tuple[Any, Any]:  # type: ignore[override]  # as in Fused
        (prefix,) = lengths(vision)
        merged = ops.concatenate([vision, text], axis=1)
        merged = self.think(self.look_back(merged, self.merged_mask(text, vision, text_mask, vision_mask)))
        return merged[:, prefix:], merged[:, :prefix]

    def attention_weights(self, text: Any, vision: Any, text_mask: Any = None, vision_mask: Any = None) -> tuple:
        """Where each word looks: over the image (batch, heads, words, image tokens), over the text (…, words).

        The two are parts of one softmax: together they sum to 1.
        """
        (prefix,) = lengths(vision)
        merged = self.attention_norm(ops.concatenate([vision, text], axis=1))
        mask = self.merged_mask(text, vision, text_mask, vision_mask)
        weights = self.attention.weights_between(merged, merged, mask)[:, :, prefix:]
        return weights[..., :prefix], weights[..., prefix:]

    def merged_mask(self, text: Any, vision: Any, text_mask: Any, vision_mask: Any) -> Any:
        order = keep = None
        if self.causal:  # a query sees the image, and of the text what is not after it
            prefix, positions = lengths(vision)[0], ops.arange(lengths(vision)[0] + lengths(text)[0])
            order = ops.logical_or(positions[None, :] < prefix, positions[:, None] >= positions[None, :])[None]
        if text_mask is not None or vision_mask is not None:
            masks = [
                ops.ones_like(tokens[:, :, 0], "bool") if mask is None else mask
                for tokens, mask in ((vision, vision_mask), (text, text_mask))
            ]
            keep = key_mask(ops.concatenate(masks, axis=1))
        return both(keep, order)

    def begin(self, vision: Any, mask: Any = None) -> tuple[Any, Any]:
        keep = ops.ones_like(vision[:, :, 0], "bool") if mask is None else mask
        state = (*self.attention.keys_values(self.attention_norm(vision)), key_mask(keep))
        return state, self.think(self.look_back(vision, key_mask(mask)))

    def step(self, x: Any, cache: tuple, now: Any, visible: Any, state: Any = None) -> tuple[Any, tuple]:
        keys, values, keep = state
        prefix = (keys, values, ops.tile(keep, (1, x.shape[1], 1)))
        x, cache = self.look_back_step(x, cache, now, visible, prefix)
        return self.think(x), cache


@register
class Vision(keras.layers.Layer):
    """Features to tokens (batch, tokens, dim): norm, projection, positions in space and, for a clip, in time.

    `clip` says that the first axis after the batch is frames. With `temporal="gru"` a state runs along the frames, at
    each place of the picture by itself, instead of learned positions per frame.
    """

    def __init__(self, dim: int, clip: bool = False, temporal: str = "positions", **kwargs: Any):
        super().__init__(**kwargs)
        self.dim, self.clip, self.temporal = dim, clip, temporal
        self.norm = layer_norm("norm", dtype=self.dtype_policy)
        self.projection = RowDense(dim, dtype=self.dtype_policy, name="projection")
        if clip and temporal == "gru":  # pictures have no frames to remember
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
            self.time = Positions((self.frames,), dtype=self.dtype_policy, name="time")
            self.time.build((None, self.frames, self.dim))

    def call(self, features: Any) -> Any:
        x = self.projection(self.norm(ops.reshape(features, (-1, self.places, features.shape[-1]))))
        x = self.space(x)
        if not self.clip:
            return x
        x = ops.reshape(x, (-1, self.frames, self.places, self.dim))
        if self.temporal == "gru":
            paths = ops.reshape(ops.transpose(x, (0, 2, 1, 3)), (-1, self.frames, self.dim))
            remembered = ops.reshape(self.memory(paths), (-1, self.places, self.frames, self.dim))
            x = x + ops.transpose(remembered, (0, 2, 1, 3))
        else:
            x = x + ops.expand_dims(self.time.table(), 1)
        return ops.reshape(x, (-1, self.frames * self.places, self.dim))

    def get_config(self) -> dict:
        return {**super().get_config(), "dim": self.dim, "clip": self.clip, "temporal": self.temporal}


FUSIONS = {
    "concat_mlp": ConcatMLP,
    "gated": Gated,
    "cross_attn": CrossAttn,
    "co_attn": CoAttn,
    "merged_attn": MergedAttn,
}
