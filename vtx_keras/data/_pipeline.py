"""Turn examples into batches for `fit`: select, decode, resize, augment and tokenize, all in tf.data.

Every row is checked before the first step: a text without words is left out, a text that is too long is truncated,
invalid UTF-8 is replaced, and one warning gives the counts. A label that is no class of the model is an error.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf
import tensorflow.experimental.numpy as tnp

from vtx_keras._compat import forget_graph_seed
from vtx_keras.data import _tensors as tensors
from vtx_keras.data import _turns as turns
from vtx_keras.data._behind import Sentences, drawing
from vtx_keras.data._examples import encoded_of, template_of
from vtx_keras.data._memory import MASKED_SHARE, hidden_words, with_negatives
from vtx_keras.data._plan import BadData, Epochs, Plan, epoch_seed, plan_of, seed_for, survey, without
from vtx_keras.data._source import Examples, mapped, plainly
from vtx_keras.inputs import media, text
from vtx_keras.models._base import VisionText
from vtx_keras.models._drawing import Generator
from vtx_keras.models._methods import Captioner, Matcher, Retriever
from vtx_keras.models.options import did_you_mean

WINDOW = 16  # batches that are sorted by length together
SHUFFLED = 2_000  # shuffle buffer for rows with images; tfds has shuffled the whole set when it wrote it
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
    """Make batches `(inputs, labels, sample_weight)` for `fit`, `evaluate` and `predict` of `model`.

    `ds` is the `Examples` of `data.load` or `from_csv`, or a `tf.data` of dicts: "image" (pixels or encoded bytes) and
    a text ("caption", "question" or "text"; of "captions" one is drawn each time). A vqa model or classifier needs
    "answer" or "label". A captioner may have a "prompt", which is read but not learned; of a question and an answer,
    the question is the prompt. A language model with a template reads them as `model.chat` does, also several
    "questions" and their "answers", of which each answer is learned.

    `training` shuffles. `augment` is True or a dict of changes to `AUGMENT` in `data/_tensors.py`. `buckets` are text
    lengths: rows of similar length share a batch, padded to the next of them. `static` pads the last batch with rows of
    weight 0, so that XLA compiles one shape (for a retriever or generator, which compare rows, it drops that batch).
    `cache` keeps prepared images in memory or in a file. `unknown="drop"` leaves out rows whose label is no class.

    >>> from vtx_keras import zoo
    >>> model = zoo.build("gated_captioner", weights=None, dim=32, depth=1, vision_depth=1, image_shape=(32, 32, 3))
    >>> ds = tf.data.Dataset.from_tensor_slices({"image": np.zeros((4, 40, 40, 3), "uint8"), "caption": ["a cat"] * 4})
    >>> inputs, labels, weight = next(iter(batches(ds, model, batch_size=2, training=True)))
    >>> inputs["image"].shape, labels.shape == weight.shape
    (TensorShape([2, 32, 32, 3]), True)
    """
    result = epochs(
        ds, model, batch_size=batch_size, training=training, augment=augment, buckets=buckets, static=static,
        cache=cache, unknown=unknown, seed=seed,
    )  # fmt: skip
    return result.batches.apply(tf.data.experimental.assert_cardinality(result.steps))


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
    beside: Sentences | None = None,
    beside_share: float = 0.5,
) -> Epochs:
    """Make `batches` whose random draws depend only on (seed, epoch), so that training resumes bit for bit.

    `beside` are sentences without pictures: each batch gets `beside_share` times as many of them as it has rows.

    >>> from vtx_keras import zoo
    >>> model = zoo.build("gated_captioner", weights=None, dim=32, depth=1, vision_depth=1, image_shape=(32, 32, 3))
    >>> pictures = np.zeros((4, 32, 32, 3), "uint8")
    >>> ds = tf.data.Dataset.from_tensor_slices({"image": pictures, "caption": ["one", "two", "three", "four"]})
    >>> epoch = epochs(ds, model, batch_size=1, training=True)
    >>> epoch.begin(3, 2)
    >>> len(list(epoch.batches)), epoch.steps, len(epoch.rows_of(3, 2, 4))
    (2, 4, 2)
    """
    if unknown not in ("error", "drop"):
        raise ValueError(f'unknown={unknown!r}: expected "error" or "drop"')
    if not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"batch_size={batch_size!r}: expected a whole number of at least 1")
    how = augmentation(augment)
    source = encoded_of(ds)
    if isinstance(model, Captioner) and turns.has_turns(source.element_spec):
        source = _asked(source, model)
    plan = plan_of(source.element_spec, model, how)
    kept, plain, fingerprint = survey(source, plan, unknown)
    # Padding rows would take part in a loss that compares rows.
    compares = isinstance(model, (Retriever, Generator)) or bool(model.options.get("contrastive"))
    drop_last = static and compares
    count = kept // batch_size if drop_last else -(-kept // batch_size)
    if not count:
        raise BadData(f"{kept} rows make no batch of {batch_size}: choose a smaller batch_size")
    surveyed = not {"prompt", "_turns"} & set(source.element_spec) and not how.get("synonyms")
    ends = isinstance(model, Captioner) or model.vocabulary.ends
    encode = tensors.encoder(model.vocabulary, start=True, end=ends, plain=plain and surveyed)
    rows = mapped(source.enumerate(), lambda number, example: {**example, "row": number})
    rows = mapped(rows.filter(plainly(plan.usable)), plan.row)

    stored = rows.element_spec.get("image")
    by_batch = stored is None or stored.dtype == tf.string or tuple(stored.shape) == plan.shape
    cache_resized = bool(cache) and not how  # without augmentation, the cache holds images at the model's shape

    def fit(row: dict, draw: tf.Tensor | None) -> dict:
        return {**without(row, "path"), "image": _fitted(row, plan, how, draw)}

    if cache_resized:
        rows = mapped(rows, lambda row: fit(row, None))
    if cache:
        rows = rows.cache() if cache is True else rows.cache(os.fspath(cache))
    remaining = how if by_batch or not how else {**how, "crop": 0}  # what `fit` has not applied
    finish = _finishing(plan, encode, remaining, batch_size if static and not drop_last else None)
    bounds = _bounds(plan, buckets) if buckets else []
    if beside is not None:
        finish = _with_sentences(finish, drawing(beside, max(1, round(beside_share * batch_size)), plan.shape, bounds))

    def ordered(number: tf.Tensor, done: tf.Tensor) -> tf.data.Dataset:
        """Return the rows of an epoch in its own order, from batch `done` on."""
        forget_graph_seed()  # `shuffle` can combine a global seed with Python numbers only
        if buckets:  # a window of batches is sorted as one
            done = done // WINDOW * WINDOW
        if not training:
            return rows.skip(done * batch_size)
        buffer = kept if "path" in rows.element_spec else min(kept, SHUFFLED)
        shuffled = rows.shuffle(buffer, epoch_seed(seed, number, 0), reshuffle_each_iteration=False)
        return shuffled.skip(done * batch_size)

    def draws(number: tf.Tensor, use: int, done: tf.Tensor) -> tf.data.Dataset:
        return tf.data.Dataset.random(epoch_seed(seed, number, use)).skip(done)

    def epoch(number: tf.Tensor, done: tf.Tensor) -> tf.data.Dataset:
        order = ordered(number, done)
        if buckets:
            whole, done = done, done // WINDOW * WINDOW
        rows_done = done * batch_size
        if not by_batch and not cache_resized:  # images of different sizes cannot be batched
            order = mapped(tf.data.Dataset.zip(order, draws(number, 3, rows_done)), fit)
        order = mapped(tf.data.Dataset.zip(order, draws(number, 2, rows_done)), plan.choose)
        if buckets:
            ready = tf.data.Dataset.zip(_bucketed(order, plan, bounds, batch_size, drop_last), draws(number, 1, done))
            ready = ready.skip(whole - done)
            return mapped(ready, lambda batch, draw: finish(*batch, draw))
        ready = tf.data.Dataset.zip(order.batch(batch_size, drop_remainder=drop_last), draws(number, 1, done))
        return mapped(ready, lambda batch, draw: finish(batch, plan.length, draw))

    with tf.device("CPU"):
        position = tf.Variable([-1, 0], dtype=tf.int64)  # read when an epoch begins

    def current(random_number: tf.Tensor) -> tf.data.Dataset:
        return epoch(tf.where(position[0] < 0, random_number, position[0]), position[1])

    def begin(number: int, done: int = 0) -> None:
        position.assign([number, done])

    def rows_of(number: int, first: int, last: int) -> list[dict]:
        order = tf.data.Dataset.from_tensors(tf.constant([number, first], tf.int64)).flat_map(
            plainly(lambda at: ordered(*tf.unstack(at)))
        )
        if buckets:  # all rows that were sorted together
            first, last = first // WINDOW * WINDOW, -(-last // WINDOW) * WINDOW
        names = mapped(order.take((last - first) * batch_size), _names)
        return [
            {
                key: value.decode(errors="replace") if isinstance(value, bytes) else value.tolist()
                for key, value in row.items()
            }
            for row in names.as_numpy_iterator()
        ]

    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    random_epoch = tf.data.Dataset.random(seed=seed, rerandomize_each_iteration=True).take(1)
    ready = random_epoch.flat_map(plainly(current)).prefetch(tf.data.AUTOTUNE).with_options(options)
    if beside is not None:
        fingerprint = hashlib.sha256(f"{fingerprint} {beside.fingerprint} {beside_share}".encode()).hexdigest()
    return Epochs(ready, count, begin, rows_of, fingerprint)


def _with_sentences(finish: Callable, draw_rows: Callable) -> Callable:
    """Return `finish` with drawn sentences after the rows of each batch."""

    def both(batch: dict, length: Any, draw: tf.Tensor) -> tuple:
        rows, texts = finish(batch, length, draw), draw_rows(length, draw)
        return tf.nest.map_structure(lambda *parts: tf.concat(parts, axis=0), rows, texts)

    return both


def _names(row: dict) -> dict:
    """Return the fields that identify an example, without its image."""
    names = {key: row[key] for key in ("row", "id", "path", "text", "label") if key in row}
    return {**names, "text": tf.strings.reduce_join(tf.reshape(names["text"], [-1]), separator=" | ")}


def _asked(source: tf.data.Dataset, model: Captioner) -> tf.data.Dataset:
    """Make questions and answers what a captioner reads and writes: by its template, or as prompts and captions."""
    if template_of(model):
        return turns.with_ids(source, model, model.options["max_length"] + 1)
    if "question" not in source.element_spec:
        raise BadData(
            'examples are conversations ("questions", "answers"), and this captioner has no template that tells their '
            'turns apart: build it with text_decoder="smollm2_135m", or make a row of each "question" and "answer"'
        )
    return mapped(source, _prompted)


def _prompted(example: dict) -> dict:
    """Make a question the prompt and its answer the caption, for a captioner."""
    answer = example["answer"] if example["answer"].dtype == tf.string else tf.strings.as_string(example["answer"])
    kept = without(without(example, "question"), "answer")
    return {**kept, "prompt": example["question"], "caption": answer}


def augmentation(augment: bool | Mapping[str, Any]) -> dict[str, Any]:
    """Return the augmentation that `augment=` asks for: none, or AUGMENT with changes.

    >>> augmentation({"words": 0.2})["crop"]
    0.3
    """
    if augment is False:
        return {}
    changes = {} if augment is True else dict(augment)
    for name in changes:
        if name not in tensors.AUGMENT:
            raise ValueError(f"augment has no {name!r}{did_you_mean(name, tensors.AUGMENT)}: {sorted(tensors.AUGMENT)}")
    return {**tensors.AUGMENT, **changes}


def _full_text(row: dict) -> tf.Tensor:
    """Return a row's text, after its prompt if it has one."""
    return tf.strings.join([row["prompt"], row["text"]], " ") if "prompt" in row else row["text"]


