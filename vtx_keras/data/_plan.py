"""Plan which fields of an example a model reads, and check a data set before the first training step."""

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
from vtx_keras.data._turns import STATES
from vtx_keras.inputs.text import LABEL_FIELDS, TEXT_FIELDS
from vtx_keras.models._base import VisionText
from vtx_keras.models._methods import Answerer, Captioner, Matcher
from vtx_keras.models.options import did_you_mean


class BadData(ValueError):
    """Raised for a data set that cannot be trained on."""


class Epochs(NamedTuple):
    """Batches that can start in any epoch after any batch, so that a run can resume."""

    batches: tf.data.Dataset  # the epoch set by `begin`; before `begin` is called, another one each time
    steps: int  # batches in a whole epoch
    begin: Callable[[int, int], None]  # set the next epoch and how many of its batches are done
    rows_of: Callable[[int, int, int], list[dict]]  # (epoch, first, last): the examples in these batches
    fingerprint: str  # hash of all texts, labels and encoded images, in order


class Plan(NamedTuple):
    """Which fields of an example the model reads, and how."""

    model: VisionText
    shape: tuple[int, ...]
    fit: str
    text: str
    label: str | None
    length: int  # of the ids, including start and end
    room: int  # largest number of word pieces
    cut: Callable  # normalised texts to word pieces
    label_of: Callable[[dict], tf.Tensor] | None
    usable: Callable[[dict], tf.Tensor]
    row: Callable[[dict], dict]  # example to row: the fields that batches need
    choose: Callable[[dict, tf.Tensor], dict]  # row and random draw to a row with one text


