"""The graphs that are exported, and the files that accompany them.

Graphs are TensorFlow functions over uint8 images and ids:

    form     graph                                                          of
    one      image -> ids, score                                            a captioner, with its decoding loop
    split    image -> state_0 …                                             a captioner: once per image,
             token, index, cache_0 …, state_0 … -> logits, next_cache_0 …   and once per word
    one      image, tokens -> logits                                        vqa, classifier, matcher
    towers   image -> image_embedding; tokens -> text_embedding             a retriever
    one      tokens, noise -> image                                         a generator
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from vtx_keras._compat import frozen_function
from vtx_keras.explain._maps import grid_of
from vtx_keras.explain._methods import attending, attention_blocks
from vtx_keras.export import _drawings
from vtx_keras.inputs import _rules, text
from vtx_keras.inputs.text import START, UNK
from vtx_keras.models._base import VisionText
from vtx_keras.models._drawing import Generator
from vtx_keras.models._methods import Answerer, Captioner, Retriever
from vtx_keras.models.decode import NEVER, UNWRITABLE, check_beams

FORMS = ("one", "split")
MIN_INT8_SIZE = 20_000  # weights of a convolution from which rounding to 8 bits saves much and costs little accuracy


class Graph(NamedTuple):
    """A traced function, with the names of its inputs and outputs in order; it takes `weights` after the inputs."""

    function: Any
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    weights: tuple[keras.Variable, ...] = ()


def graphs(
    model: VisionText,
    form: str = "one",
    batch: int | None = None,
    *,
    beams: int = 1,
    max_length: int | None = None,
    prompt: str | None = None,
    attention: bool = False,
    from_features: bool = False,
    taken: Sequence[keras.Variable] = (),
) -> dict[str, Graph]:
    """Return a form's graphs by name: "serving_default", or "encode" and "decode_step", or "image" and "text".

    With `batch` None, the batch size and the length of texts are dynamic. With `from_features` the graphs leave out
    the image encoder and take its output `features` in place of `image`. The weights `taken` are inputs. With
    `attention`, "attention" (batch, length, [frames,] rows, columns) tells where each word looks, as in `explain`.

    >>> from vtx_keras import zoo
    >>> model = zoo.build("cross_attn_captioner", weights=None, dim=32, depth=1, image_shape=(32, 32, 3))
    >>> graphs(model, "split", 1)["encode"].outputs
    ('state_0', 'state_1')
    """
    check(model, form, beams, max_length, prompt, attention)
    trace = functools.partial(traced, weights=tuple(taken))
    image = tf.TensorSpec((batch, *model.image_shape), tf.uint8, "image")
    if from_features:
        image = _spec(model.get_layer("vision").input, batch, "features")
    tokens = tf.TensorSpec((batch, model.options["max_length"] if batch else None), tf.int32, "tokens")
    if isinstance(model, Generator):
        return {"serving_default": trace(_drawings.painting(model), tokens, _drawings.noise_input(model, batch))}
    looked = where_words_look(model) if attention else None
    if isinstance(model, Captioner):
        length = model.check_length(max_length)
        prompt_ids = decoding_options(model, prompt=prompt, max_length=max_length).get("prompt_ids")
        if form == "split":
            return split_graphs(model, image, length, trace)

        def caption(image: Any) -> dict:
            rows = ops.shape(image)[0]
            cache = [block.empty_cache(rows, length, beams) for block in model.blocks]
            start = model.padded_prompt(rows, length, prompt_ids)
            features = features_of(model, image)
            step = model.make_step(model.image_states(features))
            ids, score = model.find(step, cache, start, length=length, beams=beams)
            if looked is None:
                return {"ids": ids, "score": score}
            read = ops.concatenate([ops.full_like(ids[:, :1], START), ids[:, :-1]], axis=1)
            return {"ids": ids, "score": score, "attention": looked(features, read)}

        return {"serving_default": trace(caption, image)}
    if isinstance(model, Retriever):
        image_input = model.get_layer("vision").input if from_features else model.input["image"]
        image_tower = keras.Model(image_input, model.get_layer("image_embedding").output)
        text_tower = model.tower("text")
        return {
            "image": trace(lambda image: {"image_embedding": image_tower(ops.cast(image, "float32"))}, image),
            "text": trace(lambda tokens: {"text_embedding": text_tower({"tokens": tokens})}, tokens),
        }
    network = model.behind_encoder() if looked or from_features else model

    def logits(image: Any, tokens: Any) -> dict:
        image = features_of(model, image) if looked else ops.cast(image, "float32")
        outputs = network({"image": image, "tokens": tokens}, training=False)
        logits = {"logits": outputs["logits"] if isinstance(outputs, dict) else outputs}
        return {**logits, "attention": looked(image, tokens)} if looked else logits

    return {"serving_default": trace(logits, image, tokens)}


def decoding_options(
    model: Captioner, *, beams: int = 1, max_length: int | None = None, prompt: str | None = None
) -> dict[str, Any]:
    """Return an exporter's settings as `generate_ids` takes them. The prompt becomes ids here, outside any graph."""
    options: dict[str, Any] = {"beams": beams, "max_length": max_length}
    if prompt is not None:
        options["prompt_ids"] = model.prompts(prompt, 1, model.check_length(max_length))
    return options