def _fitted(row: dict, plan: Plan, how: dict[str, Any], draw: tf.Tensor | None) -> tf.Tensor:
    """Return one row's image, or its random crop, as uint8 at the model's shape."""
    image = row["image"] if "image" in row else row["path"]
    window = None if draw is None or not how else tensors.windows(seed_for(draw, 0), 1, how["crop"])
    if isinstance(image, tf.RaggedTensor):  # frames of different sizes
        frames, one = plan.shape[0], tf.TensorSpec(plan.shape[1:], tf.uint8)
        picked = tf.gather(image, media.frame_places(image.nrows(tf.int32), frames))

        def frame(pixel_rows: tf.RaggedTensor) -> tf.Tensor:
            pixels = tf.ensure_shape(pixel_rows.to_tensor(), (None, None, 3))
            return tensors.fitted(pixels[None], plan.shape[1:], plan.fit, window)[0]

        return tf.ensure_shape(tf.map_fn(frame, picked, fn_output_signature=one), plan.shape)
    return tensors.fitted(image[None], plan.shape, plan.fit, window, paths="image" not in row)[0]


def _bounds(plan: Plan, buckets: Sequence[int]) -> list[int]:
    """Return the lengths of ids to which batches are padded."""
    bounds = sorted({*(bound + isinstance(plan.model, Captioner) for bound in buckets), plan.length})
    if bounds[-1] > plan.length or bounds[0] < 3:
        raise ValueError(f"buckets={list(buckets)}: expected lengths from 3 to {plan.model.options['max_length']}")
    return bounds


