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
    no text tells it better than others. Images that the retriever could not read (NaN) come last. For a captioner
    behind its encoder, `images` are features.

    >>> from vtx_keras import zoo
    >>> searcher = zoo.build("retriever", weights=None, dim=32, image_shape=(32, 32, 3))
    >>> captioner = zoo.build("gated_captioner", weights=None, dim=32, depth=1, image_shape=(32, 32, 3))
    >>> pictures, words = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3)), ["a cat", "a dog", "a bus"]
    >>> reranked(captioner, searcher.similarity(pictures, words), pictures, words, best=2).shape
    (4, 3)
    """
    near, texts = np.asarray(similarity, "float64"), list(texts)
    readable = np.isfinite(near)
    if find not in ("image", "text") or best < 1:
        raise ValueError(f'find={find!r}, best={best}: expected "image" or "text", and at least 1')
    if near.shape != (len(images), len(texts)):
        raise ValueError(f"similarity {near.shape} of {len(images)} images and {len(texts)} texts")
    if not readable.any(axis=0).all():
        raise ValueError("similarity has no numbers: no image could be read")
    near = np.where(readable, near, -np.inf)
    images_of = np.argsort(-near.T, axis=1, kind="stable")[:, :best]  # (texts, best)
    nearest = np.zeros(near.shape, bool)
    nearest[images_of, np.arange(len(texts))[:, None]] = True
    ranked = nearest
    if find == "text":
        texts_of = np.argsort(-near, axis=1, kind="stable")[:, :best]  # (images, best)
        ranked = np.zeros(near.shape, bool)
        ranked[np.arange(len(near))[:, None], texts_of] = True
    ranked = ranked & readable
    told = _told(captioner, (nearest & readable) | ranked, images, texts, batch_size)
    usual = np.nanmean(np.take_along_axis(told.T, images_of, axis=1), axis=1)  # (texts,)
    scores = np.where(ranked, weight * near + told - usual, np.nan)
    return np.where(ranked, scores, near - near.max() + np.nanmin(scores) - 1)


def _told(captioner: Captioner, pairs: np.ndarray, images: Any, texts: list[str], batch_size: int) -> np.ndarray:
    """Return the likelihoods of the chosen pairs (images, texts), NaN elsewhere; each image is encoded once."""
    needed = np.flatnonzero(pairs.any(axis=1))
    features, _, errors = captioner.prepare([images[place] for place in needed])
    if errors:
        raise ValueError(
            f"images that cannot be read: {[(int(needed[place]), what) for place, what in errors.items()]}"
        )
    behind = captioner
    if captioner.has_layer("image_encoder"):
        behind = captioner.cached(("behind",), captioner.behind_encoder)
        features = run_in_batches(captioner.get_layer("image_encoder").predict_on_batch, features, batch_size)
    told, (rows, columns) = np.full(pairs.shape, np.nan), np.nonzero(pairs)
    for start in range(0, len(rows), AT_ONCE):
        few, chosen = rows[start : start + AT_ONCE], columns[start : start + AT_ONCE]
        described = [texts[place] for place in chosen]
        told[few, chosen] = behind.likelihood(features[np.searchsorted(needed, few)], described, batch_size=batch_size)
    return told
