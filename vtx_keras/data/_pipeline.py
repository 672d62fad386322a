"""From examples to batches for `fit`: pick, decode, fit, augment, tokenize, count; all of it in tf.data.

Every row is accounted for: a text without words is left out, one that is too long is cut, broken UTF-8 is mended, and
each is counted and said once, before the first step. A label that the model does not know is an error then.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import tensorflow as tf
import tensorflow.experimental.numpy as tnp

from vtx_keras._compat import forget_graph_seed
from vtx_keras.data import _tensors as tensors
from vtx_keras.data._examples import encoded_of
from vtx_keras.data._memory import MASKED_SHARE, hidden_words, with_negatives
from vtx_keras.data._plan import BadData, Plan, plan_of, seed_for, survey, without
from vtx_keras.data._source import Examples, mapped, plainly
from vtx_keras.inputs import media, text
from vtx_keras.models._base import VisionText
from vtx_keras.models._captioner import Captioner
from vtx_keras.models._readers import Matcher, Retriever
from vtx_keras.models.options import did_you_mean

SHUFFLED = 2_000  # rows mixed at a time where they hold pictures; tfds has mixed the whole set when it wrote it
DIRECTIONS = r"(^|[^a-z])(left|right|clockwise|counterclockwise|o’clock)"


def batches(
    ds: tf.data.Dataset | Examples,
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

    `training` shuffles. `augment` is True or a dict that changes `tensors.AUGMENT`. `buckets` are text lengths: rows of
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
    found = epochs(
        ds, model, batch_size=batch_size, training=training, augment=augment, buckets=buckets, static=static,
        cache=cache, unknown=unknown, seed=seed,
    )  # fmt: skip
    return (
        found.batches
        if found.steps is None
        else found.batches.apply(tf.data.experimental.assert_cardinality(found.steps))
    )


class Epochs(NamedTuple):
    """What `batches` makes, for a run that goes on where it was: any epoch again, from any batch on."""

    batches: tf.data.Dataset  # of the epoch that `begin` named; before it is called, of another each time
    steps: int | None  # in a whole epoch; None with buckets
    begin: Callable[[int, int], None]  # which epoch comes next, and how many of its batches are done
    rows_of: Callable[[int, int, int], list[dict]]  # (epoch, first, last): what examples these batches hold
    fingerprint: str  # of all texts, labels and encoded pictures, in order


def epochs(
    ds: tf.data.Dataset | Examples,
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
) -> Epochs:
    """`batches` whose every draw is a function of (seed, epoch): what was begun can be gone on with, bit for bit.

    >>> from vtx_keras import zoo
    >>> model = zoo.build("gated_captioner", weights=None, dim=32, depth=1, vision_depth=1, image_shape=(32, 32, 3))
    >>> pictures = np.zeros((4, 32, 32, 3), "uint8")
    >>> ds = tf.data.Dataset.from_tensor_slices({"image": pictures, "caption": ["one", "two", "three", "four"]})
    >>> found = epochs(ds, model, batch_size=1, training=True)
    >>> found.begin(3, 2)
    >>> len(list(found.batches)), found.steps, len(found.rows_of(3, 2, 4))
    (2, 4, 2)
    """
    if unknown not in ("error", "drop"):
        raise ValueError(f'unknown={unknown!r}: expected "error" or "drop"')
    if not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"batch_size={batch_size!r}: expected a whole number of at least 1")
    how = augmentation(augment)
    source = encoded_of(ds)
    if isinstance(model, Captioner) and _asks(source.element_spec):
        source = mapped(source, _prompted)
    plan = plan_of(source.element_spec, model, how)
    kept, plain, fingerprint = survey(source, plan, unknown)
    drop = static and (isinstance(model, Retriever) or bool(model.options.get("contrastive")))  # rows meet each other
    count = kept // batch_size if drop else -(-kept // batch_size)
    if not count:
        raise BadData(f"{kept} rows make no batch of {batch_size}: choose a smaller batch_size")
    surveyed = "prompt" not in source.element_spec and not how.get("synonyms")
    encode = tensors.encoder(model.vocabulary, start=True, end=isinstance(model, Captioner), plain=plain and surveyed)
    rows = mapped(source.enumerate(), lambda number, example: {**example, "row": number})
    rows = mapped(rows.filter(plainly(plan.usable)), plan.row)

    stored = rows.element_spec.get("image")
    by_batch = stored is None or stored.dtype == tf.string or tuple(stored.shape) == plan.shape
    kept_fitted = bool(cache) and not how  # pictures are stored as they will be used

    def fit(row: dict, draw: tf.Tensor | None) -> dict:
        return {**without(row, "path"), "image": _fitted(row, plan, how, draw)}

    if kept_fitted:
        rows = mapped(rows, lambda row: fit(row, None))
    if cache:
        rows = rows.cache() if cache is True else rows.cache(os.fspath(cache))
    rest = how if by_batch or not how else {**how, "crop": 0}  # what `fit` has not done
    finish = _finishing(plan, encode, rest, batch_size if static and not drop else None)

    def ordered(number: tf.Tensor, done: tf.Tensor) -> tf.data.Dataset:
        """The rows of an epoch, from batch `done` on, in its own order."""
        forget_graph_seed()  # `shuffle` joins a global seed with Python numbers only
        if not training:
            return rows.skip(done * batch_size)
        mixed = kept if "path" in rows.element_spec else min(kept, SHUFFLED)
        return rows.shuffle(mixed, _epoch_seed(seed, number, 0), reshuffle_each_iteration=False).skip(done * batch_size)

    def draws(number: tf.Tensor, use: int, done: tf.Tensor) -> tf.data.Dataset:
        return tf.data.Dataset.random(_epoch_seed(seed, number, use)).skip(done)

    def epoch(number: tf.Tensor, done: tf.Tensor) -> tf.data.Dataset:
        order, rows_done = ordered(number, done), done * batch_size
        if not by_batch and not kept_fitted:  # pixels of many sizes make no batch
            order = mapped(tf.data.Dataset.zip(order, draws(number, 3, rows_done)), fit)
        order = mapped(tf.data.Dataset.zip(order, draws(number, 2, rows_done)), plan.choose)
        if buckets:
            ready = tf.data.Dataset.zip(_bucketed(order, plan, buckets, batch_size, drop), draws(number, 1, done))
            return mapped(ready, lambda batch, draw: finish(*batch, draw))
        ready = tf.data.Dataset.zip(order.batch(batch_size, drop_remainder=drop), draws(number, 1, done))
        return mapped(ready, lambda batch, draw: finish(batch, plan.length, draw))

    with tf.device("CPU"):
        position = tf.Variable([-1, 0], dtype=tf.int64)  # read when an epoch begins

    def now(other: tf.Tensor) -> tf.data.Dataset:
        return epoch(tf.where(position[0] < 0, other, position[0]), position[1])

    def begin(number: int, done: int = 0) -> None:
        position.assign([number, done])

    def rows_of(number: int, first: int, last: int) -> list[dict]:
        order = tf.data.Dataset.from_tensors(tf.constant([number, first], tf.int64)).flat_map(
            plainly(lambda at: ordered(*tf.unstack(at)))
        )
        told = mapped(order.take((last - first) * batch_size), _names)
        return [
            {
                key: value.decode(errors="replace") if isinstance(value, bytes) else value.tolist()
                for key, value in row.items()
            }
            for row in told.as_numpy_iterator()
        ]

    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    another = tf.data.Dataset.random(seed=seed, rerandomize_each_iteration=True).take(1)
    ready = another.flat_map(plainly(now)).prefetch(tf.data.AUTOTUNE).with_options(options)
    return Epochs(ready, None if buckets else count, begin, rows_of, fingerprint)


def _names(row: dict) -> dict:
    """What tells one example from others, without its picture."""
    told = {key: row[key] for key in ("row", "id", "path", "text", "label") if key in row}
    return {**told, "text": tf.strings.reduce_join(tf.reshape(told["text"], [-1]), separator=" | ")}


def _asks(spec: Any) -> bool:
    return isinstance(spec, dict) and {"question", "answer"} <= set(spec) and not {"caption", "captions"} & set(spec)


def _prompted(example: dict) -> dict:
    """A question and its answer as a captioner takes them: it reads the one and writes the other."""
    answer = example["answer"] if example["answer"].dtype == tf.string else tf.strings.as_string(example["answer"])
    kept = without(without(example, "question"), "answer")
    return {**kept, "prompt": example["question"], "caption": answer}


def _epoch_seed(seed: int, number: tf.Tensor, use: int) -> tf.Tensor:
    """A seed for one use within one epoch."""
    drawn = tf.random.stateless_uniform(
        [2], tf.stack([tf.constant(seed, tf.int64) * 8 + use, number]), 0, 2**31 - 1, tf.int32
    )
    return tf.cast(drawn[0], tf.int64) + 1  # two zeros would mean "no seed"


def augmentation(augment: bool | Mapping[str, Any]) -> dict[str, Any]:
    """What `augment=` means: nothing, or all of AUGMENT with what is given in its place.

    >>> augmentation({"words": 0.2})["crop"]
    0.3
    """
    if augment is False:
        return {}
    wanted = {} if augment is True else dict(augment)
    for name in wanted:
        if name not in tensors.AUGMENT:
            raise ValueError(f"augment has no {name!r}{did_you_mean(name, tensors.AUGMENT)}: {sorted(tensors.AUGMENT)}")
    return {**tensors.AUGMENT, **wanted}


def _said(row: dict) -> tf.Tensor:
    """All that is read: a captioner's prompt stands before its caption."""
    return tf.strings.join([row["prompt"], row["text"]], " ") if "prompt" in row else row["text"]


