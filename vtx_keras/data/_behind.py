"""What a model behind its image encoder learns from: features that are kept on disk, and sentences without images.

features = data.features(data.load("emoji", "train"), model)
head = model.behind_encoder()
head.fit(data.batches(features, head, training=True), epochs=20)    # trains `model`: the two share their layers

A sentence comes with the concept words that it mentions, as if an encoder had seen them: some are missing, some are
wrong, and their chances are those of a real encoder.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import json
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from vtx_keras._compat import forget_graph_seed
from vtx_keras._files import file_hash, progress, whole, write
from vtx_keras.data import _tensors as tensors
from vtx_keras.data._examples import as_text, encoded_of
from vtx_keras.data._plan import BadData, Epochs, epoch_seed, seed_for
from vtx_keras.data._source import Examples, mapped, plainly
from vtx_keras.inputs import text
from vtx_keras.models import concepts
from vtx_keras.models._base import VisionText

SHARD = 512  # images per file
PICTURES, SHA256 = ".txt", "sha256 "  # beside a file of features: the digests of its pictures, and the hash of all
OPEN = 256  # memory-mapped files at a time: systems allow about a thousand
CHUNK = 10_000  # sentences that are encoded at a time
MOST = 8  # concepts of a sentence that are kept
MISSED = 0.25  # share of its concepts that are not told
WRONG = (0.9, 0.75, 0.55, 0.4)  # chances of a first to a fourth concept that is not in the sentence
# Chances that EfficientNet-Lite2 gives to words which the captions of Flickr8k's training images mention, and to
# others: their deciles (`python -m recipes.families.photos`). An image has 0.9 of the former and 2.6 of the latter.
RIGHT_CHANCES = (0.03, 0.08, 0.15, 0.27, 0.47, 0.70, 0.88, 0.95, 0.98, 0.99, 1.00)
WRONG_CHANCES = (0.03, 0.04, 0.06, 0.07, 0.10, 0.12, 0.16, 0.23, 0.34, 0.61, 1.00)


def features(
    ds: tf.data.Dataset,
    model: VisionText,
    folder: str | os.PathLike = "features",
    *,
    batch_size: int = 32,
    seen: bool = False,
) -> tf.data.Dataset:
    """Return the same examples with the image encoder's features (float16) in place of their images.

    Features are stored in `folder`, in files named by a hash of the encoder's weights, the preprocessing and the
    images. They are reused by other examples of the same pictures in any order, an interrupted run resumes, and another
    encoder never reads them. A file that does not have the hash it was written with is made again. An image that occurs
    in several examples is encoded once. With `seen`, for a model with concepts, there is also what it sees in each
    image: `behind_encoder(told=True)` reads it.

    >>> import tempfile
    >>> from vtx_keras import zoo
    >>> model = zoo.build("gated_captioner", weights=None, dim=32, depth=1, vision_depth=1, image_shape=(32, 32, 3))
    >>> black_and_white = np.zeros((4, 40, 40, 3), "uint8") + np.array([0, 255, 255, 0], "uint8")[:, None, None, None]
    >>> ds = tf.data.Dataset.from_tensor_slices({"image": black_and_white, "caption": ["a cat"] * 4})
    >>> model.freeze("image")
    >>> encoded = features(ds, model, tempfile.mkdtemp())
    features of 2 pictures: 0 read, 2 made, in /...
    >>> next(iter(encoded))["image"].shape
    TensorShape([2, 2, 32])
    """
    source = encoded_of(ds)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    encoder = model.get_layer("image_encoder")
    if encoder.trainable:
        warnings.warn(
            "the image encoder is not frozen: model.freeze('image'), or cached features become stale", stacklevel=2
        )
    key, stored = _key(encoder, model), "path" if "image" not in source.element_spec else "image"
    known, new = _known(folder, key), 0
    digests: list[str] = []  # of each example's picture
    whole_files: set[Path] = set()

    def is_known(digest: str) -> bool:
        file = known[digest][0] if digest in known else None
        if file is None or file in whole_files:
            return file is not None
        if _is_whole(file):
            whole_files.add(file)
            return True
        warnings.warn(f"{file} is damaged: its features are made again", stacklevel=2)
        for part in (file, file.with_suffix(PICTURES)):
            part.unlink(missing_ok=True)
        for other in [one for one, (where, _) in known.items() if where == file]:
            del known[other]
        return False

    with progress("features of pictures") as update:
        for chunk in _unknown(mapped(source, lambda example: example[stored]), stored, is_known, digests, update):
            path = folder / f"{key}-{_digest(list(chunk.values()), stored)}.npy"
            if _stored_rows(path) != len(chunk):
                new += len(chunk)
                with whole(path) as part:
                    np.save(part, _encoded(list(chunk.values()), encoder, model, batch_size, stored))
            write(path.with_suffix(PICTURES), "\n".join([*chunk, SHA256 + _hash(path, chunk)]))
            whole_files.add(path)
            known |= {digest: (path, row) for row, digest in enumerate(chunk)}
    total = len(set(digests))
    print(f"features of {total:,d} pictures: {total - new:,d} read, {new:,d} made, in {folder}")

    files = {known[digest][0] for digest in digests}
    told = {file: _seen(np.load(file), model) for file in files} if seen else {}

    def rows() -> Iterator[dict]:
        features_in = functools.lru_cache(OPEN)(lambda file: np.load(file, mmap_mode="r"))
        for digest in digests:
            file, place = known[digest]
            row = {"image": features_in(file)[place]}
            yield {**row, "seen": told[file][place]} if seen else row

    spec = {"image": tf.TensorSpec(encoder.output.shape[1:], tf.float16)}
    if seen:
        spec["seen"] = tf.TensorSpec(model.get_layer("concepts").output.shape[1:], tf.float32)
    other_fields = mapped(
        source, lambda example: {name: value for name, value in example.items() if name not in ("image", "path")}
    )
    encoded = tf.data.Dataset.from_generator(rows, output_signature=spec)
    return mapped(tf.data.Dataset.zip(other_fields, encoded), lambda example, made: {**example, **made})


def _seen(features: np.ndarray, model: VisionText) -> np.ndarray:
    """Return the concepts that a model sees in features."""
    return keras.ops.convert_to_numpy(model.get_layer("concepts")(features.astype("float32")))


def _key(encoder: keras.Model, model: VisionText) -> str:
    """Hash what the features depend on besides the images."""
    sha = hashlib.sha256(json.dumps(encoder.get_config(), sort_keys=True, default=str).encode())
    sha.update(repr((tuple(model.image_shape), model.options["resize"])).encode())
    for weight in encoder.get_weights():
        buffer: Any = np.ascontiguousarray(weight)  # Any: NumPy's types do not declare the buffer protocol
        sha.update(buffer)
    return sha.hexdigest()[:16]


def _digest(rows: list, stored: str) -> str:
    sha = hashlib.sha256()
    for row in rows:
        data = Path(row.decode()).read_bytes() if stored == "path" else row
        data = data if isinstance(data, bytes) else repr(data.shape).encode() + np.ascontiguousarray(data).tobytes()
        sha.update(len(data).to_bytes(8) + data)
    return sha.hexdigest()[:16]


def _known(folder: Path, key: str) -> dict[str, tuple[Path, int]]:
    """Return the file and row of every picture, by its digest, whose features are stored: the oldest, if twice."""
    known: dict[str, tuple[Path, int]] = {}
    files = folder.glob(f"{key}-*{PICTURES}")
    for names in sorted(files, key=lambda path: (path.stat().st_mtime_ns, path.name), reverse=True):
        path, (digests, _) = names.with_suffix(".npy"), _pictures_of(names)
        if _stored_rows(path) == len(digests):
            known |= {digest: (path, row) for row, digest in enumerate(digests)}
    return known


def _stored_rows(path: Path) -> int:
    """Return how many rows a file of features has; 0 if it is missing or damaged."""
    try:
        return len(np.load(path, mmap_mode="r"))
    except Exception:  # a damaged header raises many
        return 0


def _pictures_of(names: Path) -> tuple[list[str], str]:
    """Return the digests of the pictures of a file of features, and its hash, "" of one that was made before."""
    lines = names.read_text(encoding="utf-8", errors="replace").split("\n") if names.is_file() else []
    hashes = [line.removeprefix(SHA256) for line in lines if line.startswith(SHA256)]
    return [line for line in lines if line and not line.startswith(SHA256)], "".join(hashes)


def _hash(path: Path, digests: Iterable[str]) -> str:
    """Return the sha256 of a file of features and of the digests of its pictures."""
    return hashlib.sha256("\n".join([file_hash(path), *digests]).encode()).hexdigest()


def _is_whole(path: Path) -> bool:
    """Return whether a file of features is as it was written, as far as that is known."""
    digests, wanted = _pictures_of(path.with_suffix(PICTURES))
    return not wanted or _hash(path, digests) == wanted


def _unknown(
    pictures: tf.data.Dataset,
    stored: str,
    is_known: Callable[[str], bool],
    digests: list[str],
    update: Callable[[int], None],
) -> Iterator[dict[str, Any]]:
    """Yield distinct pictures that are not known, SHARD at a time by digest; append each row's digest to `digests`."""
    rows: dict[str, Any] = {}
    for row in pictures.as_numpy_iterator():
        digests.append(_digest([row], stored))
        if digests[-1] not in rows and not is_known(digests[-1]):
            rows[digests[-1]] = row
        if len(rows) == SHARD:
            yield rows
            rows = {}
        if len(digests) % SHARD == 0:
            update(len(set(digests)))
    if rows:
        yield rows