def image_encoder(model: VisionText, batch: int | None = None) -> Graph:
    """Return the graph image -> features, whose output is the input of graphs built `from_features`."""
    image = tf.TensorSpec((batch, *model.image_shape), tf.uint8, "image")
    encoder = model.get_layer("image_encoder")
    return traced(lambda image: {"features": encoder(ops.cast(image, "float32"))}, image)


def check(
    model: VisionText,
    form: str,
    beams: int,
    max_length: int | None = None,
    prompt: str | None = None,
    attention: bool = False,
) -> None:
    """Refuse settings that cannot be exported, before any work is done."""
    if keras.backend.backend() != "tensorflow":
        raise RuntimeError(
            f"Keras runs on {keras.backend.backend()} here, and exports are made by TensorFlow: save the model with "
            "zoo.save(model, 'mine.keras'), and export it in a process with KERAS_BACKEND=tensorflow"
        )
    if form not in FORMS:
        raise ValueError(f"form={form!r}: expected one of {', '.join(FORMS)}")
    check_beams(beams)
    if attention and (form == "split" or isinstance(model, (Retriever, Generator)) or not attention_blocks(model)):
        raise ValueError(
            "attention=True: a file tells where words look if it has form='one' and its fusion attends to the image"
        )
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


def split_graphs(model: Captioner, image: tf.TensorSpec, length: int, trace: Callable[..., Graph]) -> dict[str, Graph]:
    """Return the graph that runs once per image and the one that runs once per word.

    The caller keeps the cache, zeros at first. Special ids that are never generated have a logit of -1e9.
    """
    layout: list[Any] = []  # the structure of each block's states, filled in by tracing `encode`

    def encode(image: Any) -> dict:
        layout[:] = model.image_states(features_of(model, image))
        return {f"state_{i}": state for i, state in enumerate(_tensors(layout))}

    encoder, batch = trace(encode, image), image.shape[0]
    specs = [tf.TensorSpec((batch, 1), tf.int32, "token"), tf.TensorSpec((), tf.int32, "index")]
    form = [block.empty_cache(1, length, 1) for block in model.blocks]  # adapters of a language model have none
    empty = _tensors(form)
    specs += [_spec(cache, batch, f"cache_{i}") for i, cache in enumerate(empty)]
    specs += [_spec(state, batch, name) for name, state in zip(encoder.outputs, _tensors(layout), strict=True)]

    def decode_step(token: Any, index: Any, *values: Any) -> dict:
        now = ops.arange(length) == index
        visible = ops.tile((ops.arange(length) <= index)[None, None], (ops.shape(token)[0], 1, 1))
        cache = tf.nest.pack_sequence_as(form, values[: len(empty)])
        flat_states = iter(values[len(empty) :])
        states = tf.nest.map_structure(lambda part: None if part is None else next(flat_states), layout)
        logits, next_cache = model.make_step(states)(token, index, cache, now, visible)
        logits = ops.where(np.isin(np.arange(logits.shape[-1]), UNWRITABLE), NEVER, logits)
        return {"logits": logits[:, 0], **{f"next_cache_{i}": part for i, part in enumerate(_tensors(next_cache))}}

    return {"encode": encoder, "decode_step": trace(decode_step, *specs)}


