"""Rank again what a retriever finds: a captioner tells how well each text describes each of the nearest images.

Two towers compare an image and a text in one number each; a captioner looks at the image for every word. The score of a
pair is `weight` × similarity + how much likelier the captioner makes the text for this image than, on average, for the
`best` images nearest to the text, so that a text that fits many images gains nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from vtx_keras.models._base import run_in_batches
from vtx_keras.models._methods import Captioner

AT_ONCE = 2_048  # pairs whose features are in memory


def reranked(
    captioner: Captioner,
    similarity: Any,
    images: Any,
    texts: Sequence[str],
    *,
    find: str = "image",
    best: int = 10,
    weight: float = 40.0,
    batch_size: int = 128,
) -> np.ndarray:
    """Return scores (images, texts): of each text's `best` images (`find="text"`: each image's `best` texts) above all.

    `similarity` (images, texts) is that of a retriever for the same images, of which there should be many: with one,
    no text tells it better than others. Each image is encoded once; for a captioner behind its encoder, `images` are
    features.

    >>> from vtx_keras import zoo
    >>> searcher = zoo.build("retriever", weights=None, dim=32, image_shape=(32, 32, 3))
    >>> captioner = zoo.build("gated_captioner", weights=None, dim=32, depth=1, image_shape=(32, 32, 3))
    >>> pictures, words = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3)), ["a cat", "a dog", "a bus"]
    >>> reranked(captioner, searcher.similarity(pictures, words), pictures, words, best=2).shape
    (4, 3)
    """
    near = np.asarray(similarity, "float64")
    texts = list(texts)
    pixels, good, errors = captioner.prepare(images)
    if near.shape != (len(good) + len(errors), len(texts)):
        raise ValueError(f"similarity {near.shape} of {len(good) + len(errors)} images and {len(texts)} texts")
    if errors or not np.isfinite(near).all():
        raise ValueError(f"unreadable images cannot be ranked: {errors or 'similarity is not finite'}. Leave them out")
    if find not in ("image", "text") or best < 1:
        raise ValueError(f'find={find!r}, best={best}: expected "image" or "text", and at least 1')
    behind, features = captioner, pixels
    if captioner.has_layer("image_encoder"):
        behind = captioner.cached(("behind",), captioner.behind_encoder)
        features = run_in_batches(captioner.get_layer("image_encoder").predict_on_batch, pixels, batch_size)
    images_of = np.argsort(-near.T, axis=1, kind="stable")[:, :best]  # (texts, best)
    nearest = np.zeros(near.shape, bool)
    nearest[images_of, np.arange(len(texts))[:, None]] = True
    ranked = nearest
    if find == "text":
        texts_of = np.argsort(-near, axis=1, kind="stable")[:, :best]  # (images, best)
        ranked = np.zeros(near.shape, bool)
        ranked[np.arange(len(near))[:, None], texts_of] = True
    told, (rows, columns) = np.full(near.shape, np.nan), np.nonzero(nearest | ranked)
    for start in range(0, len(rows), AT_ONCE):
        few, chosen = rows[start : start + AT_ONCE], columns[start : start + AT_ONCE]
        told[few, chosen] = behind.likelihood(features[few], [texts[one] for one in chosen], batch_size=batch_size)
    usual = np.take_along_axis(told.T, images_of, axis=1).mean(axis=1)  # (texts,)
    scores = np.where(ranked, weight * near + told - usual, np.nan)
    return np.where(ranked, scores, near - near.max() + np.nanmin(scores) - 1)
