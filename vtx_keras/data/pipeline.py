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

from vtx_keras import text
from vtx_keras.data import pixels, words
from vtx_keras.data.memory import MASKED_SHARE
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
    a "prompt", which is read and not learned (of a question and its answer, the question is). `data.load`, `from_csv`
    and any `tf.data` of yours make such.

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
    if isinstance(model, Captioner) and _asks(source.element_spec):
        source = source.map(_prompted, tf.data.AUTOTUNE)
    plan = _plan(source.element_spec, model, how)
    kept, plain = _survey(source, plan, unknown)
    surveyed = "prompt" not in source.element_spec and not how.get("synonyms")
    encode = words.encoder(model.vocabulary, start=True, end=isinstance(model, Captioner), plain=plain and surveyed)
    rows = source.filter(plan.usable).map(plan.row, tf.data.AUTOTUNE)

    stored = rows.element_spec.get("image")
    by_batch = stored is None or stored.dtype == tf.string or tuple(stored.shape) == plan.shape
    kept_fitted = bool(cache) and not how  # pictures are stored as they will be used

    def fit(row: dict, draw: tf.Tensor | None) -> dict:
        return {**_without(row, "path"), "image": _fitted(row, plan, how, draw)}

    if kept_fitted:
        rows = rows.map(lambda row: fit(row, None), tf.data.AUTOTUNE)
    if cache:
        rows = rows.cache() if cache is True else rows.cache(os.fspath(cache))
    if training:
        rows = rows.shuffle(kept if "path" in rows.element_spec else min(kept, SHUFFLED), seed)
    if not by_batch and not kept_fitted:  # pixels of many sizes make no batch
        rows = tf.data.Dataset.zip(rows, _draws(seed + 2)).map(fit, tf.data.AUTOTUNE)
    rows = tf.data.Dataset.zip(rows, _draws(seed + 1)).map(plan.choose, tf.data.AUTOTUNE)

    drop = static and isinstance(model, Retriever)
    rest = how if by_batch or not how else {**how, "crop": 0}  # what `fit` has not done
    finish = _finishing(plan, encode, rest, batch_size if static and not drop else None)
    if buckets:
        ready = tf.data.Dataset.zip(_bucketed(rows, plan, buckets, batch_size, drop), _draws(seed))
        ready = ready.map(lambda batch, draw: finish(*batch, draw), tf.data.AUTOTUNE)
    else:
        count = kept // batch_size if drop else -(-kept // batch_size)
        if not count:
            raise BadData(f"{kept} rows make no batch of {batch_size}: choose a smaller batch_size")
        ready = tf.data.Dataset.zip(rows.batch(batch_size, drop_remainder=drop), _draws(seed))
        ready = ready.map(lambda batch, draw: finish(batch, plan.length, draw), tf.data.AUTOTUNE)
        ready = ready.apply(tf.data.experimental.assert_cardinality(count))
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    return ready.prefetch(tf.data.AUTOTUNE).with_options(options)


def _asks(spec: Any) -> bool:
    return isinstance(spec, dict) and {"question", "answer"} <= set(spec) and not {"caption", "captions"} & set(spec)


def _prompted(example: dict) -> dict:
    """A question and its answer as a captioner takes them: it reads the one and writes the other."""
    answer = example["answer"] if example["answer"].dtype == tf.string else tf.strings.as_string(example["answer"])
    kept = _without(_without(example, "question"), "answer")
    return {**kept, "prompt": example["question"], "caption": answer}


def _draws(seed: int) -> tf.data.Dataset:
    """Random numbers, others in each epoch."""
    return tf.data.Dataset.random(seed=seed, rerandomize_each_iteration=True)


def _seed(draw: tf.Tensor, use: int) -> tf.Tensor:
    """A seed for a stateless operation: of one draw, another for each use."""
    return tf.stack([draw, tf.constant(use, tf.int64)])


class _Plan(NamedTuple):
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


