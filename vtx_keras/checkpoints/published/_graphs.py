"""The graphs of published models. Architectures differ in a handful of options, which a `layout` names.

A layout is what a checkpoint's config.json says, in the terms of this package: plain values that JSON can hold. It is
saved in the spec of the model, so a weights folder can build the graph again without the checkpoint.

    vision   arguments of `_parts.vit`
    bridge   None, or {"epsilon"}: image tokens are projected to the text's width and, with an epsilon, normed
    text     dim, heads, depth, hidden, epsilon, activation, positions, and where they are not False:
             post_norm      norms come after the sums, and one after the embedding (BERT)
             word_transform a dense layer and a norm in front of the word table (BERT)
             word_bias      a number per word
             own_head       the head is a matrix of its own, not the word table
    absent   ids that the checkpoint has no row for
    rule     how texts are cut into pieces: see `inputs.text.Vocabulary`
    decode   fields of `_search.Rules` that are not the default
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from vtx_keras.checkpoints.published import _search
from vtx_keras.checkpoints.published._parts import (
    ImageTokens,
    NormedPositions,
    TokenAt,
    WordBias,
    WordTransform,
    places_of,
    vit,
)
from vtx_keras.inputs.text import PAD
from vtx_keras.models._base import Spec, VisionText, graph
from vtx_keras.models._methods import Answerer, Captioner, Matcher, Retriever
from vtx_keras.models.fusion import FUSIONS
from vtx_keras.models.layers import Block, Positions, layer_norm, register
from vtx_keras.models.objectives import Contrastive, WordAccuracy, WordLoss
from vtx_keras.models.options import did_you_mean, lookup
from vtx_keras.models.tasks import compiled, token_input


@register
class PublishedCaptioner(Captioner):
    """A captioner that searches by the rules it was published with."""

    def find(self, step: Callable, cache: Any, prompt: Any, **settings: Any) -> tuple[Any, Any]:
        """Search as transformers does, by `_search.Rules`, of which some may be given. Sampling is the zoo's own."""
        given = {name: settings.pop(name) for name in _search.Rules._fields if name in settings}
        if settings.get("draw") is not None:
            return super().find(step, cache, prompt, **settings)
        settings.pop("draw", None)
        rules = _search.Rules(**{**self.spec["published"].get("decode", {}), **given})
        return _search.search(step, cache, prompt, rules=rules, **settings)

    def check_rules(self, rules: dict[str, Any]) -> dict[str, Any]:
        """Return rules after checking their names; `length_penalty` is one of them for `generate`."""
        for name in rules:
            known = (*_search.Rules._fields, "length_penalty")
            if name not in known:
                raise TypeError(f"generate() has no {name!r}{did_you_mean(name, known)}: expected {', '.join(known)}")
        return rules


def construct(spec: dict) -> VisionText:
    """Build the graph of a published model from its spec, with new weights."""
    entry = lookup(spec["name"])
    return {"captioner": captioner, "retriever": retriever, "matcher": matcher, "vqa": vqa}[entry.task](spec)


def captioner(spec: dict) -> PublishedCaptioner:
    """Build a decoder over an image: BLIP, GIT, ViT-GPT2."""
    layout, t = spec["published"], spec["published"]["text"]
    inputs, vision = image_tokens(layout)  # (batch, image tokens, width)
    inputs["tokens"] = token_input()
    size = len(spec["vocabulary"])
    if t.get("own_head"):
        words = keras.layers.Embedding(size, t["dim"], name="words")
    else:
        words = keras.layers.ReversibleEmbedding(size, t["dim"], reverse_dtype="float32", name="words")
    x = positions(t)(words(Spec(spec, name="spec")(inputs["tokens"])))  # (batch, words, dim)
    for block in blocks(spec, causal=True, width=vision.shape[-1]):
        x, vision = block(x, vision)
    if t.get("word_transform"):
        x = WordTransform(t["dim"], t["activation"], t["epsilon"], name="norm")(x)
    elif t.get("post_norm"):
        x = keras.layers.Identity(name="norm")(x)
    else:
        x = layer_norm("norm", t["epsilon"])(x)
    if t.get("own_head"):
        logits = keras.layers.Dense(size, use_bias=False, dtype="float32", name="word_head")(x)
    else:
        logits = words(x, reverse=True)  # (batch, words, vocabulary)
    logits = WordBias(t.get("word_bias", False), layout["absent"], dtype="float32", name="word_bias")(logits)
    return compiled(graph(inputs, logits, "captioner", PublishedCaptioner), WordLoss(), [WordAccuracy()])


