"""What of an example a model reads, and whether a data set can be trained on: found out before the first step."""

from __future__ import annotations

import hashlib
import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from vtx_keras.data import _tensors as tensors
from vtx_keras.data._source import mapped
from vtx_keras.inputs.text import LABEL_FIELDS, TEXT_FIELDS
from vtx_keras.models._base import VisionText
from vtx_keras.models._captioner import Captioner
from vtx_keras.models._readers import Answerer, Matcher
from vtx_keras.models.options import did_you_mean


class BadData(ValueError):
    """A data set that cannot be trained on, and why."""


class Plan(NamedTuple):
    """What of an example the model reads, and how."""

    model: VisionText
    shape: tuple[int, ...]
    fit: str
    text: str
    label: str | None
    length: int  # of ids, with start and end
    room: int  # for pieces
    cut: Callable  # normalised texts to pieces
    label_of: Callable[[dict], tf.Tensor] | None
    usable: Callable[[dict], tf.Tensor]
    row: Callable[[dict], dict]  # what is kept of an example
    choose: Callable[[dict, tf.Tensor], dict]  # a row with one text


def plan_of(spec: Any, model: VisionText, how: dict[str, Any]) -> Plan:
    """What `model` reads of examples of this spec, where `how` says how they are augmented; or why it cannot."""
    if not isinstance(spec, dict) or not {"image", "path"} & set(spec):
        raise BadData(
            f'examples are {sorted(spec) if isinstance(spec, dict) else spec}: expected a dict with "image" and a text '
            '("caption", "question" or "text"). data.load(..., columns={"image": "your name"}) renames'
        )
    found = [key for key in TEXT_FIELDS if key in spec]
    if not found:
        raise BadData(f"examples have no text: expected one of {', '.join(TEXT_FIELDS)} among {sorted(spec)}")
    key = "question" if isinstance(model, Answerer) and "question" in found else found[0]
    label = next((name for name in LABEL_FIELDS if name in spec), None)
    label_of = None
    if isinstance(model, Answerer):
        if label is None:
            raise BadData(f'a {model.name} learns "answer" or "label", but examples have {sorted(spec)}')
        label_of = _labelling(model, label, spec[label])
    elif isinstance(model, Matcher) and label == "label" and spec[label].dtype.is_integer:
        label_of = _fitting
    background = how.get("background", 0)
    if background and ("alpha" not in spec or spec["alpha"].dtype != tf.string or len(model.image_shape) == 4):
        raise BadData('augment "background" needs pictures whose "alpha" is known, as those of data.load("emoji")')
    if model.image_shape[-1] != 3:  # model.behind_encoder()
        if "image" not in spec or tuple(spec["image"].shape) != model.image_shape:
            raise BadData(f"this model reads features {model.image_shape}: data.features(ds, model) makes them")
        if any(how.get(name) for name in ("crop", "flip", "rotation", "colour", "background")):
            raise BadData("features cannot be augmented: train on pictures, or change the words alone")
    captioner = isinstance(model, Captioner)
    length = model.options["max_length"] + captioner
    cut = tensors.pieces(model.vocabulary)
    empty = model.options.get("allow_empty", False)
    synonyms = 0.0 if captioner or "keywords" not in spec else how.get("synonyms", 0.0)

    def worded(texts: tf.Tensor) -> tf.Tensor:
        return cut(tensors.normalize(tf.reshape(texts, [-1]))).row_lengths() > 0

    def usable(example: dict) -> tf.Tensor:
        good = empty or tf.reduce_any(worded(example[key]))
        return good if label_of is None else tf.logical_and(good, tf.reduce_all(label_of(example) >= 0))

    def row(example: dict) -> dict:
        wanted = (
            {"image", "path", "row", "id"} | ({"prompt"} if captioner else set()) | ({"alpha"} if background else set())
        )
        kept = {name: value for name, value in example.items() if name in wanted}
        kept = without(kept, "path") if "image" in kept else kept
        kept["text"] = example[key]
        if synonyms:
            kept["keywords"] = example["keywords"]
        return kept if label_of is None else {**kept, "label": label_of(example)}

    def one(texts: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """The text; of several that have words, one at random."""
        if not texts.shape.rank:
            return texts
        good = tf.boolean_mask(texts, worded(texts))
        return good[tf.random.stateless_uniform([], seed, 0, tf.shape(good)[0], tf.int32)]

    def choose(row: dict, draw: tf.Tensor) -> dict:
        said = one(row["text"], seed_for(draw, 0))
        if synonyms:
            some = tf.random.stateless_uniform([], seed_for(draw, 1)) < synonyms
            some = tf.logical_and(some, tf.reduce_any(worded(row["keywords"])))
            said = tf.cond(some, lambda: one(row["keywords"], seed_for(draw, 2)), lambda: said)
        return {**without(row, "keywords"), "text": said}

    return Plan(
        model, model.image_shape, model.options["resize"], key, label, length, length - 1 - captioner, cut, label_of,
        usable, row, choose,
    )  # fmt: skip


def without(row: dict, name: str) -> dict:
    """The row without one of its parts."""
    return {key: value for key, value in row.items() if key != name}


def _labelling(model: Answerer, key: str, spec: tf.TensorSpec) -> Callable[[dict], tf.Tensor]:
    """Class numbers of an example, -1 for what is none; a row of zeros and ones where there may be several.

    Several may be given so too: as many numbers, or truths, as there are classes.
    """
    names = model.class_names
    if model.options["multi_label"] and tuple(spec.shape) == (len(names),) and spec.dtype != tf.string:

        def hot(example: dict) -> tf.Tensor:
            value = tf.cast(example[key], tf.float32)
            return tf.where((value == 0) | (value == 1), value, -1.0)

        return hot
    table = tf.lookup.StaticHashTable(
        tf.lookup.KeyValueTensorInitializer(tf.constant(names), tf.range(len(names), dtype=tf.int64)), -1
    )

    def number(example: dict) -> tf.Tensor:
        value = example[key]
        if value.dtype == tf.string:
            value = table.lookup(value)
        else:
            value = tf.where((value >= 0) & (value < len(names)), tf.cast(value, tf.int64), -1)
        if not model.options["multi_label"]:
            return tf.cast(value, tf.int32)
        value = tf.reshape(value, [-1])
        hot = tf.reduce_max(tf.one_hot(value, len(names)), axis=0) if value.shape != (0,) else tf.zeros(len(names))
        return tf.where(tf.reduce_any(value < 0), -1.0, tf.maximum(hot, 0.0))

    if not model.options["multi_label"] and spec.shape.rank:
        raise BadData(
            f"{key!r} holds several labels per row, but {model.name} takes one: build it with multi_label=True"
        )
    return number


def _fitting(example: dict) -> tf.Tensor:
    value = tf.cast(tf.reshape(example["label"], [1]), tf.float32)
    return tf.where((value == 0) | (value == 1), value, -1.0)


def survey(source: tf.data.Dataset, plan: Plan, unknown: str) -> tuple[int, bool, str]:
    """How many rows remain, whether all texts are plain, and a hash of it all.

    Says what was left out, cut and mended, and refuses what cannot be trained on.
    """
    total, kept, hashed = 0, 0, hashlib.sha256()
    told: Counter[str] = Counter()
    labels: Counter[str] = Counter()

    def look(example: dict) -> dict:
        texts = tf.reshape(example[plan.text], [-1])
        mended = tf.strings.unicode_transcode(texts, "UTF-8", "UTF-8", replace_control_characters=False) != texts
        lengths = plan.cut(tensors.normalize(texts)).row_lengths()
        known = tf.reduce_all(plan.label_of(example) >= 0) if plan.label_of else tf.constant(True)
        odd = tf.logical_not(tensors.is_plain(texts))
        seen = {"empty": lengths == 0, "cut": lengths > plan.room, "mended": mended, "odd": odd}
        return {
            **{key: tf.math.count_nonzero(value) for key, value in seen.items()},
            "usable": plan.usable(example),
            "hash": _hash_of(example, plan),
            "known": known,
            "label": tf.strings.as_string(example[plan.label]) if plan.label_of else "",
        }

    for row in mapped(source, look).as_numpy_iterator():
        total, kept = total + 1, kept + bool(row["usable"])
        hashed.update(row["hash"].tobytes())
        told.update({key: int(row[key]) for key in ("empty", "cut", "mended", "odd")})
        if not row["known"]:
            labels.update(label.decode() for label in np.atleast_1d(row["label"]))
    if labels and unknown == "error":
        names = getattr(plan.model, "class_names", ["0", "1"])
        odd = {label: n for label, n in labels.items() if label not in names} or labels
        common = ", ".join(f"{label!r} ({n} x)" for label, n in Counter(odd).most_common(5))
        raise BadData(
            f"{sum(odd.values())} labels of {total} rows are none of the model's {len(names)} classes: {common}"
            f"{did_you_mean(next(iter(odd)), names)}. Build it with classes= that hold them, or pass "
            'unknown="drop" to leave those rows out'
        )
    counts = f"{told['empty']} texts without words, {sum(labels.values())} unknown labels"
    if not kept:
        raise BadData(f"no example is left of {total}: {counts}")
    said = []
    if total - kept:
        said.append(f"{total - kept} of {total} rows are left out ({counts})")
    if told["cut"]:
        said.append(f"{told['cut']} texts are cut to {plan.room} pieces (build the model with a greater max_length)")
    if told["mended"]:
        said.append(f"broken UTF-8 is mended in {told['mended']} texts")
    if said:
        warnings.warn("; ".join(said), stacklevel=4)
    return kept, not told["odd"], hashed.hexdigest()


def _hash_of(example: dict, plan: Plan) -> tf.Tensor:
    """A number that changes when the example does."""
    parts = [tf.strings.reduce_join(tf.reshape(example[plan.text], [-1]), separator="|")]
    if plan.label_of:
        parts.append(
            tf.strings.reduce_join(tf.strings.as_string(tf.reshape(plan.label_of(example), [-1])), separator="|")
        )
    if "prompt" in example:
        parts.append(example["prompt"])
    picture = example["image"] if "image" in example else tf.io.read_file(example["path"])
    if not isinstance(picture, tf.RaggedTensor):
        parts.append(picture if picture.dtype == tf.string else tf.io.serialize_tensor(picture))
    return tf.strings.to_hash_bucket_fast(tf.stack([tf.reshape(part, []) for part in parts]), 2**62)


def seed_for(draw: tf.Tensor, use: int) -> tf.Tensor:
    """A seed for a stateless operation: of one draw, another for each use."""
    return tf.stack([draw, tf.constant(use, tf.int64)])
