"""What of a model is exported: TensorFlow graphs over uint8 pictures and ids, their weights frozen into constants.

one      image -> ids, score                          a captioner, its whole loop inside
split    image -> state_0 …                           a captioner in two: once per picture,
         token, index, cache_0 …, state_0 … -> logits, next_cache_0 …     and once per word
one      image, tokens -> logits                      vqa, classifier, matcher
towers   image -> image_embedding; tokens -> text_embedding              a retriever
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from vtx_keras._compat import frozen_function
from vtx_keras.inputs import text
from vtx_keras.inputs.text import UNK
from vtx_keras.models._base import VisionText
from vtx_keras.models._captioner import Captioner
from vtx_keras.models._readers import Answerer, Retriever
from vtx_keras.models.decode import NEVER, UNWRITABLE, search

FORMS = ("one", "split")
MANY = 20_000  # weights of a convolution that bear rounding to 8 bits, and are worth it


class Graph(NamedTuple):
    """A frozen function; its inputs and outputs are called by name, in this order."""

    function: Any
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def graphs(
    model: VisionText,
    form: str = "one",
    batch: int | None = None,
    *,
    beams: int = 1,
    max_length: int | None = None,
    prompt: str | None = None,
    from_features: bool = False,
) -> dict[str, Graph]:
    """The graphs of a form by name: "serving_default", or "encode" and "decode_step", or "image" and "text".

    `batch` None leaves the batch size and the length of texts open. With `from_features` they begin behind the image
    encoder, and `features` are an input where `image` was.

    >>> from vtx_keras import zoo
    >>> model = zoo.build("cross_attn_captioner", weights=None, dim=32, depth=1, image_shape=(32, 32, 3))
    >>> graphs(model, "split", 1)["encode"].outputs
    ('state_0', 'state_1')
    """
    check(model, form, beams, max_length, prompt)
    image = tf.TensorSpec((batch, *model.image_shape), tf.uint8, "image")
    if from_features:
        image = _spec(model.get_layer("vision").input, batch, "features")
    tokens = tf.TensorSpec((batch, model.options["max_length"] if batch else None), tf.int32, "tokens")
    if isinstance(model, Captioner):
        length = model.check_length(max_length)
        prompt_ids = decoding(model, prompt=prompt, max_length=max_length).get("prompt_ids")
        if form == "split":
            return split(model, image, length)

        def caption(image: Any) -> dict:
            rows = ops.shape(image)[0]
            cache = [block.empty_cache(rows, length, beams) for block in model.blocks]
            begin = model.beginnings(rows, length, prompt_ids)
            ids, score = search(model.stepper(begun(model, image)), cache, begin, length=length, beams=beams)
            return {"ids": ids, "score": score}

        return {"serving_default": frozen(caption, image)}
    if isinstance(model, Retriever):
        seen = model.get_layer("vision").input if from_features else model.input["image"]
        see, read = keras.Model(seen, model.get_layer("image_embedding").output), model.tower("text")
        return {
            "image": frozen(lambda image: {"image_embedding": see(ops.cast(image, "float32"))}, image),
            "text": frozen(lambda tokens: {"text_embedding": read({"tokens": tokens})}, tokens),
        }
    reader = model.behind_encoder() if from_features else model

    def logits(image: Any, tokens: Any) -> dict:
        outputs = reader({"image": ops.cast(image, "float32"), "tokens": tokens}, training=False)
        return {"logits": outputs["logits"] if isinstance(outputs, dict) else outputs}

    return {"serving_default": frozen(logits, image, tokens)}


def decoding(
    model: Captioner, *, beams: int = 1, max_length: int | None = None, prompt: str | None = None
) -> dict[str, Any]:
    """An exporter's settings as `generate_ids` takes them. Words become ids here, outside of any graph."""
    found = {"beams": beams, "max_length": max_length}
    return found if prompt is None else found | {"prompt_ids": model.prompts(prompt, 1, model.check_length(max_length))}


def image_encoder(model: VisionText, batch: int | None = None) -> Graph:
    """image -> features: what the graphs `from_features` begin with."""
    image = tf.TensorSpec((batch, *model.image_shape), tf.uint8, "image")
    encoder = model.get_layer("image_encoder")
    return frozen(lambda image: {"features": encoder(ops.cast(image, "float32"))}, image)


