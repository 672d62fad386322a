"""Labels: accuracy, precision, recall, F1 over rows and over classes, and mean average precision."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from vtx_keras.metrics.measures import Measure, mean


def one_label(said: Any, truth: Any) -> dict[str, Measure]:
    """Accuracy, and precision, recall and F1 meaned over classes ("macro"), of one label per row: numbers or names.

    Macro figures mean over the classes that occur, in the truth or in what was said; a class never said has
    precision 0. (Over rows, "micro", precision, recall and F1 are all the accuracy.)

    >>> found = one_label(["cat", "dog", "cat"], ["cat", "cat", "cat"])
    >>> {name: round(measure.value, 3) for name, measure in found.items()}
    {'accuracy': 0.667, 'precision_macro': 0.5, 'recall_macro': 0.333, 'f1_macro': 0.4}
    """
    said, truth = np.asarray(said), np.asarray(truth)
    _, numbers = np.unique(np.concatenate([said, truth]), return_inverse=True)
    said, truth = numbers[: len(said)], numbers[len(said) :]
    classes = int(numbers.max(initial=-1)) + 1
    hit = (said == truth).astype(float)

    def counts(weights: np.ndarray) -> tuple:
        right = np.bincount(truth, weights * hit, classes)
        return right, np.bincount(said, weights, classes), np.bincount(truth, weights, classes)

    return {"accuracy": mean(hit), **_averaged(counts, hit, ("macro",))}


def many_labels(scores: Any, truth: Any, threshold: float = 0.0) -> dict[str, Measure]:
    """Of several labels per row: exact sets, precision, recall and F1 both ways, and mean average precision.

    `scores` (rows, classes) are logits, a label being said above `threshold`; `truth` holds zeros and ones. "micro"
    counts all labels alike, "macro" means over the classes that occur; so does `map`, over those that are ever true.

    >>> found = many_labels([[1.0, -1.0], [0.5, 2.0]], [[1, 0], [0, 1]])
    >>> found["exact"].value, round(found["f1_micro"].value, 3), found["map"].value
    (0.5, 0.8, 1.0)
    """
    scores, truth = np.asarray(scores, float), np.asarray(truth) > 0.5
    said = scores > threshold
    right, ours, theirs = ((said & truth).astype(float), said.astype(float), truth.astype(float))

    def counts(weights: np.ndarray) -> tuple:
        return weights @ right, weights @ ours, weights @ theirs

    both = right.sum(axis=1)
    rows = 2 * both / np.maximum(ours.sum(axis=1) + theirs.sum(axis=1), 1)
    rows[~(said | truth).any(axis=1)] = 1.0  # nothing to say, and nothing said
    return {
        "exact": mean((said == truth).all(axis=1)),
        **_averaged(counts, rows, ("micro", "macro")),
        "map": Measure(_mean_average_precision(scores, theirs), rows),
    }


def yes_or_no(scores: Any, truth: Any) -> dict[str, Measure]:
    """Accuracy, precision, recall and F1 of "yes", and average precision: `scores` are logits or log odds.

    >>> found = yes_or_no([2.0, 1.0, -1.0], [1, 0, 0])
    >>> {name: round(measure.value, 3) for name, measure in found.items()}
    {'accuracy': 0.667, 'precision': 0.5, 'recall': 1.0, 'f1': 0.667, 'average_precision': 1.0}
    """
    scores, truth = np.asarray(scores, float).reshape(-1, 1), np.asarray(truth, float).reshape(-1, 1)
    found = many_labels(scores, truth)
    names = {"exact": "accuracy", "precision_micro": "precision", "recall_micro": "recall", "f1_micro": "f1"}
    hit = found["exact"].rows
    renamed = {ours: Measure(found[theirs].of, hit) for theirs, ours in names.items()}
    return {**renamed, "average_precision": Measure(found["map"].of, hit)}


def _averaged(counts: Callable, rows: np.ndarray, ways: tuple[str, ...]) -> dict[str, Measure]:
    def figure(what: str, way: str) -> Callable[[np.ndarray], float]:
        def of(weights: np.ndarray) -> float:
            right, said, true = counts(weights)
            if way == "micro":
                right, said, true = (part.sum(keepdims=True) for part in (right, said, true))
            occurs = (said + true) > 0
            below = {"precision": said, "recall": true, "f1": (said + true) / 2}[what]
            shares = right / np.where(below > 0, below, 1.0)
            return float(shares[occurs].mean()) if occurs.any() else float("nan")

        return of

    return {f"{what}_{way}": Measure(figure(what, way), rows) for way in ways for what in ("precision", "recall", "f1")}


def _mean_average_precision(scores: np.ndarray, truth: np.ndarray) -> Callable[[np.ndarray], float]:
    order = np.argsort(-scores, axis=0, kind="stable")
    ranked, true = np.take_along_axis(scores, order, 0), np.take_along_axis(truth, order, 0)
    last = np.vstack([ranked[1:] != ranked[:-1], np.ones((1, ranked.shape[1]), bool)])  # equal scores are one step

    def of(weights: np.ndarray) -> float:
        weighted = weights[order]
        hits, seen = np.cumsum(weighted * true, axis=0), np.cumsum(weighted, axis=0)
        found = []
        for column in range(ranked.shape[1]):
            at = last[:, column]
            right, all_ = hits[at, column], seen[at, column]
            if right[-1]:
                gain = np.diff(right, prepend=0.0)
                found.append(float((gain * right / np.maximum(all_, 1e-12)).sum() / right[-1]))
        return float(np.mean(found)) if found else float("nan")

    return of