def plan_of(spec: Any, model: VisionText, how: dict[str, Any]) -> Plan:
    """Plan what `model` reads of examples with this spec, augmented as in `how`; raise `BadData` if it cannot."""
    if not isinstance(spec, dict) or not {"image", "path"} & set(spec):
        raise BadData(
            f'examples are {sorted(spec) if isinstance(spec, dict) else spec}: expected a dict with "image" and a text '
            '("caption", "question" or "text"). data.load(..., columns={"image": "your name"}) renames'
        )
    text_keys = [key for key in TEXT_FIELDS if key in spec]
    if not text_keys:
        raise BadData(f"examples have no text: expected one of {', '.join(TEXT_FIELDS)} among {sorted(spec)}")
    key = "question" if isinstance(model, Answerer) and "question" in text_keys else text_keys[0]
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
        raise BadData('augment "background" needs pictures with "alpha", such as those of data.load("emoji")')
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

    def has_words(texts: tf.Tensor) -> tf.Tensor:
        return cut(tf.reshape(texts, [-1])).row_lengths() > 0

    def usable(example: dict) -> tf.Tensor:
        if "_turns" in example:
            return example["_state"] == 0
        good = empty or tf.reduce_any(has_words(example[key]))
        return good if label_of is None else tf.logical_and(good, tf.reduce_all(label_of(example) >= 0))

    def row(example: dict) -> dict:
        fields = (
            {"image", "path", "row", "id"}
            | ({"seen"} & set(model.input))
            | ({"prompt", "_turns", "_learned"} if captioner else set())
            | ({"alpha"} if background else set())
        )
        kept = {name: value for name, value in example.items() if name in fields}
        kept = without(kept, "path") if "image" in kept else kept
        kept["text"] = example[key]
        if synonyms:
            kept["keywords"] = example["keywords"]
        return kept if label_of is None else {**kept, "label": label_of(example)}

    def draw_one(texts: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Return the text, or a random one of those with words."""
        if not texts.shape.rank:
            return texts
        good = tf.boolean_mask(texts, has_words(texts))
        return good[tf.random.stateless_uniform([], seed, 0, tf.shape(good)[0], tf.int32)]

    def choose(row: dict, draw: tf.Tensor) -> dict:
        text = draw_one(row["text"], seed_for(draw, 0))
        if synonyms:
            replace = tf.random.stateless_uniform([], seed_for(draw, 1)) < synonyms
            replace = tf.logical_and(replace, tf.reduce_any(has_words(row["keywords"])))
            text = tf.cond(replace, lambda: draw_one(row["keywords"], seed_for(draw, 2)), lambda: text)
        return {**without(row, "keywords"), "text": text}

    return Plan(
        model, model.image_shape, model.options["resize"], key, label, length, length - 1 - captioner, cut, label_of,
        usable, row, choose,
    )  # fmt: skip


def without(row: dict, name: str) -> dict:
    """Return a row without one of its fields."""
    return {key: value for key, value in row.items() if key != name}


def _labelling(model: Answerer, key: str, spec: tf.TensorSpec) -> Callable[[dict], tf.Tensor]:
    """Return a function from an example to its class number, or to a multi-hot row; -1 stands for an unknown class.

    Multi-label examples may hold such rows already: one number or boolean per class.
    """
    names = model.class_names
    if model.options["multi_label"] and tuple(spec.shape) == (len(names),) and spec.dtype != tf.string:

        def multi_hot(example: dict) -> tf.Tensor:
            value = tf.cast(example[key], tf.float32)
            return tf.where((value == 0) | (value == 1), value, -1.0)

        return multi_hot
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
        multi_hot = (
            tf.reduce_max(tf.one_hot(value, len(names)), axis=0) if value.shape != (0,) else tf.zeros(len(names))
        )
        return tf.where(tf.reduce_any(value < 0), -1.0, tf.maximum(multi_hot, 0.0))

    if not model.options["multi_label"] and spec.shape.rank:
        raise BadData(
            f"{key!r} holds several labels per row, but {model.name} takes one: build it with multi_label=True"
        )
    return number


def _fitting(example: dict) -> tf.Tensor:
    value = tf.cast(tf.reshape(example["label"], [1]), tf.float32)
    return tf.where((value == 0) | (value == 1), value, -1.0)


def survey(source: tf.data.Dataset, plan: Plan, unknown: str) -> tuple[int, bool, str]:
    """Read all examples once: return the number of usable rows, whether all texts are plain, and a hash of the data.

    Warns of rows left out and of texts truncated or with invalid UTF-8; raises `BadData` if nothing can be trained on.
    """
    total, kept, hashed = 0, 0, hashlib.sha256()
    counts: Counter[str] = Counter()
    unknown_counts: Counter[str] = Counter()
    states: Counter[int] = Counter()

    def inspect(example: dict) -> dict:
        texts = tf.reshape(example[plan.text], [-1])
        invalid = tf.strings.unicode_transcode(texts, "UTF-8", "UTF-8", replace_control_characters=False) != texts
        lengths = plan.cut(texts).row_lengths()
        label_known = tf.reduce_all(plan.label_of(example) >= 0) if plan.label_of else tf.constant(True)
        special = tf.logical_not(tensors.is_plain(texts))
        flags = {"empty": lengths == 0, "cut": lengths > plan.room, "invalid": invalid, "special": special}
        if "_turns" in example:
            flags |= {"empty": [], "cut": example["_pieces"] > plan.length}
        return {
            "state": example.get("_state", tf.constant(0, tf.int64)),
            **{key: tf.math.count_nonzero(value) for key, value in flags.items()},
            "usable": plan.usable(example),
            "hash": _hash_of(example, plan),
            "known": label_known,
            "label": tf.strings.as_string(example[plan.label]) if plan.label_of else "",
        }

    for row in mapped(source, inspect).as_numpy_iterator():
        total, kept = total + 1, kept + bool(row["usable"])
        hashed.update(row["hash"].tobytes())
        counts.update({key: int(row[key]) for key in ("empty", "cut", "invalid", "special")})
        states[int(row["state"])] += 1
        if not row["known"]:
            unknown_counts.update(label.decode() for label in np.atleast_1d(row["label"]))
    if unknown_counts and unknown == "error":
        names = getattr(plan.model, "class_names", ["0", "1"])
        unlisted = {label: n for label, n in unknown_counts.items() if label not in names} or unknown_counts
        examples = ", ".join(f"{label!r} ({n} x)" for label, n in Counter(unlisted).most_common(5))
        raise BadData(
            f"{sum(unlisted.values())} labels of {total} rows are none of the model's {len(names)} classes: {examples}"
            f"{did_you_mean(next(iter(unlisted)), names)}. Build it with classes= that hold them, or pass "
            'unknown="drop" to leave those rows out'
        )
    reasons = f"{counts['empty']} texts without words, {sum(unknown_counts.values())} unknown labels"
    if "_turns" in source.element_spec:
        reasons = "; ".join(f"{count} {STATES[state]}" for state, count in sorted(states.items()) if state)
    if not kept:
        raise BadData(f"no example is left of {total}: {reasons}")
    notes = []
    if total - kept:
        notes.append(f"{total - kept} of {total} rows are left out ({reasons})")
    if counts["cut"]:
        notes.append(f"{counts['cut']} texts are cut to {plan.room} pieces (build the model with a greater max_length)")
    if counts["invalid"]:
        notes.append(f"invalid UTF-8 is replaced in {counts['invalid']} texts")
    if notes:
        warnings.warn("; ".join(notes), stacklevel=4)
    return kept, not counts["special"], hashed.hexdigest()


def _hash_of(example: dict, plan: Plan) -> tf.Tensor:
    """Hash an example to a number."""
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


def epoch_seed(seed: int, number: tf.Tensor, use: int) -> tf.Tensor:
    """Return a seed for one use within one epoch."""
    drawn = tf.random.stateless_uniform(
        [2], tf.stack([tf.constant(seed, tf.int64) * 8 + use, number]), 0, 2**31 - 1, tf.int32
    )
    return tf.cast(drawn[0], tf.int64) + 1  # a seed of two zeros would mean "no seed"


def seed_for(draw: tf.Tensor, use: int) -> tf.Tensor:
    """Return a seed for a stateless operation, different for each use of one draw."""
    return tf.stack([draw, tf.constant(use, tf.int64)])
