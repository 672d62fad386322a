"""From examples to batches for `fit`: pick, decode, fit, augment, tokenize, count; all of it in tf.data.

Every row is accounted for: a text without words is left out, one that is too long is cut, broken UTF-8 is mended, and
each is counted and said once, before the first step. A label that the model does not know is an error then.
"""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from vtx_keras import media, text
from vtx_keras.data import pixels, words
from vtx_keras.data.memory import MASKED_SHARE
from vtx_keras.data.reading import picture_of
from vtx_keras.models import Answerer, Captioner, Matcher, Retriever, VisionText
from vtx_keras.options import did_you_mean

TEXTS = ("captions", "caption", "question", "text")
LABELS = ("answer", "label")
SHUFFLED = 2_000  # rows mixed at a time where they hold pictures; tfds has mixed the whole set when it wrote it
DIRECTIONS = r"(^|[^a-z])(left|right|clockwise|counterclockwise|o’clock)"


class BadData(ValueError):
    """A data set that cannot be trained on, and why."""


def batches(
    ds: tf.data.Dataset,
    model: VisionText,
    *,
    batch_size: int = 32,
    training: bool = False,
    augment: bool | Mapping[str, Any] = False,
    buckets: Sequence[int] = (),
    static: bool = False,
    cache: bool | str | os.PathLike = False,
    unknown: str = "error",
    seed: int = 0,
) -> tf.data.Dataset:
    """Examples as batches `(inputs, labels, sample_weight)` for `fit`, `evaluate` and `predict` of `model`.

    `ds` holds dicts: "image" (pixels, or encoded bytes) and a text ("caption", "question" or "text"; "captions" are
    several, of which one is drawn each time); a vqa model or classifier needs "answer" or "label", a captioner may have
    a "prompt", which is read and not learned. `data.load`, `from_csv` and any `tf.data` of yours make such.

    `training` shuffles. `augment` is True or a dict that changes `pixels.AUGMENT`. `buckets` are text lengths: rows of
    like length share a batch and are filled up to the next of them. `static` fills the last batch with rows of weight
    0, so that XLA compiles one shape (a retriever, whose rows compare with each other, leaves that batch out). `cache`
    keeps prepared pictures in memory or in a file. `unknown="drop"` leaves out rows whose label is no class.

    >>> from vtx_keras import zoo
    >>> model = zoo.build("gated_captioner", weights=None, dim=32, depth=1, vision_depth=1, image_shape=(32, 32, 3))
    >>> ds = tf.data.Dataset.from_tensor_slices({"image": np.zeros((4, 40, 40, 3), "uint8"), "caption": ["a cat"] * 4})
    >>> inputs, labels, weight = next(iter(batches(ds, model, batch_size=2, training=True)))
    >>> inputs["image"].shape, labels.shape == weight.shape
    (TensorShape([2, 32, 32, 3]), True)
    """
    if unknown not in ("error", "drop"):
        raise ValueError(f'unknown={unknown!r}: expected "error" or "drop"')
    if not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"batch_size={batch_size!r}: expected a whole number of at least 1")
    how = _augmentation(augment)
    source = getattr(ds, "encoded", ds)
    plan = _plan(source.element_spec, model)
    kept = _survey(source, plan, unknown)
    source = source.filter(plan.usable)

    prepare = _preparing(plan, how)
    if cache and not how:
        source = _cached(source.map(lambda example: prepare(example, None), tf.data.AUTOTUNE), cache)
        prepare = _drawing(plan, how)
    elif cache:
        source = _cached(source, cache)
    if training:
        source = source.shuffle(kept if "path" in source.element_spec else min(kept, SHUFFLED), seed)
    draws = tf.data.Dataset.random(seed=seed, rerandomize_each_iteration=True)
    rows = tf.data.Dataset.zip(source, draws).map(
        lambda example, draw: prepare(example, _seeds(draw, 3)), tf.data.AUTOTUNE
    )

    drop = static and isinstance(model, Retriever)
    if buckets:
        grouped = _bucketed(rows, plan, buckets, batch_size, drop)
        count = None
    else:
        grouped = rows.batch(batch_size, drop_remainder=drop)
        count = kept // batch_size if drop else -(-kept // batch_size)
    if count == 0:
        raise BadData(f"{kept} rows make no batch of {batch_size}: choose a smaller batch_size")
    finish = _finishing(plan, how, batch_size if static and not drop else None)
    ready = tf.data.Dataset.zip(grouped, draws)
    if buckets:
        ready = ready.map(lambda batch, draw: finish(*batch, _seeds(draw, 2)), tf.data.AUTOTUNE)
    else:
        ready = ready.map(lambda batch, draw: finish(batch, plan.length, _seeds(draw, 2)), tf.data.AUTOTUNE)
    if count is not None:
        ready = ready.apply(tf.data.experimental.assert_cardinality(count))
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    return ready.prefetch(tf.data.AUTOTUNE).with_options(options)