def _fitted(row: dict, plan: Plan, how: dict[str, Any], draw: tf.Tensor | None) -> tf.Tensor:
    """One row's picture as uint8 at the model's shape, or the part of it that augmentation takes."""
    picture = row["image"] if "image" in row else row["path"]
    window = None if draw is None or not how else tensors.windows(seed_for(draw, 0), 1, how["crop"])
    if isinstance(picture, tf.RaggedTensor):  # frames of many sizes
        frames, one = plan.shape[0], tf.TensorSpec(plan.shape[1:], tf.uint8)
        picked = tf.gather(picture, media.frame_places(picture.nrows(tf.int32), frames))

        def frame(pixel_rows: tf.RaggedTensor) -> tf.Tensor:
            whole = tf.ensure_shape(pixel_rows.to_tensor(), (None, None, 3))
            return tensors.fitted(whole[None], plan.shape[1:], plan.fit, window)[0]

        return tf.ensure_shape(tf.map_fn(frame, picked, fn_output_signature=one), plan.shape)
    return tensors.fitted(picture[None], plan.shape, plan.fit, window, paths="image" not in row)[0]


def _bucketed(
    rows: tf.data.Dataset, plan: Plan, buckets: Sequence[int], batch_size: int, drop: bool
) -> tf.data.Dataset:
    """Batches of rows of like length, each with the length to fill up to."""
    bounds = sorted({*(bound + isinstance(plan.model, Captioner) for bound in buckets), plan.length})
    if bounds[-1] > plan.length or bounds[0] < 3:
        raise ValueError(f"buckets={list(buckets)}: expected lengths from 3 to {plan.model.options['max_length']}")

    def bucket(row: dict) -> tf.Tensor:
        length = plan.cut(tensors.normalize(_said(row)[None])).row_lengths()[0] + plan.length - plan.room
        return tf.cast(tf.searchsorted(tf.constant(bounds[:-1], tf.int64), length[None])[0], tf.int64)

    def together(number: tf.Tensor, rows: tf.data.Dataset) -> tf.data.Dataset:
        batch = rows.batch(batch_size, drop_remainder=drop)
        return batch.map(lambda rows: (rows, tf.gather(tf.constant(bounds), tf.cast(number, tf.int32))))

    return rows.group_by_window(bucket, together, window_size=batch_size)