def _plan(spec: Any, model: VisionText, how: dict[str, Any]) -> _Plan:
    if not isinstance(spec, dict) or not {"image", "path"} & set(spec):
        raise BadData(
            f'examples are {sorted(spec) if isinstance(spec, dict) else spec}: expected a dict with "image" and a text '
            '("caption", "question" or "text"). data.load(..., columns={"image": "your name"}) renames'
        )
    found = [key for key in TEXTS if key in spec]
    if not found:
        raise BadData(f"examples have no text: expected one of {', '.join(TEXTS)} among {sorted(spec)}")
    key = "question" if isinstance(model, Answerer) and "question" in found else found[0]
    label = next((name for name in LABELS if name in spec), None)
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
    cut = words.pieces(model.vocabulary)
    empty = model.options.get("allow_empty", False)
    synonyms = 0.0 if captioner or "keywords" not in spec else how.get("synonyms", 0.0)

    def worded(texts: tf.Tensor) -> tf.Tensor:
        return cut(words.normalize(tf.reshape(texts, [-1]))).row_lengths() > 0

    def usable(example: dict) -> tf.Tensor:
        good = empty or tf.reduce_any(worded(example[key]))
        return good if label_of is None else tf.logical_and(good, tf.reduce_all(label_of(example) >= 0))

    def row(example: dict) -> dict:
        wanted = {"image", "path"} | ({"prompt"} if captioner else set()) | ({"alpha"} if background else set())
        kept = {name: value for name, value in example.items() if name in wanted}
        kept = _without(kept, "path") if "image" in kept else kept
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
        said = one(row["text"], _seed(draw, 0))
        if synonyms:
            some = tf.random.stateless_uniform([], _seed(draw, 1)) < synonyms
            some = tf.logical_and(some, tf.reduce_any(worded(row["keywords"])))
            said = tf.cond(some, lambda: one(row["keywords"], _seed(draw, 2)), lambda: said)
        return {**_without(row, "keywords"), "text": said}

    return _Plan(
        model, model.image_shape, model.options["resize"], key, label, length, length - 1 - captioner, cut, label_of,
        usable, row, choose,
    )  # fmt: skip


def _without(row: dict, name: str) -> dict:
    return {key: value for key, value in row.items() if key != name}


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


def _survey(source: tf.data.Dataset, plan: _Plan, unknown: str) -> tuple[int, bool]:
    """How many rows remain, and whether all texts are plain.

    Says what was left out, cut and mended, and refuses what cannot be trained on.
    """
    total, kept, told, labels = 0, 0, Counter(), Counter()

    def look(example: dict) -> dict:
        texts = tf.reshape(example[plan.text], [-1])
        mended = tf.strings.unicode_transcode(texts, "UTF-8", "UTF-8", replace_control_characters=False) != texts
        lengths = plan.cut(words.normalize(texts)).row_lengths()
        known = tf.reduce_all(plan.label_of(example) >= 0) if plan.label_of else tf.constant(True)
        odd = tf.logical_not(words.is_plain(texts))
        seen = {"empty": lengths == 0, "cut": lengths > plan.room, "mended": mended, "odd": odd}
        return {
            **{key: tf.math.count_nonzero(value) for key, value in seen.items()},
            "usable": plan.usable(example),
            "known": known,
            "label": tf.strings.as_string(example[plan.label]) if plan.label_of else "",
        }

    for row in source.map(look, tf.data.AUTOTUNE).as_numpy_iterator():
        total, kept = total + 1, kept + bool(row["usable"])
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
        warnings.warn("; ".join(said), stacklevel=3)
    return kept, not told["odd"]


def _augmentation(augment: bool | Mapping[str, Any]) -> dict[str, Any]:
    if augment is False:
        return {}
    wanted = {} if augment is True else dict(augment)
    for name in wanted:
        if name not in pixels.AUGMENT:
            raise ValueError(f"augment has no {name!r}{did_you_mean(name, pixels.AUGMENT)}: {sorted(pixels.AUGMENT)}")
    return {**pixels.AUGMENT, **wanted}


def _said(row: dict) -> tf.Tensor:
    """All that is read: a captioner's prompt stands before its caption."""
    return tf.strings.join([row["prompt"], row["text"]], " ") if "prompt" in row else row["text"]