def retriever(spec: dict) -> Retriever:
    """Build two towers: CLIP's class token and end token, projected to unit vectors."""
    layout, t = spec["published"], spec["published"]["text"]
    inputs, vision = image_tokens(layout)
    inputs["tokens"] = token_input()
    ids = keras.Input((None,), dtype="int32", name="tokens")
    x = positions(t)(keras.layers.Embedding(len(spec["vocabulary"]), t["dim"], name="words")(ids))
    for i in range(t["depth"]):
        x = Block(t["dim"], t["heads"], causal=True, **block_options(t), name=f"block_{i}")(x)
    text_encoder = graph(ids, layer_norm("last_norm", t["epsilon"])(x), "text_encoder")
    tokens = Spec(spec, name="spec")(inputs["tokens"])

    def embedding(x: Any, modality: str) -> Any:
        x = keras.layers.Dense(layout["embedding"], use_bias=False, dtype="float32", name=f"{modality}_projection")(x)
        return keras.layers.UnitNormalization(dtype="float32", name=f"{modality}_embedding")(x)

    image_embedding = embedding(TokenAt("first", name="image_pool")(vision), "image")  # (batch, embedding)
    text_embedding = embedding(TokenAt("end", name="text_pool")(text_encoder(tokens), tokens), "text")
    pairs = Contrastive("softmax", dtype="float32", name="contrastive")(image_embedding, text_embedding)
    return compiled(graph(inputs, pairs, "retriever", Retriever), None, [])


def matcher(spec: dict) -> Matcher:
    """Build a text encoder that reads the image in every block, and one logit at its first token: BLIP-ITM."""
    inputs, x = read_together(spec)
    logits = keras.layers.Dense(1, dtype="float32", name="head")(TokenAt("first", name="pool")(x))
    loss = keras.losses.BinaryCrossentropy(from_logits=True, reduction="mean_with_sample_weight")
    metrics = [keras.metrics.BinaryAccuracy(threshold=0.0, name="accuracy")]
    return compiled(graph(inputs, logits, "matcher", Matcher), loss, metrics)


def vqa(spec: dict) -> Answerer:
    """Build a classifier of answers."""
    raise NotImplementedError(spec["name"])


def read_together(spec: dict) -> tuple[dict, Any]:
    """Return the inputs, and the text (batch, words, dim) after all fusion blocks, which see it whole."""
    t = spec["published"]["text"]
    inputs, vision = image_tokens(spec["published"])
    inputs["tokens"] = token_input()
    tokens = Spec(spec, name="spec")(inputs["tokens"])
    mask = ops.not_equal(tokens, PAD)  # (batch, words)
    x = positions(t)(keras.layers.Embedding(len(spec["vocabulary"]), t["dim"], name="words")(tokens))
    for block in blocks(spec, causal=False, width=vision.shape[-1]):
        x, vision = block(x, vision, mask)
    return inputs, x


def image_tokens(layout: dict) -> tuple[dict, Any]:
    """Return the image input, and what a fusion reads of it (batch, image tokens, width)."""
    encoder, bridge = vit(**layout["vision"]), layout.get("bridge")
    inputs = {"image": keras.Input(encoder.input_shape[1:], name="image")}
    options = {"dim": layout["text"]["dim"], **bridge} if bridge is not None else {}
    width = encoder.output_shape[-1]
    return inputs, ImageTokens(places_of(encoder), width, **options, name="vision")(encoder(inputs["image"]))


def positions(t: dict) -> keras.layers.Layer:
    """Return the layer that adds positions to words."""
    if t.get("post_norm"):
        return NormedPositions((t["positions"],), t["epsilon"], name="positions")
    return Positions((t["positions"],), name="positions")


def block_options(t: dict) -> dict[str, Any]:
    """Return the options of a published text block."""
    return {name: t[name] for name in ("hidden", "epsilon", "activation", "dropout", "post_norm") if name in t}


def blocks(spec: dict, *, causal: bool, width: int) -> list[Block]:
    """Return the fusion blocks of the model's fusion, which reads image tokens of this width."""
    fusion, t = lookup(spec["name"]).fusion or "", spec["published"]["text"]
    options = block_options(t)
    if fusion == "cross_attn" and width != t["dim"]:
        options["context_dim"] = width
    layer = FUSIONS[fusion]
    return [layer(t["dim"], t["heads"], causal=causal, **options, name=f"fusion_{i}") for i in range(t["depth"])]