def _encoded(rows: list, encoder: keras.Model, model: VisionText, batch_size: int, stored: str) -> np.ndarray:
    """Return the features of pictures. Every batch is whole, whose size decides their last bits."""
    outputs = []
    for at in range(0, len(rows), batch_size):
        part = rows[at : at + batch_size]
        fitted = tensors.fitted_rows(part, model.image_shape, model.options["resize"], paths=stored == "path")
        whole_batch = np.resize(fitted, (batch_size, *fitted.shape[1:]))
        outputs.append(np.asarray(encoder.predict_on_batch(whole_batch.astype("float32"))).astype("float16"))
    return np.concatenate(outputs)[: len(rows)]


# --- sentences


def sentences(source: str | os.PathLike | Iterable[str]) -> Examples:
    """Return texts alone as examples: the lines of a file (may be `.gz`), or the strings of a list.

    A captioner with concepts learns from them: `train.run(model, sentences)`, or beside pictures with `text=`.

    >>> sentences(["a cat on a mat", "two dogs"]).fields
    ('caption',)
    """
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        if not path.is_file():
            raise FileNotFoundError(f"no file of sentences at {path}: expected a text file with one sentence a line")
        content = path.read_bytes()
        content = gzip.decompress(content) if path.suffix == ".gz" else content
        source = content.decode("utf-8-sig", errors="replace").split("\n")
    lines_with_words = [line.strip() for line in source if line.strip()]
    if not lines_with_words:
        raise BadData("there are no sentences: expected at least one line with words")
    return Examples(tf.data.Dataset.from_tensor_slices({"caption": lines_with_words}))


