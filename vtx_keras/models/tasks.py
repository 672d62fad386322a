"""Six tasks, each a function from options to a compiled `keras.Model`, to be read like the figure of a paper.

`o` holds the options of `options.py` as attributes, and `spec`, the description that is saved inside the model.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import keras
from keras import ops

from vtx_keras.inputs.text import PAD
from vtx_keras.models import adversarial as against
from vtx_keras.models import encoders
from vtx_keras.models._base import Spec, VisionText, graph
from vtx_keras.models._drawing import Generator, Held, Seen
from vtx_keras.models._methods import Answerer, Captioner, Matcher, Retriever
from vtx_keras.models.blocks import Block
from vtx_keras.models.concepts import ConceptIds, Concepts, WithConcepts, ids_of
from vtx_keras.models.fusion import FUSIONS, POOLING, Vision
from vtx_keras.models.generator import Discriminator, Noise, drawn
from vtx_keras.models.language import ADAPTERS, block_options
from vtx_keras.models.layers import (
    Fewer,
    ImageWords,
    Pool,
    Positions,
    RowDense,
    WordBias,
    layer_norm,
    norm_of,
)
from vtx_keras.models.objectives import Contrastive, PacedAdam, WordAccuracy, WordLoss, clipping
from vtx_keras.models.options import shape_of

__all__ = [
    "TASKS", "captioner", "classifier", "compiled", "embedding", "fused_block", "fused_logits", "generator",
    "image_tokens", "labeller", "language_captioner", "matcher", "retriever", "text_tokens", "token_input", "vqa",
    "with_word_head",
]  # fmt: skip
PREFIX = {"merged_attn": 16, "concat_mlp": 8}  # tokens that stand for the image before a language model's text


def captioner(fusion: str, o: SimpleNamespace) -> Captioner:
    """Build a left-to-right decoder: causal self-attention, fusion, MLP; logits of the next word at every position."""
    if isinstance(o.text_decoder, dict):
        return language_captioner(fusion, o)
    if o.text_decoder != "blocks":
        raise ValueError(f"text_decoder={o.text_decoder!r}: it was not loaded: zoo.build(…, weights='encoders') does")
    for option in ("fuse_every", "image_words"):
        if getattr(o, option):
            raise ValueError(f"{option}={getattr(o, option)}: is of a language model: give text_decoder=, too")
    inputs = {"image": keras.Input(o.image_shape, name="image"), "tokens": token_input()}
    words = keras.layers.ReversibleEmbedding(
        o.vocabulary_size,
        o.dim,
        reverse_dtype="float32",
        embeddings_initializer=keras.initializers.RandomNormal(stddev=0.02),
        name="words",
    )
    vision = image_tokens(inputs["image"], o, fusion, words)  # (batch, image tokens, dim)
    tokens = Spec(o.spec, name="spec")(inputs["tokens"])  # (batch, words)
    x = Positions((o.max_length,), name="positions")(words(tokens))  # (batch, words, dim)
    if o.contrastive:
        x = Block(o.dim, o.heads, causal=True, dropout=o.dropout, name="text_block")(x)
        text_alone, vision_alone = x, vision
    for i in range(o.depth):
        x, vision = fused_block(fusion, o, f"fusion_{i}", causal=True)(x, vision)
    logits = keras.layers.Activation("linear", dtype="float32", name="logits")(
        words(layer_norm("norm")(x), reverse=True)
    )  # (batch, words, vocabulary)
    if o.contrastive:
        text_embedding = embedding(text_alone, o, "text", mask=ops.not_equal(tokens, PAD))  # (batch, dim)
        image_embedding = embedding(vision_alone, o, "image")  # (batch, dim)
        logits = Contrastive(weight=o.contrastive, dtype="float32", name="contrastive")(
            image_embedding, text_embedding, logits
        )
    return compiled(graph(inputs, logits, "captioner", Captioner), WordLoss(), [WordAccuracy()])


def language_captioner(fusion: str, o: SimpleNamespace) -> Captioner:
    """Build a captioner whose text side is a causal language model, of the layout `o.text_decoder`.

    The image comes as tokens before the text (merged_attn, concat_mlp), or into the text between blocks (cross_attn,
    gated). What is not the language model is `vision`, `image_words` and `adapter_…`.
    """
    t = o.text_decoder
    check_language(fusion, o)
    inputs = {"image": keras.Input(o.image_shape, name="image"), "tokens": token_input()}
    few = o.image_words or PREFIX[fusion] if fusion == "merged_attn" else 0
    vision = image_tokens(inputs["image"], o, fusion, few=few)  # (batch, image tokens, dim)
    if fusion == "concat_mlp":
        vision = ImageWords(o.dim, o.image_words or PREFIX[fusion], name="image_words")(vision)
    if t.get("own_head"):
        words = keras.layers.Embedding(o.vocabulary_size, o.dim, name="words")
    else:
        words = keras.layers.ReversibleEmbedding(o.vocabulary_size, o.dim, reverse_dtype="float32", name="words")
    x = words(Spec(o.spec, name="spec")(inputs["tokens"]))  # (batch, words, dim)
    x = keras.layers.Rescaling(t["word_scale"], name="word_scale")(x) if "word_scale" in t else x
    x = Positions((t["positions"],), name="positions")(x) if "positions" in t else x
    every = o.fuse_every or -(-t["depth"] // 6)
    for i in range(t["depth"]):
        options = {**block_options(t, i), "causal": True, "name": f"block_{i}"}
        if fusion in ADAPTERS:
            x = Block(o.dim, o.heads, **options)(x)
            if (i + 1) % every == 0:
                x, vision = ADAPTERS[fusion](o.dim, o.heads, dropout=o.dropout, name=f"adapter_{i}")(x, vision)
        else:
            x, vision = FUSIONS["merged_attn"](o.dim, o.heads, causal_prefix=True, **options)(x, vision)
    x = norm_of(t.get("norm", "layer"), "norm", t["epsilon"], None)(x)
    if t.get("own_head"):
        logits = keras.layers.Dense(o.vocabulary_size, use_bias=False, dtype="float32", name="word_head")(x)
    else:
        logits = words(x, reverse=True)  # (batch, words, vocabulary)
    logits = WordBias(False, t["absent"], dtype="float32", name="word_bias")(logits)
    logits = keras.layers.Activation("linear", dtype="float32", name="logits")(logits)
    return compiled(graph(inputs, logits, "captioner", Captioner), WordLoss(), [WordAccuracy()])


def check_language(fusion: str, o: SimpleNamespace) -> None:
    """Raise ValueError for options that do not go with a language model, or would have no effect."""
    context, depth = o.text_decoder["context"], o.text_decoder["depth"]
    before = 0 if fusion in ADAPTERS or "positions" in o.text_decoder else o.image_words or PREFIX[fusion]
    if o.max_length + before > context:
        raise ValueError(
            f"max_length={o.max_length}: the language model reads at most {context} tokens, of which the image takes "
            f"{before}"
        )
    if o.contrastive:
        raise ValueError(f"contrastive={o.contrastive}: a language model has no block for texts alone: leave it out")
    if fusion in ADAPTERS and o.image_words:
        raise ValueError(f"image_words={o.image_words}: {fusion} has no tokens before the text; it takes fuse_every=")
    if fusion not in ADAPTERS and o.fuse_every:
        raise ValueError(f"fuse_every={o.fuse_every}: {fusion} puts the image before the text; it takes image_words=")
    if o.fuse_every > depth:
        raise ValueError(f"fuse_every={o.fuse_every}: expected at most {depth}, the blocks of the language model")


def vqa(fusion: str, o: SimpleNamespace) -> Answerer:
    """Build a model that answers questions about images; the answers are classes."""
    return labeller(fusion, o, "vqa")


def classifier(fusion: str, o: SimpleNamespace) -> Answerer:
    """Build a model that labels an image and a text together, with one class or several."""
    return labeller(fusion, o, "classifier")


def labeller(fusion: str, o: SimpleNamespace, name: str) -> Answerer:
    """Build a model from an image and a text to classes: `vqa` and `classifier`."""
    classes = o.classes if isinstance(o.classes, int) else len(o.classes)
    inputs, fused, logits = fused_logits(fusion, o, classes)
    if o.multi_label:
        loss = keras.losses.BinaryCrossentropy(from_logits=True, reduction="mean_with_sample_weight")
        metrics = [keras.metrics.BinaryAccuracy(threshold=0.0, name="accuracy")]
    else:
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="mean_with_sample_weight")
        metrics = [keras.metrics.SparseCategoricalAccuracy(name="accuracy")]
    return with_word_head(Answerer, inputs, fused, logits, o, name, loss, metrics)


def matcher(fusion: str, o: SimpleNamespace) -> Matcher:
    """Build a model with one logit: whether the text fits the image. The data pipeline makes the pairs that do not."""
    inputs, fused, logits = fused_logits(fusion, o, 1)
    loss = keras.losses.BinaryCrossentropy(from_logits=True, reduction="mean_with_sample_weight")
    metrics = [keras.metrics.BinaryAccuracy(threshold=0.0, name="accuracy")]
    return with_word_head(Matcher, inputs, fused, logits, o, "matcher", loss, metrics)


def retriever(fusion: None, o: SimpleNamespace) -> Retriever:
    """Build two towers, trained so that the embeddings of an image and its text lie close."""
    inputs = {"image": keras.Input(o.image_shape, name="image"), "tokens": token_input()}
    tokens = Spec(o.spec, name="spec")(inputs["tokens"])
    image_embedding = embedding(image_tokens(inputs["image"], o), o, "image")  # (batch, dim)
    text_embedding = embedding(text_tokens(tokens, o), o, "text", mask=ops.not_equal(tokens, PAD))  # (batch, dim)
    pairs = Contrastive(o.loss, dtype="float32", name="contrastive")(image_embedding, text_embedding)
    return compiled(graph(inputs, pairs, "retriever", Retriever), None, [])


def generator(fusion: str, o: SimpleNamespace) -> Generator:
    """Build a generator and the discriminator that it learns from, in one graph (COLUMNS in adversarial.py).

    The reader of the text learns with the discriminator. `painter` is the part from noise and text to the picture.
    """
    inputs = {"image": keras.Input(o.image_shape, name="image"), "tokens": token_input()}
    tokens = Spec(o.spec, name="spec")(inputs["tokens"])
    mask = Seen(name="seen")(tokens)  # (batch, words)
    words = text_tokens(tokens, o)  # (batch, words, dim)
    sentence = Pool(name="sentence")(words, mask)  # (batch, dim)
    noise = Noise(o.noise, name="noise")(sentence)  # (batch, noise)
    words_held, sentence_held = Held(name="words_held")(words), Held(name="sentence_held")(sentence)
    picture = drawn(fusion, noise, sentence_held, words_held, mask, o)  # (batch, h, w, 3), from -1 to 1
    real = keras.layers.Rescaling(1 / 127.5, -1.0, name="real")(inputs["image"])
    judge = Discriminator(o.image_shape, o.width, o.dim, fusion, o.penalty > 0, name="discriminator")
    change = against.Changes(o.changes, name="changes")
    still, rivals = change(Held(name="picture_held")(picture)), against.Rivals(name="rivals")(tokens)
    pairs = judge(change(real), words, sentence, mask, rivals, role="real")  # (batch, 4)
    logits = [
        against.Readable(dtype="float32", name="pairs")(pairs, rivals),
        judge(still, words, sentence, mask, rivals, role="drawn"),
        judge(change(picture), words_held, sentence_held, mask, rivals, role="held"),
        against.difference(picture),
        against.difference(real),
    ]
    rows = keras.layers.Concatenate(dtype="float32", name="judged")(logits)  # (batch, 9)
    model = graph(inputs, rows, "generator", Generator)
    model.compile(
        against.halves(3e-4),
        loss=against.HingeLoss(o.contrast, o.penalty),
        weighted_metrics=[*against.shares(), against.Spread()],
    )
    return model


def fused_logits(fusion: str, o: SimpleNamespace, classes: int) -> tuple[dict, Any, Any]:
    """Apply the fusion blocks to text and vision, and a head to the mean of the text.

    Return the inputs, the fused text (batch, words, dim) and the logits (batch, classes).
    """
    inputs = {"image": keras.Input(o.image_shape, name="image"), "tokens": token_input()}
    tokens = Spec(o.spec, name="spec")(inputs["tokens"])
    mask = ops.not_equal(tokens, PAD)  # (batch, words)
    vision, x = image_tokens(inputs["image"], o, fusion), text_tokens(tokens, o)  # (batch, image tokens or words, dim)
    for i in range(o.depth):
        x, vision = fused_block(fusion, o, f"fusion_{i}")(x, vision, mask)
    x = layer_norm("norm")(x)
    pooled = keras.layers.Dropout(o.dropout, name="dropout")(Pool(name="pool")(x, mask))  # (batch, dim)
    return inputs, x, keras.layers.Dense(classes, dtype="float32", name="head")(pooled)


def with_word_head(
    kind: type, inputs: dict, fused: Any, logits: Any, o: SimpleNamespace, name: str, loss: Any, metrics: list
) -> Any:
    """Build and compile the model; with `mlm`, add a head that predicts masked words from the fused text (BERT)."""
    if not o.mlm:
        return compiled(graph(inputs, logits, name, kind), loss, metrics)
    words = RowDense(o.vocabulary_size, dtype="float32", name="words_head")(fused)  # (batch, words, vocabulary)
    model = graph(inputs, {"logits": logits, "words": words}, name, kind)
    return compiled(model, {"logits": loss, "words": WordLoss()}, {"logits": metrics, "words": [WordAccuracy()]})


def image_tokens(
    image: Any,
    o: SimpleNamespace,
    fusion: str | None = None,
    words: keras.layers.Layer | None = None,
    few: int = 0,
) -> Any:
    """Encode an image or clip as tokens (batch, image tokens, dim), and the concepts in it as more tokens.

    A text side that writes gives its table of `words`, so that a concept resembles the word it is written as. With
    `few`, cells of the grid are averaged to so many tokens.
    """
    encoder = encoders.image(
        o.image_encoder,
        image_shape=o.image_shape,
        dim=o.dim,
        heads=o.heads,
        depth=o.vision_depth,
        patch=o.patch,
        dropout=o.dropout,
        shapes=o.shapes,
        load=o.load.get("image_encoder"),
    )
    features = encoder(image)  # (batch, rows, columns, width), for clips by frame
    clip = len(o.image_shape) == 4
    # Runs from before there were concepts, which resume to the same bits, have no dropout of the image.
    dropout = o.dropout if getattr(o, "concepts", 0) else 0.0
    vision = Vision(o.dim, clip, o.temporal, dropout=dropout, name="vision")(features)  # (batch, image tokens, dim)
    vision = Fewer(features.shape[1:-1], few, clip, name="fewer")(vision) if few else vision
    if not getattr(o, "concepts", 0):
        return vision
    network = encoders.BACKBONES.get(o.image_encoder) if isinstance(o.image_encoder, str) else None
    if network is None or not network.has_head:
        raise ValueError(
            f"concepts={o.concepts}: expected an image_encoder with ImageNet's head, such as efficientnet_lite0"
        )
    head = Concepts(o.concepts, o.shapes.get("concepts", {}).get("ranks", {}).get("kernel"), name="concepts")
    seen = head(features)  # (batch, 1 + concepts, 2)
    if o.load.get("image_encoder"):
        head.set_weights(o.load["image_encoder"](o.image_encoder, head=True).get_layer("logits").get_weights())
    named = [words(ConceptIds(ids_of(o.spec["vocabulary"]), name="concept_ids")(seen))] if words else []
    return WithConcepts(o.dim, summed=fusion in POOLING, name="with_concepts")(vision, seen, *named)


def text_tokens(tokens: Any, o: SimpleNamespace) -> Any:
    """Encode a text as tokens (batch, words, dim)."""
    x = encoders.text(
        o.text_encoder,
        vocabulary=o.spec["vocabulary"],
        max_length=o.max_length,
        dim=o.dim,
        heads=o.heads,
        depth=o.text_depth,
        dropout=o.dropout,
        shapes=getattr(o, "shapes", {}),
        load=o.load.get("text_encoder"),
    )(tokens)
    return x if x.shape[-1] == o.dim else RowDense(o.dim, name="text")(x)


def token_input() -> Any:
    """Create the input for token ids (batch, words) of any length, 0 = padding."""
    return keras.Input((None,), dtype="int32", name="tokens")


def fused_block(fusion: str, o: SimpleNamespace, name: str, causal: bool = False) -> Block:
    """Create one block of the named fusion."""
    shape = shape_of(o.shapes, name, o.dim, o.heads, crossed=fusion == "cross_attn")
    return FUSIONS[fusion](o.dim, **shape, causal=causal, dropout=o.dropout, name=name)


def embedding(x: Any, o: SimpleNamespace, modality: str, mask: Any = None) -> Any:
    """Embed a sequence of tokens (batch, tokens, dim) as one unit vector (batch, dim)."""
    pooled = Pool(name=f"{modality}_pool")(layer_norm(f"{modality}_norm")(x), mask)  # (batch, dim)
    projected = keras.layers.Dense(o.dim, use_bias=False, dtype="float32", name=f"{modality}_projection")(pooled)
    return keras.layers.UnitNormalization(dtype="float32", name=f"{modality}_embedding")(projected)


def compiled(model: keras.Model, loss: Any, metrics: Any) -> Any:
    """Compile with the loss and metrics of the task, so that `fit` works at once. `compile` again to change them."""
    optimizer = PacedAdam(3e-4, **clipping(model.trainable_variables, 1.0))
    model.compile(optimizer, loss=loss, weighted_metrics=metrics or None)
    return model


TASKS: dict[str, Callable[[Any, SimpleNamespace], VisionText]] = {
    "captioner": captioner,
    "vqa": vqa,
    "classifier": classifier,
    "retriever": retriever,
    "matcher": matcher,
    "generator": generator,
}
