"""Search: at which rank the right one stands."""

from __future__ import annotations

from collections.abc import Mapping
from math import comb
from typing import Any

import numpy as np

from vtx_keras.metrics.measures import Measure, mean

PLACES = (1, 5, 10)


def ranks(scores: Any, right: Any) -> np.ndarray:
    """Per row of `scores` (queries, candidates), the rank of the best candidate that `right` (a mask) marks, from 1.

    A wrong candidate with the same score stands before a right one, so that a model that says the same of all has no
    luck. A row without a right candidate has rank infinity; a score that is no number is the lowest.

    >>> ranks([[0.1, 0.9, 0.5], [0.5, 0.5, 0.5]], [[True, False, True], [True, False, False]]).tolist()
    [2.0, 3.0]
    """
    scores, right = np.asarray(scores, float), np.asarray(right, bool)
    if scores.shape != right.shape or scores.ndim != 2:
        raise ValueError(f"scores {scores.shape} and right {right.shape}: expected one shape, (queries, candidates)")
    scores = np.where(np.isnan(scores), -np.inf, scores)
    best = np.where(right, scores, -np.inf).max(axis=1, initial=-np.inf, keepdims=True)
    before = ((scores >= best) & ~right).sum(axis=1)
    return np.where(right.any(axis=1), before + 1.0, np.inf)


def retrieval(images: Any, texts: Any, text_of: Any, image_of: Any, *, block: int = 1024) -> dict[str, Measure]:
    """Recall@1, 5, 10 and median rank, picture to text and text to picture, of embeddings (n, dim).

    `image_of[i]` and `text_of[i]` are rows of `images` and `texts` that belong together: a picture may have several
    texts, and a text several pictures (of which the best counts). The measures' rows are the pictures, then the texts.

    >>> found = retrieval(np.eye(3), np.eye(3)[[0, 2, 1]], text_of=[0, 2, 1], image_of=[0, 1, 2])
    >>> found["image_to_text_recall_1"].value, found["text_to_image_median_rank"].value
    (1.0, 1.0)
    """
    images, texts = np.asarray(images), np.asarray(texts)
    ways = {
        "image_to_text": (images, texts, np.asarray(image_of), np.asarray(text_of)),
        "text_to_image": (texts, images, np.asarray(text_of), np.asarray(image_of)),
    }
    measures, total = {}, len(images) + len(texts)
    for way, (queries, candidates, asked, wanted) in ways.items():
        found = []
        for start in range(0, len(queries), block):
            rows = queries[start : start + block]
            inside = (asked >= start) & (asked < start + len(rows))
            right = np.zeros((len(rows), len(candidates)), bool)
            right[asked[inside] - start, wanted[inside]] = True
            found.append(ranks(rows @ candidates.T, right))
        rank = np.full(total, np.nan)
        at = 0 if way == "image_to_text" else len(images)
        rank[at : at + len(queries)] = np.concatenate(found)
        for place in PLACES:
            hit = np.where(np.isnan(rank), np.nan, rank <= place)
            measures[f"{way}_recall_{place}"] = mean(hit)
        measures[f"{way}_median_rank"] = median(rank)
    return measures


def median(rows: Any) -> Measure:
    """The measure that is the median of its rows' scores; NaN rows are left out, and infinity is a score.

    >>> median([1, 5, 2, np.nan]).value, median([1, 5, 2, np.nan]).of(np.array([1, 3, 1, 1]))
    (2.0, 5.0)
    """
    rows = np.asarray(rows, float)
    order = np.argsort(rows)[: int((~np.isnan(rows)).sum())]

    def of(weights: np.ndarray) -> float:
        reached = np.cumsum(weights[order])
        if not len(reached) or not reached[-1]:
            return float("nan")
        low, high = np.searchsorted(reached, (reached[-1] / 2, reached[-1] / 2 + 1e-9))
        return float(rows[order[low]] + rows[order[high]]) / 2

    return Measure(of, rows)


def chance(candidates: int, right: Mapping[int, int]) -> dict[str, float]:
    """Expected recall@1, 5, 10 of a blind guess: `right` counts queries by how many candidates are right for them.

    >>> chance(10, {1: 4})
    {'recall_1': 0.1, 'recall_5': 0.5, 'recall_10': 1.0}
    """
    found = {}
    for place in PLACES:
        seen = min(place, candidates)
        missed = sum(count * comb(candidates - n, seen) / comb(candidates, seen) for n, count in right.items())
        found[f"recall_{place}"] = round(1 - missed / sum(right.values()), 12)
    return found