class Sentences(NamedTuple):
    """Sentences ready to be drawn, the shortest first."""

    ids: tf.Tensor  # (sentences, length), with START and END, 0-padded
    lengths: tf.Tensor  # (sentences,)
    mentioned: tf.Tensor  # (sentences, MOST): numbers of concepts, -1 for none
    weights: tf.Tensor  # (sentences + 1,): the sum of the weights of all sentences before
    frequent: tf.Tensor  # (concepts + 1,): the sum of the roots of the frequencies of all concepts before
    room: int  # concepts that the model reads
    fingerprint: str


def prepared(examples: Examples | tf.data.Dataset, model: VisionText) -> Sentences:
    """Encode sentences for a model with concepts, and find the concepts that they mention.

    Sentences that are too long, or of which a tenth of the pieces is unknown, are left out.
    """
    source = getattr(examples, "encoded", examples)
    if "caption" not in source.element_spec:
        raise BadData(f"text= has {sorted(source.element_spec)}: expected data.sentences(file)")
    chunks = source.map(lambda row: row["caption"]).batch(CHUNK).as_numpy_iterator()
    texts = [as_text(caption) for chunk in chunks for caption in chunk]
    length = model.options["max_length"] + 1
    encode = tensors.encoder(model.vocabulary, start=True, end=True)
    parts = [encode(tf.constant(texts[at : at + CHUNK]), length + 1).numpy() for at in range(0, len(texts), CHUNK)]
    ids = np.concatenate(parts)  # (sentences, length + 1): the last id of a sentence that is too long is not PAD
    lengths, unknown = (ids != text.PAD).sum(axis=1), (ids == text.UNK).sum(axis=1)
    order = np.argsort(lengths, kind="stable")
    order = order[((ids[:, -1] == text.PAD) & (lengths > 2) & (10 * unknown <= lengths - 2))[order]]
    if not len(order):
        raise BadData(f"none of {len(texts)} sentences fits: they have over {length - 2} pieces, or unknown words")
    ids, lengths = ids[order, :length], lengths[order]
    mentioned = np.full((len(order), MOST), -1, "int32")
    for place, number in enumerate(order):
        found = concepts.mentioned(texts[number])[:MOST]
        mentioned[place, : len(found)] = found
    uses = Counter(mentioned[mentioned >= 0].tolist())
    frequencies = np.array([uses[number] for number in range(len(concepts.names()))], "float64")
    # A sentence with a rare concept is drawn more often, one without any seldom: its words are learned anyway.
    rarest = np.where(mentioned >= 0, np.maximum(frequencies, 1.0)[mentioned], np.inf).min(axis=1)
    weights = np.where(np.isinf(rarest), 0.0, rarest**-0.5)
    weights /= max(weights.mean(), 1e-9)
    weights = np.clip(weights, 0.25, 4.0)
    return Sentences(
        tf.constant(ids), tf.constant(lengths.astype("int32")), tf.constant(mentioned),
        tf.constant(_sums(weights), tf.float32), tf.constant(_sums(np.maximum(frequencies, 1e-3) ** 0.5), tf.float32),
        model.options["concepts"], hashlib.sha256(ids.tobytes() + mentioned.tobytes()).hexdigest(),
    )  # fmt: skip