def check(model: VisionText, form: str, beams: int, max_length: int | None = None, prompt: str | None = None) -> None:
    """Refuse what cannot be exported, before any work is done."""
    if keras.backend.backend() != "tensorflow":
        raise RuntimeError(
            f"Keras runs on {keras.backend.backend()} here, and exports are made by TensorFlow: save the model with "
            "zoo.save(model, 'mine.keras'), and export it in a process with KERAS_BACKEND=tensorflow"
        )
    if form not in FORMS:
        raise ValueError(f"form={form!r}: expected one of {', '.join(FORMS)}")
    if isinstance(beams, bool) or not isinstance(beams, int) or beams < 1:
        raise ValueError(f"beams={beams!r}: expected a whole number of at least 1")
    if isinstance(model, Captioner):
        length = model.check_length(max_length)
        if prompt is not None and (model.prompts(prompt, 1, length) == UNK).any():
            raise ValueError(f"prompt={prompt!r} has words the model does not know")
    elif form == "split" or beams > 1 or max_length is not None or prompt is not None:
        raise ValueError(
            f"a {model.name} writes no captions: form='split', beams=, max_length= and prompt= are for captioners"
        )
    if form == "split" and beams > 1:
        raise ValueError(f"beams={beams}: form='split' goes word by word; for beams export form='one'")
    if form == "split" and prompt is not None:
        raise ValueError(f"prompt={prompt!r}: in form='split' the caller feeds the prompt's ids as the first tokens")


def split(model: Captioner, image: tf.TensorSpec, length: int) -> dict[str, Graph]:
    """What is done once per picture, and what is done once per word.

    The caller keeps the cache, zeros at first. Special ids that are never written have a logit of -1e9.
    """
    layout: list[Any] = []  # how the states are laid out, one structure for each block; found by tracing

    def encode(image: Any) -> dict:
        layout[:] = begun(model, image)
        return {f"state_{i}": state for i, state in enumerate(_tensors(layout))}

    encoder, batch = frozen(encode, image), image.shape[0]
    specs = [tf.TensorSpec((batch, 1), tf.int32, "token"), tf.TensorSpec((), tf.int32, "index")]
    empty = [cache for block in model.blocks for cache in block.empty_cache(1, length, 1)]
    specs += [_spec(cache, batch, f"cache_{i}") for i, cache in enumerate(empty)]
    specs += [_spec(state, batch, name) for name, state in zip(encoder.outputs, _tensors(layout), strict=True)]

    def decode_step(token: Any, index: Any, *values: Any) -> dict:
        now = ops.arange(length) == index
        visible = ops.tile((ops.arange(length) <= index)[None, None], (ops.shape(token)[0], 1, 1))
        cache = list(zip(values[0 : len(empty) : 2], values[1 : len(empty) : 2], strict=True))
        rest = iter(values[len(empty) :])
        states = tf.nest.map_structure(lambda part: None if part is None else next(rest), layout)
        logits, after = model.stepper(states)(token, index, cache, now, visible)
        logits = ops.where(np.isin(np.arange(logits.shape[-1]), UNWRITABLE), NEVER, logits)
        return {"logits": logits[:, 0], **{f"next_cache_{i}": one for i, one in enumerate(_tensors(after))}}

    return {"encode": encoder, "decode_step": frozen(decode_step, *specs)}


def begun(model: Captioner, image: Any) -> list:
    """What every block's step needs of these pictures (uint8), or of features."""
    return model.begun(
        model.get_layer("image_encoder")(ops.cast(image, "float32")) if image.dtype == tf.uint8 else image
    )


def _spec(tensor: Any, batch: int | None, name: str) -> tf.TensorSpec:
    return tf.TensorSpec((batch, *tensor.shape[1:]), tensor.dtype, name)


def _tensors(states: list) -> list:
    return [tensor for tensor in tf.nest.flatten(states) if tensor is not None]


def frozen(function: Callable[..., dict], *specs: tf.TensorSpec) -> Graph:
    """The function as a graph without variables. Loops stay loops."""
    names: list[str] = []

    def in_order(*values: Any) -> tuple:
        outputs = function(*values)
        names[:] = outputs
        return tuple(tf.identity(value, name) for name, value in outputs.items())

    traced = tf.function(in_order, input_signature=specs, autograph=False).get_concrete_function()
    return Graph(frozen_function(traced), tuple(spec.name for spec in specs), tuple(names))