def features_of(model: VisionText, image: Any) -> Any:
    """Return the image encoder's features of uint8 images; features stay as they are."""
    return model.get_layer("image_encoder")(ops.cast(image, "float32")) if image.dtype == tf.uint8 else image


def where_words_look(model: VisionText) -> Callable[[Any, Any], Any]:
    """Return a function from features and tokens to attention (batch, tokens, [frames,] rows, columns)."""
    frames, places, grid = grid_of(model)
    weights = attending(model, None, behind=True)

    def looked(features: Any, tokens: Any) -> Any:
        heat = weights({"image": features, "tokens": tokens})
        length = ops.shape(tokens)[1]
        heat = heat[..., : math.prod(frames) * places]  # those of concepts come after
        heat = ops.reshape(heat, (-1, length, *frames, places))[..., places - math.prod(grid) :]
        return ops.reshape(heat, (-1, length, *frames, *grid))

    return looked


def _spec(tensor: Any, batch: int | None, name: str) -> tf.TensorSpec:
    return tf.TensorSpec((batch, *tensor.shape[1:]), tensor.dtype, name)


def _tensors(states: list) -> list:
    return [tensor for tensor in tf.nest.flatten(states) if tensor is not None]


def traced(function: Callable[..., dict], *specs: tf.TensorSpec, weights: tuple[keras.Variable, ...] = ()) -> Graph:
    """Trace a function into a graph that takes `weights` after its inputs; others stay variables, and loops loops."""
    names: list[str] = []

    def flat(*values: Any) -> tuple:
        given = zip(weights, values[len(specs) :], strict=True)
        with keras.StatelessScope(state_mapping=list(given)) if weights else contextlib.nullcontext():
            outputs = function(*values[: len(specs)])
        names[:] = outputs
        return tuple(tf.identity(value, name) for name, value in outputs.items())

    signature = [*specs, *(tf.TensorSpec(one.shape, one.dtype, f"weight_{i}") for i, one in enumerate(weights))]
    graph = tf.function(flat, input_signature=signature, autograph=False).get_concrete_function()
    return Graph(graph, tuple(spec.name for spec in specs), tuple(names), weights)


def frozen(graph: Graph) -> Graph:
    """Return the graph with its weights as constants."""
    return graph._replace(function=frozen_function(graph.function))


# --- companion files


def describe(
    model: VisionText,
    form: str,
    *,
    beams: int = 1,
    max_length: int | None = None,
    prompt: str | None = None,
    attention: bool = False,
) -> dict[str, Any]:
    """Return the content of model.json: what a program must know besides the vocabulary.

    >>> from vtx_keras import zoo
    >>> model = zoo.build("gated_vqa", weights=None, dim=32, depth=1, image_shape=(32, 32, 3), classes=["no", "yes"])
    >>> about = describe(model, "one")
    >>> about["image_shape"], about["resize"], about["labels"]
    ([32, 32, 3], 'pad', ['no', 'yes'])
    """
    captioner = isinstance(model, Captioner)
    return {
        "format": 1,  # the version of this description
        "name": model.spec["name"],
        "task": model.name,
        "form": form,
        "image_shape": list(model.image_shape),
        "resize": model.options["resize"],
        "max_length": model.check_length(max_length) if captioner else model.options["max_length"],
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
        "spelling": text.spelling_of(model.vocabulary),
        **_rule(model),
        **({"attention": list(grid_of(model)[2])} if attention else {}),
        **({"noise": model.options["noise"]} if isinstance(model, Generator) else {}),
    }


def _rule(model: VisionText) -> dict[str, Any]:
    """Return how a published model cuts texts, without its tokenizer.json, which is a file of its own."""
    rule = model.spec.get("rule")
    return {"rule": {key: value for key, value in rule.items() if key != "json"}} if rule else {}


def companion_files(model: VisionText, form: str, network: bytes = b"", **settings: Any) -> dict[str, str]:
    """Return the content of the companion files: model.json, vocabulary.txt (a piece per line), tokenizer.json.

    model.json has the sha256 of the others, of the `network` where it is given, and of itself with zeros in that place.
    """
    files = {
        "vocabulary.txt": "\n".join(model.vocabulary) + "\n",
        "tokenizer.json": json.dumps(tokenizer(model.vocabulary), ensure_ascii=False),
    }
    hashes = {name: hashlib.sha256(content.encode()).hexdigest() for name, content in files.items()}
    hashes |= {"model": hashlib.sha256(network).hexdigest()} if network else {}
    about = {**describe(model, form, **settings), "sha256": {**hashes, "model.json": "0" * 64}}
    content = json.dumps(about, indent=1, ensure_ascii=False)
    return {"model.json": content.replace("0" * 64, hashlib.sha256(content.encode()).hexdigest()), **files}