def drawing(sentences: Sentences, rows: int, width: tuple[int, ...], bounds: Iterable[int] = ()) -> Callable:
    """Return a function `(length, draw) -> (inputs, labels, weight)` that draws `rows` sentences of this length.

    With `bounds`, of text lengths, the sentences are those between the bound before and `length`.
    """
    places = tf.constant([0, *sorted(bounds)])

    def draw_rows(length: Any, draw: tf.Tensor) -> tuple:
        length = tf.cast(length, tf.int32)
        before = tf.reduce_max(tf.where(places < length, places, 0))
        low, high = (tf.searchsorted(sentences.lengths, [one], "right")[0] for one in (before, length))
        low = tf.where(low < high, low, 0)
        total = tf.gather(sentences.weights, [low, tf.maximum(high, low + 1)])
        at = total[0] + _uniform([rows], draw, 8) * (total[1] - total[0])
        chosen = tf.clip_by_value(tf.searchsorted(sentences.weights, at, "right") - 1, low, tf.maximum(high - 1, low))
        ids = tf.gather(sentences.ids, chosen)[:, :length]
        labels = ids[:, 1:]
        weight = tf.cast((labels != text.PAD) & (labels != text.UNK), tf.float32)
        inputs = {
            "image": tf.zeros((rows, *width)),
            "tokens": ids[:, :-1],
            "seen": _told(sentences, chosen, rows, draw),
        }
        return inputs, labels, weight

    return draw_rows