class _Plan(NamedTuple):
    """What of an example the model reads, and how."""

    model: VisionText
    text: str
    label: str | None
    length: int
    cut: Callable  # normalised texts to pieces
    encode: Callable  # texts and a length to ids
    label_of: Callable[[dict], tf.Tensor] | None
    room: int
    usable: Callable[[dict], tf.Tensor]


def _plan(spec: Any, model: VisionText) -> _Plan:
    if not isinstance(spec, dict) or not {"image", "path"} & set(spec):
        raise BadData(
            f'examples are {sorted(spec) if isinstance(spec, dict) else spec}: expected a dict with "image" and a text '
            '("caption", "question" or "text"). data.load(..., columns={"image": "your name"}) renames'
        )
    found = [key for key in TEXTS if key in spec]
    if isinstance(model, Answerer) and "question" in found:
        found = ["question"]
    if not found:
        raise BadData(f"examples have no text: expected one of {', '.join(TEXTS)} among {sorted(spec)}")
    label = next((key for key in LABELS if key in spec), None)
    label_of = None
    if isinstance(model, Answerer):
        if label is None:
            raise BadData(f'a {model.name} learns "answer" or "label", but examples have {sorted(spec)}')
        label_of = _labelling(model, label, spec[label])
    elif isinstance(model, Matcher) and label == "label" and spec[label].dtype.is_integer:
        label_of = _fitting
    captioner = isinstance(model, Captioner)
    length = model.options["max_length"] + captioner
    cut = words.pieces(model.vocabulary)
    empty = model.options.get("allow_empty", False)

    def usable(example: dict) -> tf.Tensor:
        worded = empty or tf.reduce_any(_worded(cut, tf.reshape(example[found[0]], [-1])))
        return worded if label_of is None else tf.logical_and(worded, tf.reduce_all(label_of(example) >= 0))

    return _Plan(
        model, found[0], label, length, cut, words.encoder(model.vocabulary, start=True, end=captioner), label_of,
        length - 1 - captioner, usable,
    )  # fmt: skip


def _worded(cut: Callable, texts: tf.Tensor) -> tf.Tensor:
    return cut(words.normalize(texts)).row_lengths() > 0


def _labelling(model: Answerer, key: str, spec: tf.TensorSpec) -> Callable[[dict], tf.Tensor]:
    """Class numbers of an example, -1 for what is none; a row of zeros and ones where there may be several."""
    names = model.class_names
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


