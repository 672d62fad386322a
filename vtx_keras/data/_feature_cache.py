"""Cache the features of a frozen image encoder on disk, so that the rest of a model trains in minutes.

features = data.features(data.load("emoji", "train"), model)
head = model.behind_encoder()
head.fit(data.batches(features, head, training=True), epochs=20)    # trains `model`: the two share their layers
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from vtx_keras._files import progress, whole
from vtx_keras.data import _tensors as tensors
from vtx_keras.data._examples import encoded_of
from vtx_keras.data._source import mapped
from vtx_keras.models._base import VisionText

SHARD = 512  # images per file
OPEN = 256  # memory-mapped files at a time: systems allow about a thousand


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
    images. Existing files are reused, an interrupted run resumes, and another encoder never reads them. An image that
    occurs in several examples is encoded once. With `seen`, for a model with concepts, there is also what it sees in
    each image: `behind_encoder(told=True)` reads it.

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
    files, new, total = [], 0, 0
    places: list[int] = []  # for each example, the index of its image
    with progress("features of pictures") as update:
        for chunk in _chunks(mapped(source, lambda example: example[stored]), stored, places):
            path = folder / f"{key}-{_digest(chunk, stored)}.npy"
            total += len(chunk)
            if not path.exists():
                new += len(chunk)
                with whole(path) as part:
                    np.save(part, _encoded(chunk, encoder, model, batch_size, stored))
            update(total)
            files.append(path)
    print(f"features of {total:,d} pictures: {total - new:,d} read, {new:,d} made, in {folder}")

    concepts = np.concatenate([_seen(np.load(file), model) for file in files]) if seen else None

    def rows() -> Iterator[dict]:
        file_of = functools.lru_cache(OPEN)(lambda number: np.load(files[number], mmap_mode="r"))
        for place in places:
            row = {"image": file_of(place // SHARD)[place % SHARD]}
            yield row if concepts is None else {**row, "seen": concepts[place]}

    spec = {"image": tf.TensorSpec(encoder.output.shape[1:], tf.float16)}
    if concepts is not None:
        spec["seen"] = tf.TensorSpec(concepts.shape[1:], tf.float32)
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


def _chunks(pictures: tf.data.Dataset, stored: str, places: list[int]) -> Iterator[list]:
    """Yield distinct images, SHARD at a time; append the index of each row's image to `places`."""
    rows: list[Any] = []
    index_of: dict[str, int] = {}
    for row in pictures.as_numpy_iterator():
        digest = _digest([row], stored)
        if digest not in index_of:
            index_of[digest] = len(index_of)
            rows.append(row)
        places.append(index_of[digest])
        if len(rows) == SHARD:
            yield rows
            rows = []
    if rows:
        yield rows


def _encoded(rows: list, encoder: keras.Model, model: VisionText, batch_size: int, stored: str) -> np.ndarray:
    outputs, size = [], min(batch_size, len(rows))
    for at in range(0, len(rows), size):
        part = rows[at : at + size]
        fitted = tensors.fitted_rows(part, model.image_shape, model.options["resize"], paths=stored == "path")
        whole_batch = np.resize(fitted, (size, *fitted.shape[1:]))  # a smaller batch would be traced again
        outputs.append(np.asarray(encoder.predict_on_batch(whole_batch.astype("float32"))).astype("float16"))
    return np.concatenate(outputs)[: len(rows)]