def _bucketed(
    rows: tf.data.Dataset, plan: Plan, bounds: list[int], batch_size: int, drop_last: bool
) -> tf.data.Dataset:
    """Batch rows of similar length, each batch with the length to pad to.

    Rows are sorted within a window of batches, whose order is then shuffled: so an epoch has as many batches as ever.
    """

    def window(batch: dict) -> tf.data.Dataset:
        if "_turns" in batch:
            lengths = tf.math.count_nonzero(batch["_turns"], axis=1)
        else:
            lengths = plan.cut(_full_text(batch)).row_lengths() + plan.length - plan.room
        lengths = tf.cast(tf.minimum(lengths, plan.length), tf.int32)
        count = tf.shape(lengths)[0]
        place = tf.range(count) // batch_size  # of a batch, after sorting
        ranks = tf.random.stateless_uniform([WINDOW], tf.stack([tf.reduce_sum(lengths), count]))
        keys = tf.where(place == count // batch_size, 2.0, tf.gather(ranks, place))  # a short batch comes last
        order = tf.gather(tf.argsort(lengths, stable=True), tf.argsort(keys, stable=True))
        sorted_rows = {name: tf.gather(value, order) for name, value in {**batch, "_length": lengths}.items()}
        return tf.data.Dataset.from_tensor_slices(sorted_rows).batch(batch_size, drop_remainder=drop_last)

    def padded(batch: dict) -> tuple[dict, tf.Tensor]:
        longest = tf.reduce_max(batch["_length"])
        return without(batch, "_length"), tf.gather(tf.constant(bounds), tf.searchsorted(bounds, [longest])[0])

    return mapped(rows.batch(WINDOW * batch_size).flat_map(plainly(window)), padded)


def _images(batch: dict, plan: Plan, how: dict[str, Any], draw: tf.Tensor) -> tf.Tensor:
    """Return a batch's images as float32 at the model's shape, augmented if `how` says so."""
    image, paths = (batch["image"], False) if "image" in batch else (batch["path"], True)
    count = tf.shape(batch["text"])[0]
    parts = tensors.windows(seed_for(draw, 1), count, how["crop"]) if how and how["crop"] else None
    if image.dtype in (tf.uint8, tf.string) or parts is not None:
        image = tensors.fitted(image, plan.shape, plan.fit, parts, paths=paths)
    if not how or plan.shape[-1] != 3:
        return tf.cast(image, tf.float32)
    transparency = None
    if "alpha" in batch:
        transparency = 255 - tensors.fitted(batch["alpha"], plan.shape, plan.fit, parts)
    texts = tensors.normalize(batch["text"])
    mentions_side = tf.strings.regex_full_match(texts, f".*{DIRECTIONS}.*")
    image = tf.cast(image, tf.uint8)
    return tensors.augment(image, seed_for(draw, 2), how, flip=tf.logical_not(mentions_side), clear=transparency)


def _finishing(plan: Plan, encode: Callable, how: dict, pad_to: int | None) -> Callable:
    """Return a function from a batch of rows to `(inputs, labels, sample_weight)`."""
    model, captioner = plan.model, isinstance(plan.model, Captioner)
    add_negatives = isinstance(model, Matcher) and plan.label_of is None
    masked = bool(model.options.get("mlm", False))
    hidden_share = MASKED_SHARE if masked else how.get("words", 0.0)

    def finish(batch: dict, length: Any, draw: tf.Tensor) -> tuple:
        image = _images(batch, plan, how, draw)
        if "_turns" in batch:
            tokens, labels = batch["_turns"][:, : length - 1], batch["_learned"][:, 1:length]
            weight = tf.cast((labels != text.PAD) & (labels != text.UNK), tf.float32)
        elif captioner:
            ids = encode(_full_text(batch), length)
            tokens, labels = ids[:, :-1], ids[:, 1:]
            weight = tf.cast((labels != text.PAD) & (labels != text.UNK), tf.float32)  # decoding never writes UNK
            if "prompt" in batch:
                prompt_length = plan.cut(batch["prompt"]).row_lengths()[:, None]
                weight *= tf.cast(tf.range(tf.shape(labels)[1], dtype=tf.int64) >= prompt_length, tf.float32)
        else:
            tokens = ids = encode(_full_text(batch), length)
            labels = batch["label"] if plan.label_of else tf.ones((tf.shape(ids)[0], 1))
            if add_negatives:
                image, tokens, labels = with_negatives(tnp, image, tokens, labels)
            weight = tf.ones(tf.shape(labels)[:1])
        inputs = {"image": image, "tokens": tokens}
        if "seen" in batch:
            inputs["seen"] = batch["seen"]
        if "row" in model.input:  # a reward knows the references of the example
            inputs["row"] = tf.cast(batch["row"], tf.int32)[:, None]
        if hidden_share:
            draws = tf.random.stateless_uniform(tf.shape(tokens), seed_for(draw, 0))
            inputs["tokens"], words, hidden = hidden_words(tnp, tokens, draws, hidden_share)
        if masked:
            labels = {"logits": labels, "words": words}
            weight = {"logits": weight, "words": tf.cast(hidden, tf.float32)}
        result = (inputs, labels, weight)
        if pad_to is None:
            return result
        return tf.nest.map_structure(lambda x: _padded(x, pad_to * (1 + add_negatives)), result)

    return finish


def _padded(x: tf.Tensor, rows: int) -> tf.Tensor:
    """Pad with rows of zeros, whose sample weight is zero as well."""
    pads = tf.concat([[[0, rows - tf.shape(x)[0]]], tf.zeros((x.shape.rank - 1, 2), tf.int32)], axis=0)
    return tf.ensure_shape(tf.pad(x, pads), (rows, *x.shape[1:]))