def _survey(source: tf.data.Dataset, plan: _Plan, unknown: str) -> int:
    """How many rows remain; says what was left out, cut and mended, and refuses what cannot be trained on."""
    total, kept, told, labels = 0, 0, Counter(), Counter()

    def look(example: dict) -> dict:
        texts = tf.reshape(example[plan.text], [-1])
        mended = tf.strings.unicode_transcode(texts, "UTF-8", "UTF-8", replace_control_characters=False) != texts
        lengths = plan.cut(words.normalize(texts)).row_lengths()
        known = tf.reduce_all(plan.label_of(example) >= 0) if plan.label_of else tf.constant(True)
        seen = {"empty": lengths == 0, "cut": lengths > plan.room, "mended": mended}
        return {
            **{key: tf.math.count_nonzero(value) for key, value in seen.items()},
            "usable": plan.usable(example),
            "known": known,
            "label": tf.strings.as_string(example[plan.label]) if plan.label and not known.dtype.is_floating else "",
        }

    for row in source.map(look, tf.data.AUTOTUNE).as_numpy_iterator():
        total, kept = total + 1, kept + bool(row["usable"])
        told.update({key: int(row[key]) for key in ("empty", "cut", "mended")})
        if not row["known"]:
            labels.update(label.decode() for label in np.atleast_1d(row["label"]))
    if labels and unknown == "error":
        names = getattr(plan.model, "class_names", ["0", "1"])
        odd = {label: n for label, n in labels.items() if label not in names}
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
        warnings.warn("; ".join(said), stacklevel=3)
    return kept


def _augmentation(augment: bool | Mapping[str, Any]) -> dict[str, Any]:
    if augment is False:
        return {}
    wanted = {} if augment is True else dict(augment)
    for name in wanted:
        if name not in pixels.AUGMENT:
            raise ValueError(f"augment has no {name!r}{did_you_mean(name, pixels.AUGMENT)}: {sorted(pixels.AUGMENT)}")
    return {**pixels.AUGMENT, **wanted}


def _cached(source: tf.data.Dataset, cache: bool | str | os.PathLike) -> tf.data.Dataset:
    return source.cache() if cache is True else source.cache(os.fspath(cache))


def _seeds(draw: tf.Tensor, count: int) -> list[tf.Tensor]:
    """Seeds for the stateless operations, from one drawn number."""
    return [tf.stack([draw, tf.constant(index, tf.int64)]) for index in range(count)]


def _preparing(plan: _Plan, how: dict[str, Any]) -> Callable[[dict, Any], dict]:
    """An example as one row: the picture at the model's size, a text, a label."""
    shape, fit = plan.model.image_shape, plan.model.options["resize"]
    draw = _drawing(plan, how)

    def prepare(example: dict, seeds: Any) -> dict:
        if not how or seeds is None:
            row = {key: example[key] for key in (plan.text, "prompt", plan.label, "keywords") if key in example}
            row["image"] = _fitted(picture_of(example), shape, fit)
        else:
            row = {**example, "image": _augmented(example, plan, shape, fit, how, seeds[0])}
        return row if seeds is None else draw(row, seeds)

    return prepare


def _drawing(plan: _Plan, how: dict[str, Any]) -> Callable[[dict, Any], dict]:
    """A prepared example as a row: one of its texts, or one of its keywords instead."""
    synonyms = 0.0 if isinstance(plan.model, Captioner) else how.get("synonyms", 0.0)

    def draw(row: dict, seeds: Any) -> dict:
        ready = {"image": row["image"], "text": _one_text(row[plan.text], plan, seeds[1])}
        if synonyms and "keywords" in row:
            some = tf.logical_and(tf.random.stateless_uniform([], seeds[2]) < synonyms, tf.size(row["keywords"]) > 0)
            ready["text"] = tf.cond(some, lambda: _one_text(row["keywords"], plan, seeds[1]), lambda: ready["text"])
        if plan.label_of is not None:
            ready["label"] = plan.label_of(row)
        if "prompt" in row and isinstance(plan.model, Captioner):
            ready["prompt"] = row["prompt"]
        return ready

    return draw


def _one_text(texts: tf.Tensor, plan: _Plan, seed: tf.Tensor) -> tf.Tensor:
    """The text; of several that have words, one at random."""
    if not texts.shape.rank:
        return texts
    good = tf.boolean_mask(texts, _worded(plan.cut, texts))
    return good[tf.random.stateless_uniform([], seed, 0, tf.shape(good)[0], tf.int32)]


