"""Five tasks, each a function from options to a compiled `keras.Model`; the body is the diagram.

`o` holds the options of `options.py` as attributes, and `spec`: what the model saves of itself.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import keras
from keras import ops

from vtx_keras.inputs.text import PAD
from vtx_keras.models import encoders
from vtx_keras.models._base import VisionText
from vtx_keras.models._captioner import Captioner
from vtx_keras.models._readers import Answerer, Matcher, Retriever
from vtx_keras.models.fusion import FUSIONS, Vision
from vtx_keras.models.layers import Block, Pool, Positions, RowDense, Spec, graph, layer_norm
from vtx_keras.models.objectives import Contrastive, PacedAdam, WordAccuracy, WordLoss, clipping
from vtx_keras.models.options import lookup, resolve

ENCODERS = ("image_encoder", "text_encoder")


def captioner(fusion: str, o: SimpleNamespace) -> Captioner:
    """A left-to-right decoder: causal self-attention, the fusion, an MLP; logits of the next word at every position."""
    inputs = {"image": keras.Input(o.image_shape, name="image"), "tokens": token_input()}
    vision = image_tokens(inputs["image"], o)
    words = keras.layers.ReversibleEmbedding(
        o.vocabulary_size,
        o.dim,
        reverse_dtype="float32",
        embeddings_initializer=keras.initializers.RandomNormal(stddev=0.02),
        name="words",
    )
    tokens = Spec(o.spec, name="spec")(inputs["tokens"])
    x = Positions((o.max_length,), name="positions")(words(tokens))
    if o.contrastive:
        x = Block(o.dim, o.heads, causal=True, dropout=o.dropout, name="text_block")(x)
        text_alone, vision_alone = x, vision
    for i in range(o.depth):
        x, vision = fused_block(fusion, o, f"fusion_{i}", causal=True)(x, vision)
    logits = keras.layers.Activation("linear", dtype="float32", name="logits")(
        words(layer_norm("norm")(x), reverse=True)
    )
    if o.contrastive:
        text_embedding = embedding(text_alone, o, "text", mask=ops.not_equal(tokens, PAD))
        image_embedding = embedding(vision_alone, o, "image")
        logits = Contrastive(weight=o.contrastive, dtype="float32", name="contrastive")(
            image_embedding, text_embedding, logits
        )
    return compiled(graph(inputs, logits, "captioner", Captioner), WordLoss(), [WordAccuracy()])


def vqa(fusion: str, o: SimpleNamespace) -> Answerer:
    """A question about a picture; answers are classes."""
    return labeller(fusion, o, "vqa")


def classifier(fusion: str, o: SimpleNamespace) -> Answerer:
    """Labels from a picture and a text together; one, or several at once."""
    return labeller(fusion, o, "classifier")


def labeller(fusion: str, o: SimpleNamespace, name: str) -> Answerer:
    """Classes from a picture and a text: what vqa and classifier share."""
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
    """Does this text fit this picture? One logit; the pairs that do not fit come from the data pipeline."""
    inputs, fused, logits = fused_logits(fusion, o, 1)
    loss = keras.losses.BinaryCrossentropy(from_logits=True, reduction="mean_with_sample_weight")
    metrics = [keras.metrics.BinaryAccuracy(threshold=0.0, name="accuracy")]
    return with_word_head(Matcher, inputs, fused, logits, o, "matcher", loss, metrics)


def retriever(fusion: None, o: SimpleNamespace) -> Retriever:
    """Two towers; the vectors of a picture and its text are pulled together."""
    inputs = {"image": keras.Input(o.image_shape, name="image"), "tokens": token_input()}
    tokens = Spec(o.spec, name="spec")(inputs["tokens"])
    image_embedding = embedding(image_tokens(inputs["image"], o), o, "image")
    text_embedding = embedding(text_tokens(tokens, o), o, "text", mask=ops.not_equal(tokens, PAD))
    pairs = Contrastive(o.loss, dtype="float32", name="contrastive")(image_embedding, text_embedding)
    return compiled(graph(inputs, pairs, "retriever", Retriever), None, [])


def fused_logits(fusion: str, o: SimpleNamespace, classes: int) -> tuple[dict, Any, Any]:
    """Text and vision through the fusion, and a head on the text's mean: vqa, classifier, matcher."""
    inputs = {"image": keras.Input(o.image_shape, name="image"), "tokens": token_input()}
    tokens = Spec(o.spec, name="spec")(inputs["tokens"])
    mask = ops.not_equal(tokens, PAD)
    vision, x = image_tokens(inputs["image"], o), text_tokens(tokens, o)
    for i in range(o.depth):
        x, vision = fused_block(fusion, o, f"fusion_{i}")(x, vision, mask)
    x = layer_norm("norm")(x)
    pooled = keras.layers.Dropout(o.dropout, name="dropout")(Pool(name="pool")(x, mask))
    return inputs, x, keras.layers.Dense(classes, dtype="float32", name="head")(pooled)


def with_word_head(
    kind: type, inputs: dict, fused: Any, logits: Any, o: SimpleNamespace, name: str, loss: Any, metrics: list
) -> Any:
    """The finished model; with `mlm` also a head that restores masked words from the fused text (BERT)."""
    if not o.mlm:
        return compiled(graph(inputs, logits, name, kind), loss, metrics)
    words = RowDense(o.vocabulary_size, dtype="float32", name="words_head")(fused)
    model = graph(inputs, {"logits": logits, "words": words}, name, kind)
    return compiled(model, {"logits": loss, "words": WordLoss()}, {"logits": metrics, "words": [WordAccuracy()]})