def sentence_epochs(beside: Sentences, model: VisionText, *, batch_size: int = 32, seed: int = 0) -> Epochs:
    """Make epochs of sentences alone, drawn by their weights; one has as many batches as all sentences fill."""
    steps = max(1, len(beside.lengths) // batch_size)
    bounds = sorted({length for length in (8, 11, 14, 18) if length < beside.ids.shape[1]} | {beside.ids.shape[1]})
    draw_rows = drawing(beside, batch_size, model.image_shape, bounds)
    # How often each length is drawn: by the number of sentences between it and the length before.
    cumulative = tf.gather(beside.weights, tf.searchsorted(beside.lengths, bounds, "right"))
    with tf.device("CPU"):
        position = tf.Variable([-1, 0], dtype=tf.int64)

    def batch(draw: tf.Tensor) -> tuple:
        at = tf.searchsorted(cumulative, tf.random.stateless_uniform([1], seed_for(draw, 15)), "right")[0]
        return draw_rows(tf.gather(tf.constant(bounds), tf.minimum(at, len(bounds) - 1)), draw)

    def current(random_number: tf.Tensor) -> tf.data.Dataset:
        forget_graph_seed()  # `random` can combine a global seed with Python numbers only
        number = tf.where(position[0] < 0, random_number, position[0])
        draws = tf.data.Dataset.random(epoch_seed(seed, number, 1)).take(steps).skip(position[1])
        return mapped(draws, batch)

    def begin(number: int, done: int = 0) -> None:
        position.assign([number, done])

    random_epoch = tf.data.Dataset.random(seed=seed, rerandomize_each_iteration=True).take(1)
    ready = random_epoch.flat_map(plainly(current)).prefetch(tf.data.AUTOTUNE)
    return Epochs(ready, steps, begin, lambda number, first, last: [], beside.fingerprint)


def _told(sentences: Sentences, chosen: tf.Tensor, rows: int, draw: tf.Tensor) -> tf.Tensor:
    """Return the concepts that are told of the chosen sentences (rows, 1 + count, 2), as `models.concepts.told`."""
    right = tf.gather(sentences.mentioned, chosen)  # (rows, MOST)
    at = _uniform([rows, len(WRONG)], draw, 9) * sentences.frequent[-1]
    wrong = tf.searchsorted(sentences.frequent, tf.reshape(at, [-1]), "right") - 1
    wrong = tf.reshape(tf.clip_by_value(wrong, 0, len(sentences.frequent) - 2), (rows, len(WRONG)))
    words = tf.concat([right, wrong], axis=1)  # (rows, MOST + len(WRONG))
    shown = tf.concat(
        [(right >= 0) & (_uniform([rows, MOST], draw, 10) >= MISSED), _uniform([rows, len(WRONG)], draw, 11) < WRONG], 1
    )
    deciles = tf.cast(10 * _uniform([rows, MOST + len(WRONG)], draw, 12), tf.int32)
    between = _uniform([rows, MOST + len(WRONG)], draw, 13)
    tables = [tf.constant(table) for table in (RIGHT_CHANCES, WRONG_CHANCES)]
    chances = [tf.gather(table, deciles) * (1 - between) + tf.gather(table, deciles + 1) * between for table in tables]
    chances = tf.concat([chances[0][:, :MOST], chances[1][:, MOST:]], axis=1)
    chances = tf.where(shown, chances, 0.0)
    order = tf.argsort(_uniform([rows, MOST + len(WRONG)], draw, 14) - tf.cast(shown, tf.float32))[:, : sentences.room]
    pairs = tf.stack([tf.cast(tf.maximum(words, 0), tf.float32), chances], axis=-1)
    return tf.concat([tf.zeros((rows, 1, 2)), tf.gather(pairs, order, batch_dims=1)], axis=1)


def _uniform(shape: list[int], draw: tf.Tensor, use: int) -> tf.Tensor:
    return tf.random.stateless_uniform(shape, seed_for(draw, use))


def _sums(weights: np.ndarray) -> np.ndarray:
    """Return the sums of all weights before each place, scaled so that float32 tells neighbours apart."""
    sums = np.concatenate([[0.0], np.cumsum(weights)])
    return sums / sums[-1]