def about(
    model: VisionText, form: str, *, beams: int = 1, max_length: int | None = None, prompt: str | None = None
) -> dict[str, Any]:
    """What a program must know besides the vocabulary.

    >>> from vtx_keras import zoo
    >>> model = zoo.build("gated_vqa", weights=None, dim=32, depth=1, image_shape=(32, 32, 3), classes=["no", "yes"])
    >>> found = about(model, "one")
    >>> found["image_shape"], found["resize"], found["labels"]
    ([32, 32, 3], 'pad', ['no', 'yes'])
    """
    captions = isinstance(model, Captioner)
    return {
        "format": 1,  # of this description
        "name": model.spec["name"],
        "task": model.name,
        "form": form,
        "image_shape": list(model.image_shape),
        "resize": model.options["resize"],
        "max_length": model.check_length(max_length) if captions else model.options["max_length"],
        "beams": beams,
        "prompt": prompt or "",
        "labels": model.class_names if isinstance(model, Answerer) else [],
        "multi_label": bool(model.options.get("multi_label", False)),
        "allow_empty": bool(model.options.get("allow_empty", False)),
        "pieces": len(model.vocabulary),
        "special_ids": {name.strip("[]").lower(): i for i, name in enumerate(text.SPECIALS)},
        "unseen": text.UNSEEN,
        "gaps": text.GAPS,
        "join_rules": [list(rule) for rule in text.JOIN_RULES],
    }


def files(model: VisionText, form: str, **settings: Any) -> dict[str, str]:
    """The companions by file name: model.json, vocabulary.txt (a piece per line), tokenizer.json."""
    return {
        "model.json": json.dumps(about(model, form, **settings), indent=1, ensure_ascii=False),
        "vocabulary.txt": "\n".join(model.vocabulary) + "\n",
        "tokenizer.json": json.dumps(tokenizer(model.vocabulary), ensure_ascii=False),
    }


# Where words part, as KerasHub's WordPieceTokenizer parts them: spaces go; punctuation and ideographs stand alone.
SPACES = r"[ \t\n\r\f]|\p{Cc}|\p{Cf}"
ALONE = (
    r"[!-/]|[:-@]|[\[-`]|[{-~]|\p{P}|[\x{4E00}-\x{9FFF}]|[\x{3400}-\x{4DBF}]|[\x{20000}-\x{2A6DF}]|[\x{2A700}-\x{2B73F}]"
    r"|[\x{2B740}-\x{2B81F}]|[\x{2B820}-\x{2CEAF}]|[\x{F900}-\x{FAFF}]|[\x{2F800}-\x{2FA1F}]"
)
FINAL_SIGMA = r"(?<=[\p{L}\p{Mn}])\x{03A3}(?!\p{Mn}*\p{L})"  # Lowercase looks at one letter at a time


def tokenizer(vocabulary: tuple[str, ...]) -> dict[str, Any]:
    """A tokenizer.json for Hugging Face's `tokenizers`, with the ids of `text.encode`.

    >>> list(tokenizer(text.vocabulary(["cat"]))["model"]["vocab"])[-1]
    'cat'
    """

    def replaced(pattern: str, content: str) -> dict:
        return {"type": "Replace", "pattern": {"Regex": pattern}, "content": content}

    def cut(pattern: str, behavior: str) -> dict:
        return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior, "invert": False}

    normal = [replaced(text.UNSEEN, ""), replaced(text.GAPS, " "), {"type": "NFKC"}, replaced(FINAL_SIGMA, "\u03c2")]
    normal += [{"type": "Lowercase"}, {"type": "NFKC"}, replaced(text.GAPS, " ")]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],  # a special piece spelled out in a text is ordinary characters
        "normalizer": {"type": "Sequence", "normalizers": normal},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [cut(SPACES, "Removed"), cut(ALONE, "Isolated")]},
        "post_processor": None,
        "decoder": None,
        "model": {
            "type": "WordPiece",
            "unk_token": text.SPECIALS[text.UNK],
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": {piece: i for i, piece in enumerate(vocabulary)},
        },
    }
