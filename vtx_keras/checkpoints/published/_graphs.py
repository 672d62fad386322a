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
             embedding_norm a norm comes after the embedding, whatever post_norm says (ViLT)
             padded         texts have no start, are padded to all positions and read whole (SigLIP)
             pooler         a dense layer with tanh comes before the head (ViLT)
    pool     arguments of `_parts.ProbePool`, which pools an image that is not projected; else its first token (CLIP)
    head     hidden, epsilon of the classifier of answers
    absent   ids that the checkpoint has no row for
    decode   fields of `_search.Rules` that are not the default
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from vtx_keras.checkpoints.published import _search
from vtx_keras.checkpoints.published._parts import (
    ImageTokens,
    NormedPositions,
    Padded,
    ProbePool,
    TokenAt,
    WordTransform,
    places_of,
    vit,
)
from vtx_keras.inputs import media, text
from vtx_keras.inputs.text import PAD
from vtx_keras.models._base import Spec, VisionText, graph, paired
from vtx_keras.models._chat import takes_seen
from vtx_keras.models._methods import Answerer, Captioner, Matcher, Retriever
from vtx_keras.models.blocks import Block
from vtx_keras.models.decode import UNWRITABLE, check_beams
from vtx_keras.models.fusion import FUSIONS
from vtx_keras.models.layers import ACTIVATIONS, Positions, WordBias, layer_norm, register
from vtx_keras.models.objectives import Contrastive, WordAccuracy, WordLoss
from vtx_keras.models.options import lookup
from vtx_keras.models.tasks import compiled, token_input


@register
class PublishedCaptioner(Captioner):
    """A captioner that searches by the rules it was published with."""

    def find(self, step: Callable, cache: Any, prompt: Any, **settings: Any) -> tuple[Any, Any]:
        """Search as transformers does, by `_search.Rules`, of which some may be given. Sampling is the zoo's own."""
        given = {name: settings.pop(name) for name in _search.Rules._fields if name in settings}
        if settings.get("draw") is not None:
            if given:
                raise ValueError(f"{', '.join(given)}: a rule of the search, which has no effect with a sampler")
            return super().find(step, cache, prompt, **settings)
        settings.pop("draw", None)
        rules = _search.Rules(**{**self.spec["published"].get("decode", {}), **given})
        return _search.search(step, cache, prompt, rules=rules, **settings)

    def stream(self, image: Any, prompt: str | None = None, **how: Any) -> Iterator[str]:
        """Yield a caption word by word; a checkpoint whose search has rules beside the likeliest word has none."""
        rules = _search.Rules(**self.spec["published"].get("decode", {}))
        plain = _search.Rules(early_stopping=rules.early_stopping, start_is_end=rules.start_is_end)
        if rules != plain._replace(suppressed=rules.suppressed) or set(rules.suppressed) - set(UNWRITABLE):
            raise ValueError("the search of this checkpoint has rules that need the whole text: use generate")
        return super().stream(image, prompt, **how)

    @takes_seen
    def answer(
        self,
        images: Any,
        questions: str | Sequence[str],
        *,
        beams: int = 1,
        max_length: int | None = None,
        batch_size: int = 32,
        on_error: str = "raise",
        **rules: Any,
    ) -> list[str | None]:
        """Return what is written after each question, by a checkpoint that was trained so (GIT's of VQAv2).

        One image may be asked many questions, and one question be asked of many images.
        """
        media.check_on_error(on_error)
        check_beams(beams)
        questions = [questions] if isinstance(questions, (str, bytes)) else list(questions)
        length, rules = self.check_length(max_length), self.check_rules(rules)
        asked = self.prompts(questions, len(questions), length)  # (questions, length)
        inputs, good, errors, total = paired(self, images, {"prompt": asked})
        settings = {"beams": int(beams), "length": length, "top_k": None, **rules}
        ids = self.written(inputs, settings, batch_size) if good else inputs["prompt"]
        after = np.cumsum(inputs["prompt"] > 0, axis=1)[:, -1:]  # (pairs, 1): where the answer begins
        places = np.minimum(np.arange(length) + after, length - 1)
        ids = np.where(np.arange(length) + after < length, np.take_along_axis(ids, places, axis=1), PAD)
        answers = [one.strip() for one in text.decode(ids, self.vocabulary)]
        return media.settle(answers, good, errors, total, on_error)

    def check_rules(self, rules: dict[str, Any]) -> dict[str, Any]:
        """Return rules after checking their names and values; `length_penalty` is one of them for `generate`."""
        return _search.checked(rules, len(self.spec["vocabulary"]))


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
    logits = keras.layers.Activation("linear", dtype="float32", name="logits")(logits)
    return compiled(graph(inputs, logits, "captioner", PublishedCaptioner), WordLoss(), [WordAccuracy()])