def image_tokens(image: Any, o: SimpleNamespace) -> Any:
    """The picture or clip through its encoder, as tokens of the model's width."""
    encoder = encoders.image(
        o.image_encoder,
        image_shape=o.image_shape,
        dim=o.dim,
        heads=o.heads,
        depth=o.vision_depth,
        patch=o.patch,
        dropout=o.dropout,
        load=o.load.get("image_encoder"),
    )
    return Vision(o.dim, clip=len(o.image_shape) == 4, temporal=o.temporal, name="vision")(encoder(image))


def text_tokens(tokens: Any, o: SimpleNamespace) -> Any:
    """The text through its encoder, as tokens of the model's width."""
    x = encoders.text(
        o.text_encoder,
        vocabulary=o.spec["vocabulary"],
        max_length=o.max_length,
        dim=o.dim,
        heads=o.heads,
        depth=o.text_depth,
        dropout=o.dropout,
        load=o.load.get("text_encoder"),
    )(tokens)
    return x if x.shape[-1] == o.dim else RowDense(o.dim, name="text")(x)


def token_input() -> Any:
    """Ids of a text of any length, 0 = padding."""
    return keras.Input((None,), dtype="int32", name="tokens")


def fused_block(fusion: str, o: SimpleNamespace, name: str, causal: bool = False) -> Block:
    """One block in which text and vision meet."""
    return FUSIONS[fusion](o.dim, o.heads, causal=causal, dropout=o.dropout, name=name)


def embedding(x: Any, o: SimpleNamespace, modality: str, mask: Any = None) -> Any:
    """One unit vector for a sequence of tokens."""
    pooled = Pool(name=f"{modality}_pool")(layer_norm(f"{modality}_norm")(x), mask)
    projected = keras.layers.Dense(o.dim, use_bias=False, dtype="float32", name=f"{modality}_projection")(pooled)
    return keras.layers.UnitNormalization(dtype="float32", name=f"{modality}_embedding")(projected)


def compiled(model: keras.Model, loss: Any, metrics: Any) -> Any:
    """The task's own loss and metrics, so that `fit` works at once. `compile` again to change them."""
    optimizer = PacedAdam(3e-4, **clipping(model.trainable_variables, 1.0))
    model.compile(optimizer, loss=loss, weighted_metrics=metrics or None)
    return model


TASKS: dict[str, Callable[[Any, SimpleNamespace], VisionText]] = {
    "captioner": captioner,
    "vqa": vqa,
    "classifier": classifier,
    "retriever": retriever,
    "matcher": matcher,
}


def construct(
    name: str,
    overrides: dict,
    vocabulary: tuple[str, ...],
    dtype: str | None,
    *,
    load: Mapping[str, encoders.Loader] = {},
) -> VisionText:
    """Build a model with these options; `load` loads published weights for the encoders that it names."""
    entry = lookup(name)
    options = resolve(entry.task, entry.video, overrides)
    with dtype_policy(dtype):
        _open_encoders(options, vocabulary, load)
        spec = {
            "name": name,
            "overrides": {key: _plain(value) for key, value in options.items()},
            "dtype": keras.config.dtype_policy().name,
            "vocabulary": list(vocabulary),
        }
        o = SimpleNamespace(**options, spec=spec, vocabulary_size=len(vocabulary), load=load)
        return TASKS[entry.task](entry.fusion, o)


def _open_encoders(options: dict, vocabulary: tuple[str, ...], load: Mapping[str, encoders.Loader]) -> None:
    """Presets and saved configs to models, in place: from here on they travel with the model, whole."""
    for option in ENCODERS:
        value = options.get(option)
        if isinstance(value, dict):  # a copy, for Keras empties what it reads
            options[option] = keras.saving.deserialize_keras_object(copy.deepcopy(value))
        elif isinstance(value, str) and value not in encoders.NAMES:
            if option == "image_encoder":
                options[option] = encoders.image_preset(value, options["image_shape"][-3:], option in load)
            else:
                options[option] = encoders.text_preset(value, option in load)
    words = options.get("text_encoder")
    for limit, needed in (("vocabulary_size", len(vocabulary)), ("max_sequence_length", options["max_length"])):
        most = getattr(words, limit, None)
        if isinstance(most, int) and most < needed:
            raise ValueError(f"text_encoder has a {limit} of {most}: expected at least {needed}")


def _plain(value: Any) -> Any:
    """An option as JSON keeps it."""
    if isinstance(value, keras.Model):
        return keras.saving.serialize_keras_object(value)
    return list(value) if isinstance(value, tuple) else value


@contextlib.contextmanager
def dtype_policy(dtype: str | None) -> Iterator[None]:
    """Layers made inside follow this dtype policy."""
    before = keras.config.dtype_policy()
    if dtype is not None:
        try:
            keras.config.set_dtype_policy(dtype)
        except ValueError as error:
            raise ValueError(
                f"dtype={dtype!r} is not a Keras dtype policy such as float32 or mixed_bfloat16"
            ) from error
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