def _fitted(picture: tf.Tensor | tf.RaggedTensor, shape: tuple[int, ...], fit: str) -> tf.Tensor:
    """uint8 at the model's shape (floats of that very shape pass as they are)."""
    *frames, height, width, _ = shape
    if picture.dtype == tf.string:
        if frames:
            return _clip_of_bytes(picture, shape, fit)
        picture = pixels.decode(picture)
    if picture.dtype != tf.uint8:
        if tuple(picture.shape) == shape:
            return tf.cast(picture, tf.float32)
        picture = tf.cast(tf.clip_by_value(tf.round(tf.cast(picture, tf.float32)), 0, 255), tf.uint8)
    if frames:
        picture = picture if picture.shape.rank == 4 else picture[None]
        total = picture.nrows(tf.int32) if isinstance(picture, tf.RaggedTensor) else tf.shape(picture)[0]
        picks = (2 * tf.range(frames[0]) + 1) * tf.cast(total, tf.int32) // (2 * frames[0])
        picture = tf.gather(picture, picks)
        if isinstance(picture, tf.RaggedTensor):  # frames of many sizes
            one = tf.TensorSpec((height, width, 3), tf.uint8)
            each = tf.map_fn(
                lambda x: pixels.resize(tf.ensure_shape(x.to_tensor(), (None, None, 3)), (height, width), fit),
                picture,
                fn_output_signature=one,
            )
            return tf.ensure_shape(each, shape)
    picture = tf.repeat(picture, 3, axis=-1) if picture.shape[-1] == 1 else picture
    return tf.ensure_shape(pixels.resize(picture, (height, width), fit), shape)


def _clip_of_bytes(data: tf.Tensor, shape: tuple[int, ...], fit: str) -> tf.Tensor:
    """An animated file, or encoded frames, as a clip."""

    def read(clip: Any) -> np.ndarray:
        clip = clip if isinstance(clip, bytes) else clip.item() if np.ndim(clip) == 0 else list(clip)
        return media.prepare(clip, shape, fit).astype("uint8")

    return tf.ensure_shape(tf.numpy_function(read, [data], tf.uint8, stateful=False), shape)


def _augmented(example: dict, plan: _Plan, shape: tuple, fit: str, how: dict, seed: tf.Tensor) -> tf.Tensor:
    picture = picture_of(example)
    clear = None
    if len(shape) == 3 and picture.dtype == tf.string:
        head = pixels.header(picture)
        window = pixels.random_window(head, seed, how["crop"])
        picture = pixels.decode(picture, window)
    else:
        if picture.dtype == tf.string or len(shape) == 4 or picture.dtype != tf.uint8:
            picture = _fitted(picture, shape, fit)
            picture = tf.cast(tf.round(tf.cast(picture, tf.float32)), tf.uint8)
        window = pixels.random_window(tf.concat([[0], tf.shape(picture)[-3:-1]], 0), seed, how["crop"])
        picture = picture[..., window[0] : window[0] + window[2], window[1] : window[1] + window[3], :]
    sized = pixels.resize(picture, shape[-3:-1], fit)
    if how["background"] and "alpha" in example and len(shape) == 3:
        alpha = example["alpha"]
        alpha = tf.io.decode_png(alpha, channels=1) if alpha.dtype == tf.string else alpha
        alpha = alpha[window[0] : window[0] + window[2], window[1] : window[1] + window[3]]
        clear = pixels.resize(tf.repeat(255 - alpha, 3, axis=-1), shape[:2], fit)
    said = words.normalize(tf.reshape(example[plan.text], [-1]))
    turnable = tf.logical_not(tf.reduce_any(tf.strings.regex_full_match(said, f".*{DIRECTIONS}.*")))
    return tf.ensure_shape(pixels.augment(sized, seed + 7, how, flip=turnable, clear=clear), shape)