# Word boundaries as in KerasHub's WordPieceTokenizer: spaces are dropped, punctuation and ideographs are isolated.
SPACES = r"[ \t\n\r\f]|\p{Cc}|\p{Cf}"
ISOLATED = (
    r"[!-/]|[:-@]|[\[-`]|[{-~]|\p{P}|[\x{4E00}-\x{9FFF}]|[\x{3400}-\x{4DBF}]|[\x{20000}-\x{2A6DF}]|[\x{2A700}-\x{2B73F}]"
    r"|[\x{2B740}-\x{2B81F}]|[\x{2B820}-\x{2CEAF}]|[\x{F900}-\x{FAFF}]|[\x{2F800}-\x{2FA1F}]"
)
NOWHERE = "\uffff"  # is no character
FINAL_SIGMA = r"(?<=[\p{L}\p{Mn}])\x{03A3}(?!\p{Mn}*\p{L})"  # Lowercase does not know a letter's position


def tokenizer(vocabulary: tuple[str, ...]) -> dict[str, Any]:
    """Return the content of tokenizer.json: Hugging Face's `tokenizers` then gives the ids of `text.encode`.

    >>> list(tokenizer(text.vocabulary(["cat"]))["model"]["vocab"])[-1]
    'cat'
    """
    rule = _rules.rule_of(vocabulary)
    if rule is not None and rule["kind"] == "tokenizers":
        return _renumbered(rule["json"], vocabulary)

    def replace(pattern: str, content: str) -> dict:
        return {"type": "Replace", "pattern": {"Regex": pattern}, "content": content}

    def split(pattern: str, behavior: str) -> dict:
        return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior, "invert": False}

    normalizers = [replace(text.UNSEEN, ""), replace(text.GAPS, " "), {"type": "NFKC"}, replace(FINAL_SIGMA, "\u03c2")]
    normalizers += [{"type": "Lowercase"}, {"type": "NFKC"}, replace(text.GAPS, " ")]
    splits = [split(SPACES, "Removed"), split(ISOLATED, "Isolated")]
    normalizer: dict[str, Any] = {"type": "Sequence", "normalizers": normalizers}
    pre_tokenizer: dict[str, Any] = {"type": "Sequence", "pretokenizers": splits}
    if rule is not None:
        normalizer = {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True}
        normalizer |= {name: rule[name] for name in ("lowercase", "strip_accents")}
        pre_tokenizer = {"type": "BertPreTokenizer"}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],  # "[UNK]" in a text is ordinary characters
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
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


def _renumbered(content: dict, vocabulary: Sequence[str]) -> dict[str, Any]:
    """Return a tokenizer.json with the ids of a vocabulary, without what cuts, pads or adds special tokens.

    A piece that the vocabulary lacks, such as the name of a special token, has the id of [UNK]. In Unigram, where the
    order of pieces is their ids, it is left out; and our special tokens have a name there that no text contains.
    """
    model, ids = dict(content["model"]), {piece: i for i, piece in enumerate(vocabulary)}
    if isinstance(model["vocab"], list):
        scores = dict(map(tuple, model["vocab"]))
        least = min(scores.values())
        named = [NOWHERE + piece if i < len(text.SPECIALS) else piece for i, piece in enumerate(vocabulary)]
        model["vocab"], model["unk_id"] = [[piece, scores.get(piece, least)] for piece in named], text.UNK
        added = [one for one in content.get("added_tokens", []) if one["content"] in ids]
    else:
        added = list(content.get("added_tokens", []))
        model["vocab"] = {**dict.fromkeys([*model["vocab"], *(one["content"] for one in added)], text.UNK), **ids}
    added = [{**one, "id": ids.get(one["content"], text.UNK)} for one in added if one["content"] not in text.SPECIALS]
    nothing = dict.fromkeys(("truncation", "padding", "post_processor"))
    return {**content, **nothing, "added_tokens": added, "model": model}
