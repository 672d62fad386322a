"""What a frozen encoder sees, kept: its features are made once, so that the rest of a model trains in minutes.

features = data.features(data.load("emoji", "train"), model)
head = model.behind_encoder()
head.fit(data.batches(features, head, training=True), epochs=20)    # `model` has learned it too
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

SHARD = 512  # pictures in a file
OPEN = 256  # files at once: systems allow a thousand or so


def features(
    ds: tf.data.Dataset, model: VisionText, folder: str | os.PathLike = "features", *, batch_size: int = 32
) -> tf.data.Dataset:
    """The same examples with the image encoder's features (float16) in place of their pictures.

    They lie in `folder`, in pieces named by the encoder's weights, the preprocessing and the pictures themselves: what
    is there is not made again, a run that was killed goes on where it was, and another encoder never reads them. A
    picture of many examples is looked at once.

    >>> import tempfile
    >>> from vtx_keras import zoo
    >>> model = zoo.build("gated_captioner", weights=None, dim=32, depth=1, vision_depth=1, image_shape=(32, 32, 3))
    >>> black_and_white = np.zeros((4, 40, 40, 3), "uint8") + np.array([0, 255, 255, 0], "uint8")[:, None, None, None]
    >>> ds = tf.data.Dataset.from_tensor_slices({"image": black_and_white, "caption": ["a cat"] * 4})
    >>> model.freeze("image")
    >>> kept = features(ds, model, tempfile.mkdtemp())
    features of 2 pictures: 0 read, 2 made, in /...
    >>> next(iter(kept))["image"].shape
    TensorShape([2, 2, 32])
    """
    source = encoded_of(ds)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    encoder = model.get_layer("image_encoder")
    if encoder.trainable:
        warnings.warn("the image encoder is not frozen: model.freeze('image'), or features grow stale", stacklevel=2)
    key, stored = _key(encoder, model), "path" if "image" not in source.element_spec else "image"
    pieces, made, total = [], 0, 0
    places: list[int] = []  # of each example, which picture it has
    with progress("features of pictures") as tell:
        for chunk in _chunks(mapped(source, lambda example: example[stored]), stored, places):
            path = folder / f"{key}-{_digest(chunk, stored)}.npy"
            total += len(chunk)
            if not path.exists():
                made += len(chunk)
                with whole(path) as part:
                    np.save(part, _encoded(chunk, encoder, model, batch_size, stored))
            tell(total)
            pieces.append(path)
    print(f"features of {total:,d} pictures: {total - made:,d} read, {made:,d} made, in {folder}")

    def rows() -> Iterator[np.ndarray]:
        piece = functools.lru_cache(OPEN)(lambda number: np.load(pieces[number], mmap_mode="r"))
        for place in places:
            yield piece(place // SHARD)[place % SHARD]

    spec = tf.TensorSpec(encoder.output.shape[1:], tf.float16)
    others = mapped(
        source, lambda example: {name: value for name, value in example.items() if name not in ("image", "path")}
    )
    seen = tf.data.Dataset.from_generator(rows, output_signature=spec)
    return mapped(tf.data.Dataset.zip(others, seen), lambda example, image: {**example, "image": image})


def _key(encoder: keras.Model, model: VisionText) -> str:
    """What the features depend on besides the pictures."""
    told = hashlib.sha256(json.dumps(encoder.get_config(), sort_keys=True, default=str).encode())
    told.update(repr((tuple(model.image_shape), model.options["resize"])).encode())
    for weight in encoder.get_weights():
        whole: Any = np.ascontiguousarray(weight)  # a buffer, which NumPy's types do not say
        told.update(whole)
    return told.hexdigest()[:16]


def _digest(rows: list, stored: str) -> str:
    told = hashlib.sha256()
    for row in rows:
        data = Path(row.decode()).read_bytes() if stored == "path" else row
        data = data if isinstance(data, bytes) else repr(data.shape).encode() + np.ascontiguousarray(data).tobytes()
        told.update(len(data).to_bytes(8) + data)
    return told.hexdigest()[:16]


def _chunks(pictures: tf.data.Dataset, stored: str, places: list[int]) -> Iterator[list]:
    """Pictures that differ, so many at a time; `places` is told the number of each row's picture."""
    rows: list[Any] = []
    known: dict[str, int] = {}
    for row in pictures.as_numpy_iterator():
        digest = _digest([row], stored)
        if digest not in known:
            known[digest] = len(known)
            rows.append(row)
        places.append(known[digest])
        if len(rows) == SHARD:
            yield rows
            rows = []
    if rows:
        yield rows


def _encoded(rows: list, encoder: keras.Model, model: VisionText, batch_size: int, stored: str) -> np.ndarray:
    found, size = [], min(batch_size, len(rows))
    for at in range(0, len(rows), size):
        part = rows[at : at + size]
        fitted = tensors.fitted_rows(part, model.image_shape, model.options["resize"], paths=stored == "path")
        whole_batch = np.resize(fitted, (size, *fitted.shape[1:]))  # a short one would be traced anew
        found.append(np.asarray(encoder.predict_on_batch(whole_batch.astype("float32"))).astype("float16"))
    return np.concatenate(found)[: len(rows)]