def _bucketed(
    rows: tf.data.Dataset, plan: _Plan, buckets: Sequence[int], batch_size: int, drop: bool
) -> tf.data.Dataset:
    """Batches of rows of like length, each with the length to fill up to."""
    bounds = sorted({*(bound + isinstance(plan.model, Captioner) for bound in buckets), plan.length})
    if bounds[-1] > plan.length or bounds[0] < 3:
        raise ValueError(f"buckets={list(buckets)}: expected lengths from 3 to {plan.model.options['max_length']}")
    extra = plan.length - plan.room

    def bucket(row: dict) -> tf.Tensor:
        said = _said(row)
        length = plan.cut(words.normalize(said[None])).row_lengths()[0] + extra
        return tf.cast(tf.searchsorted(tf.constant(bounds[:-1], tf.int64), length[None])[0], tf.int64)

    def together(key: tf.Tensor, window: tf.data.Dataset) -> tf.data.Dataset:
        batch = window.batch(batch_size, drop_remainder=drop)
        return batch.map(lambda rows: (rows, tf.gather(tf.constant(bounds), tf.cast(key, tf.int32))))

    return rows.group_by_window(bucket, together, window_size=batch_size)


def _said(row: dict) -> tf.Tensor:
    return tf.strings.join([row["prompt"], row["text"]], " ") if "prompt" in row else row["text"]


def _finishing(plan: _Plan, how: dict, fill: int | None) -> Callable:
    """A batch of rows as what `fit` takes."""
    model, captioner = plan.model, isinstance(plan.model, Captioner)
    rolled = isinstance(model, Matcher) and plan.label_of is None
    masked = bool(model.options.get("mlm", False))
    hidden_share = MASKED_SHARE if masked else how.get("words", 0.0)

    def finish(batch: dict, length: Any, seeds: Any) -> tuple:
        image = tf.cast(batch["image"], tf.float32)
        ids = plan.encode(_said(batch), length)
        if captioner:
            tokens, labels = ids[:, :-1], ids[:, 1:]
            weight = tf.cast(labels != text.PAD, tf.float32)
            if "prompt" in batch:
                read = plan.cut(words.normalize(batch["prompt"])).row_lengths()[:, None]
                weight *= tf.cast(tf.range(tf.shape(labels)[1], dtype=tf.int64) >= read, tf.float32)
        else:
            tokens = ids
            labels = batch["label"] if plan.label_of else tf.ones((tf.shape(ids)[0], 1))
            if rolled:  # each picture once with its own text and once with its neighbour's
                other = tf.roll(tokens, 1, axis=0)
                fits = tf.reduce_all(other == tokens, axis=1, keepdims=True)
                image, tokens = tf.concat([image, image], 0), tf.concat([tokens, other], 0)
                labels = tf.concat([labels, labels * tf.cast(fits, tf.float32)], 0)
            weight = tf.ones(tf.shape(labels)[:1])
        hidden = tf.zeros_like(tokens, tf.bool)
        if hidden_share:
            draws = tf.random.stateless_uniform(tf.shape(tokens), seeds[0])
            hidden = (draws < hidden_share) & (tokens > text.MASK)
        inputs = {"image": image, "tokens": tf.where(hidden, text.MASK, tokens)}
        if masked:
            spots = tf.where(hidden, tokens, text.PAD)
            labels = {"logits": labels, "words": spots}
            weight = {"logits": weight, "words": tf.cast(hidden, tf.float32)}
        whole = (inputs, labels, weight)
        return whole if fill is None else tf.nest.map_structure(lambda x: _filled(x, fill * (1 + rolled)), whole)

    return finish


def _filled(x: tf.Tensor, rows: int) -> tf.Tensor:
    """Zeros behind the last row: their weight is zero too."""
    pads = tf.concat([[[0, rows - tf.shape(x)[0]]], tf.zeros((x.shape.rank - 1, 2), tf.int32)], axis=0)
    return tf.ensure_shape(tf.pad(x, pads), (rows, *x.shape[1:]))