def _pictures(batch: dict, plan: Plan, how: dict[str, Any], draw: tf.Tensor) -> tf.Tensor:
    """A batch's pictures at the model's shape, augmented if that is wanted, as float32."""
    image, paths = (batch["image"], False) if "image" in batch else (batch["path"], True)
    count = tf.shape(batch["text"])[0]
    parts = tensors.windows(seed_for(draw, 1), count, how["crop"]) if how and how["crop"] else None
    if image.dtype in (tf.uint8, tf.string) or parts is not None:
        image = tensors.fitted(image, plan.shape, plan.fit, parts, paths=paths)
    if not how or plan.shape[-1] != 3:
        return tf.cast(image, tf.float32)
    clear = None
    if "alpha" in batch:
        clear = 255 - tensors.fitted(batch["alpha"], plan.shape, plan.fit, parts)
    said = tensors.normalize(batch["text"])
    sided = tf.strings.regex_full_match(said, f".*{DIRECTIONS}.*")
    image = tf.cast(image, tf.uint8)
    return tensors.augment(image, seed_for(draw, 2), how, flip=tf.logical_not(sided), clear=clear)


def _finishing(plan: Plan, encode: Callable, how: dict, fill: int | None) -> Callable:
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
                read = plan.cut(tensors.normalize(batch["prompt"])).row_lengths()[:, None]
                weight *= tf.cast(tf.range(tf.shape(labels)[1], dtype=tf.int64) >= read, tf.float32)
        else:
            tokens = ids
            labels = batch["label"] if plan.label_of else tf.ones((tf.shape(ids)[0], 1))
            if rolled:
                image, tokens, labels = with_negatives(tnp, image, tokens, labels)
            weight = tf.ones(tf.shape(labels)[:1])
        inputs = {"image": image, "tokens": tokens}
        if hidden_share:
            draws = tf.random.stateless_uniform(tf.shape(tokens), seed_for(draw, 0))
            inputs["tokens"], spots, hidden = hidden_words(tnp, tokens, draws, hidden_share)
        if masked:
            labels = {"logits": labels, "words": spots}
            weight = {"logits": weight, "words": tf.cast(hidden, tf.float32)}
        whole = (inputs, labels, weight)
        return whole if fill is None else tf.nest.map_structure(lambda x: _filled(x, fill * (1 + rolled)), whole)

    return finish


def _filled(x: tf.Tensor, rows: int) -> tf.Tensor:
    """Zeros behind the last row: their weight is zero too."""
    pads = tf.concat([[[0, rows - tf.shape(x)[0]]], tf.zeros((x.shape.rank - 1, 2), tf.int32)], axis=0)
    return tf.ensure_shape(tf.pad(x, pads), (rows, *x.shape[1:]))