def _fitted(row: dict, plan: _Plan, how: dict[str, Any], draw: tf.Tensor | None) -> tf.Tensor:
    """One row's picture as uint8 at the model's shape, or the part of it that augmentation takes."""
    picture = row["image"] if "image" in row else row["path"]
    window = None if draw is None or not how else pixels.windows(_seed(draw, 0), 1, how["crop"])
    if isinstance(picture, tf.RaggedTensor):  # frames of many sizes
        frames, one = plan.shape[0], tf.TensorSpec(plan.shape[1:], tf.uint8)
        # As `media.read_clip` picks them.
        picked = tf.gather(picture, (2 * tf.range(frames) + 1) * picture.nrows(tf.int32) // (2 * frames))

        def frame(pixel_rows: tf.RaggedTensor) -> tf.Tensor:
            whole = tf.ensure_shape(pixel_rows.to_tensor(), (None, None, 3))
            return pixels.fitted(whole[None], plan.shape[1:], plan.fit, window)[0]

        return tf.ensure_shape(tf.map_fn(frame, picked, fn_output_signature=one), plan.shape)
    return pixels.fitted(picture[None], plan.shape, plan.fit, window, paths="image" not in row)[0]


def _bucketed(
    rows: tf.data.Dataset, plan: _Plan, buckets: Sequence[int], batch_size: int, drop: bool
) -> tf.data.Dataset:
    """Batches of rows of like length, each with the length to fill up to."""
    bounds = sorted({*(bound + isinstance(plan.model, Captioner) for bound in buckets), plan.length})
    if bounds[-1] > plan.length or bounds[0] < 3:
        raise ValueError(f"buckets={list(buckets)}: expected lengths from 3 to {plan.model.options['max_length']}")

    def bucket(row: dict) -> tf.Tensor:
        length = plan.cut(words.normalize(_said(row)[None])).row_lengths()[0] + plan.length - plan.room
        return tf.cast(tf.searchsorted(tf.constant(bounds[:-1], tf.int64), length[None])[0], tf.int64)

    def together(number: tf.Tensor, rows: tf.data.Dataset) -> tf.data.Dataset:
        batch = rows.batch(batch_size, drop_remainder=drop)
        return batch.map(lambda rows: (rows, tf.gather(tf.constant(bounds), tf.cast(number, tf.int32))))

    return rows.group_by_window(bucket, together, window_size=batch_size)


def _pictures(batch: dict, plan: _Plan, how: dict[str, Any], draw: tf.Tensor) -> tf.Tensor:
    """A batch's pictures at the model's shape, augmented if that is wanted, as float32."""
    image, paths = (batch["image"], False) if "image" in batch else (batch["path"], True)
    count = tf.shape(batch["text"])[0]
    parts = pixels.windows(_seed(draw, 1), count, how["crop"]) if how and how["crop"] else None
    if image.dtype in (tf.uint8, tf.string) or parts is not None:
        image = pixels.fitted(image, plan.shape, plan.fit, parts, paths=paths)
    if not how or plan.shape[-1] != 3:
        return tf.cast(image, tf.float32)
    clear = None
    if "alpha" in batch:
        clear = 255 - pixels.fitted(batch["alpha"], plan.shape, plan.fit, parts)
    said = words.normalize(batch["text"])
    sided = tf.strings.regex_full_match(said, f".*{DIRECTIONS}.*")
    image = tf.cast(image, tf.uint8)
    return pixels.augment(image, _seed(draw, 2), how, flip=tf.logical_not(sided), clear=clear)


def _finishing(plan: _Plan, encode: Callable, how: dict, fill: int | None) -> Callable:
    """A batch of rows as what `fit` takes."""
    model, captioner = plan.model, isinstance(plan.model, Captioner)
    rolled = isinstance(model, Matcher) and plan.label_of is None
    masked = bool(model.options.get("mlm", False))
    hidden_share = MASKED_SHARE if masked else how.get("words", 0.0)

    def finish(batch: dict, length: Any, draw: tf.Tensor) -> tuple:
        image = _pictures(batch, plan, how, draw)
        ids = encode(_said(batch), length)
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
            draws = tf.random.stateless_uniform(tf.shape(tokens), _seed(draw, 0))
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
