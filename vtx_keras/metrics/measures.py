"""What all figures have in common: a value over many rows, the rows' own scores, and an interval by resampling."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

Name = TypeVar("Name", bound=Hashable)


class Measure(NamedTuple):
    """A figure over many rows. `of(weights)` is its value when row i counts weights[i] times.

    `rows` holds each row's own score, NaN where a row has none. `whole` is the value where nobody knows it by weights.

    >>> mean([0.0, 1.0]).value, mean([0.0, 1.0]).of(np.array([1, 3]))
    (0.5, 0.75)
    """

    of: Callable[[np.ndarray], float]
    rows: np.ndarray
    whole: float | None = None

    @property
    def value(self) -> float:
        return self.of(np.ones(len(self.rows))) if self.whole is None else self.whole


def mean(rows: Any, sizes: Any = None) -> Measure:
    """The measure that is the mean of its rows' scores; NaN rows are left out. `sizes` says how much a row counts.

    >>> mean([1.0, np.nan, 0.0]).value, mean([1.0, 0.0], sizes=[3, 1]).value
    (0.5, 0.75)
    """
    rows = np.asarray(rows, float)
    sizes = np.where(np.isfinite(rows), 1.0 if sizes is None else np.asarray(sizes, float), 0.0)
    sums = np.where(sizes > 0, rows, 0.0) * sizes
    return Measure(lambda weights: _share(float(weights @ sums), float(weights @ sizes)), rows)


def draws(groups: Sequence[Hashable], count: int = 1000, seed: int = 0) -> Iterator[np.ndarray]:
    """Bootstrap weights, one array at a time: whole groups are drawn with replacement, and their rows with them.

    Several questions about one picture are no independent observations, so the rows of a picture are drawn together.

    >>> [weights.tolist() for weights in draws(["a", "a", "b"], 2, seed=1)]
    [[1.0, 1.0, 1.0], [0.0, 0.0, 2.0]]
    """
    numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    which, random = np.array([numbers[group] for group in groups]), np.random.default_rng(seed)
    for _ in range(count):
        drawn = random.integers(0, len(numbers), len(numbers))
        yield np.bincount(drawn, minlength=len(numbers))[which].astype(float)


def intervals(
    measures: Mapping[Name, Measure], groups: Sequence[Hashable], *, count: int = 1000, seed: int = 0
) -> dict[Name, tuple[float, float, float]]:
    """Value, lower and upper end of the 95 % bootstrap interval, by name. One group alone has no interval: NaN.

    >>> value, low, high = intervals({"exact": mean([0, 1] * 50)}, range(100))["exact"]
    >>> value, 0.35 < low < 0.45, 0.55 < high < 0.65
    (0.5, True, True)
    """
    values: dict[Name, list[float]] = {name: [] for name in measures}
    if len(set(groups)) > 1:
        for weights in draws(groups, count, seed):
            for name, measure in measures.items():
                values[name].append(measure.of(weights))
    found = {}
    for name, measure in measures.items():
        known = np.array(values[name], float)
        known = known[np.isfinite(known)]
        ends = np.quantile(known, (0.025, 0.975)) if known.size else (np.nan, np.nan)
        found[name] = (float(measure.value), float(ends[0]), float(ends[1]))
    return found


def _share(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")