def retriever(spec: dict) -> Retriever:
    """Build two towers of unit vectors: of CLIP's class and end tokens, or of SigLIP's probe and last token."""
    layout, t = spec["published"], spec["published"]["text"]
    inputs, vision = image_tokens(layout)
    inputs["tokens"] = token_input()
    tokens, whole = Spec(spec, name="spec")(inputs["tokens"]), bool(t.get("padded"))
    if whole:
        tokens = Padded(t["positions"], name="padded")(tokens)  # (batch, positions)
    ids = keras.Input(tokens.shape[1:], dtype="int32", name="tokens")
    x = positions(t)(keras.layers.Embedding(len(spec["vocabulary"]), t["dim"], name="words")(ids))
    for i in range(t["depth"]):
        x = Block(t["dim"], t["heads"], causal=not whole, **block_options(t), name=f"block_{i}")(x)
    text_encoder = graph(ids, layer_norm("last_norm", t["epsilon"])(x), "text_encoder")
    text = TokenAt("last" if whole else "end", name="text_pool")(text_encoder(tokens), tokens)  # (batch, dim)
    text = projection("text", layout["embedding"], bias=whole)(text)  # (batch, embedding)
    if layout.get("pool"):
        image = ProbePool(**layout["pool"], name="image_pool")(vision)  # (batch, embedding)
    else:
        image = projection("image", layout["embedding"])(TokenAt("first", name="image_pool")(vision))
    image_embedding, text_embedding = (
        keras.layers.UnitNormalization(dtype="float32", name=f"{modality}_embedding")(x)
        for modality, x in (("image", image), ("text", text))
    )
    pairs = Contrastive(spec["overrides"]["loss"], dtype="float32", name="contrastive")(image_embedding, text_embedding)
    return compiled(graph(inputs, pairs, "retriever", Retriever), None, [])


def projection(modality: str, width: int, bias: bool = False) -> keras.layers.Layer:
    """Create the layer that projects a pooled token to the width that both towers share."""
    return keras.layers.Dense(width, use_bias=bias, dtype="float32", name=f"{modality}_projection")


def matcher(spec: dict) -> Matcher:
    """Build a reader of text and image, and one logit: whether they fit (BLIP-ITM, ViLT)."""
    inputs, x = read_together(spec)
    logits = keras.layers.Dense(1, dtype="float32", name="head")(x)
    loss = keras.losses.BinaryCrossentropy(from_logits=True, reduction="mean_with_sample_weight")
    metrics = [keras.metrics.BinaryAccuracy(threshold=0.0, name="accuracy")]
    return compiled(graph(inputs, logits, "matcher", Matcher), loss, metrics)


def vqa(spec: dict) -> Answerer:
    """Build a reader of question and image, and a classifier of answers (ViLT)."""
    head = spec["published"]["head"]
    inputs, x = read_together(spec)
    x = layer_norm("head_norm", head["epsilon"])(keras.layers.Dense(head["hidden"], name="head_up")(x))
    x = ACTIVATIONS["gelu"](x)  # (batch, hidden)
    logits = keras.layers.Dense(len(spec["overrides"]["classes"]), dtype="float32", name="head")(x)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="mean_with_sample_weight")
    metrics = [keras.metrics.SparseCategoricalAccuracy(name="accuracy")]
    return compiled(graph(inputs, logits, "vqa", Answerer), loss, metrics)


def read_together(spec: dict) -> tuple[dict, Any]:
    """Return the inputs, and the first token (batch, dim) of a text that all fusion blocks have seen whole."""
    t = spec["published"]["text"]
    inputs, vision = image_tokens(spec["published"])
    inputs["tokens"] = token_input()
    tokens = Spec(spec, name="spec")(inputs["tokens"])
    mask = ops.not_equal(tokens, PAD)  # (batch, words)
    x = positions(t)(keras.layers.Embedding(len(spec["vocabulary"]), t["dim"], name="words")(tokens))
    for block in blocks(spec, causal=False, width=vision.shape[-1]):
        x, vision = block(x, vision, mask)
    x = x if t.get("post_norm") else layer_norm("norm", t["epsilon"])(x)
    x = TokenAt("first", name="pool")(x)
    return inputs, keras.layers.Dense(t["dim"], activation="tanh", name="pooler")(x) if t.get("pooler") else x


def image_tokens(layout: dict) -> tuple[dict, Any]:
    """Return the image input, and what a fusion reads of it (batch, image tokens, width)."""
    encoder, bridge = vit(**layout["vision"]), layout.get("bridge")
    inputs = {"image": keras.Input(encoder.input_shape[1:], name="image")}
    options = {"dim": layout["text"]["dim"], **bridge} if bridge is not None else {}
    width = encoder.output_shape[-1]
    return inputs, ImageTokens(places_of(encoder), width, **options, name="vision")(encoder(inputs["image"]))


def positions(t: dict) -> keras.layers.Layer:
    """Return the layer that adds positions to words."""
    if t.get("post_norm") or t.get("embedding_norm"):
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
