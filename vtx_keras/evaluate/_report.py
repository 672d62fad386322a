"""Present results as a table, a JSON file and a page of cases."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vtx_keras._files import write
from vtx_keras.data import _examples as examples
from vtx_keras.evaluate._measures import Measure
from vtx_keras.evaluate._outcomes import Outcome
from vtx_keras.evaluate._pages import Card, write_page
from vtx_keras.inputs import media

CASES = 12  # per section of the page
# Measures that rank the cases: the first one available, then the next where rows are equal.
RANKING = ("cider", "vqa_accuracy", "word_f1", "image_to_text_median_rank", "f1_micro", "accuracy")
LOWER_IS_BETTER = ("median_rank",)
KINDS = {
    "captions": "captions",
    "answers": "written answers",
    "label": "answers or labels",
    "labels": "several labels per row",
    "matches": "pairs of a picture and a text",
    "drawings": "pictures drawn from texts",
    "search": "pictures, and then the texts that were searched for",
}


@dataclass(frozen=True)
class Results:
    """The results of an evaluation. A figure is {"value", "low", "high"}, with the 95 % interval or None."""

    model: str
    kind: str
    rows: int
    groups: int  # concepts or images that intervals resample
    left_out: dict[str, str]  # reason by place of the rows that could not be evaluated
    metrics: dict[str, dict[str, float | None]]
    baselines: dict[str, dict[str, dict[str, float | None]]]
    differences: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)  # model minus baseline
    notes: list[str] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    weights_sha256: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    def as_dict(self) -> dict:
        """Return all fields as JSON values; numbers that are not finite become None."""
        return _as_json(asdict(self))

    def grid(self) -> tuple[list[str], list[list[str]]]:
        """Return header and rows of a table: a metric per row, the model beside its baselines."""
        header = ["", self.model, "95 % interval", *(name.replace("_", " ") for name in self.baselines)]
        rows = []
        for name, figure in self.metrics.items():
            baselines = [_format(figures.get(name, {}).get("value")) for figures in self.baselines.values()]
            ends = [_format(figure[end]) for end in ("low", "high")]
            interval = "" if "–" in ends else f"{ends[0]} to {ends[1]}"
            rows.append([name.replace("_", " "), _format(figure["value"]), interval, *baselines])
        return header, rows

    def table(self) -> str:
        """Return the table as plain text.

        >>> figure = {"value": 0.5, "low": 0.4, "high": 0.6}
        >>> print(Results("toy", "label", 9, 9, {}, {"accuracy": figure}, {"most_frequent": {}}).table())
                    toy   95 % interval  most frequent
        accuracy  0.500  0.400 to 0.600              –
        """
        header, rows = self.grid()
        widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
        lines = []
        for row in [header, *rows]:
            cells = [row[0].ljust(widths[0])]
            cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
            lines.append("  ".join(cells).rstrip())
        return "\n".join(lines)

    def summary(self) -> list[str]:
        """Return what a reader must know beside the figures, line by line."""
        lines = [f"{self.rows:,d} rows ({KINDS[self.kind]}), resampled by {self.groups:,d} pictures or concepts"]
        if self.left_out:
            first = ", ".join(f"row {place}: {why}" for place, why in list(self.left_out.items())[:3])
            lines.append(f"{len(self.left_out):,d} rows were left out: {first}")
        metric = next((name for name in RANKING if name in self.metrics), None)
        if metric is not None:
            for baseline, differences in self.differences.items():
                lines += _compared(metric, baseline.replace("_", " "), differences.get(metric))
        return lines + list(self.notes)


def keep(results: Results, folder: Path, cases: Sequence[tuple[str, Sequence[Card]]]) -> None:
    """Write `results.json` and `results.html`, each atomically.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> keep(Results("toy", "label", 9, 9, {}, {}, {}), folder, [])
    >>> json.loads((folder / "results.json").read_text())["rows"]
    9
    """
    write(folder / "results.json", json.dumps(results.as_dict(), indent=1, ensure_ascii=False) + "\n")
    notes = [*results.summary(), *(f"{key}: {value}" for key, value in results.about.items())]
    write_page(folder / "results.html", f"{results.model}: evaluation", cases, notes, table=results.grid())


def cases_of(
    outcome: Outcome,
    measures: Mapping[str, Measure],
    others: Mapping[str, Outcome],
    stream: Callable[[], Iterator[dict]],
    image_shape: Sequence[int],
    seed: int = 0,
) -> list[tuple[str, list[Card]]]:
    """Return random, best and worst cases as sections of a page; only their images are read again."""
    rows = [number for number, row in enumerate(outcome.rows) if row.expected]
    scores = [(name, measures[name].rows) for name in RANKING if name in measures]
    random = np.random.default_rng(seed)
    shuffled = [rows[number] for number in random.permutation(len(rows))]

    def goodness(number: int) -> tuple:
        return tuple(-value[number] if name.endswith(LOWER_IS_BETTER) else value[number] for name, value in scores)

    ranked = sorted(shuffled, key=goodness)
    share = min(CASES, max(1, len(ranked) // 2))
    sections = {
        "Random cases": shuffled[:CASES],
        f"Best cases, by {scores[0][0].replace('_', ' ')}": ranked[::-1][:share],
        f"Worst cases, by {scores[0][0].replace('_', ' ')}": ranked[:share],
    }
    places = {outcome.rows[number].place for numbers in sections.values() for number in numbers}
    images = {place: _frames(example, image_shape) for place, example in enumerate(stream()) if place in places}

    def card(number: int) -> Card:
        row = outcome.rows[number]
        lines = [("id", row.id), *([("input", row.read)] if row.read else []), ("predicted", row.said or "(nothing)")]
        lines += [("expected", " | ".join(row.expected))]
        lines += [(name.replace("_", " "), other.rows[number].said) for name, other in others.items()]
        lines += [(name.replace("_", " "), _format(value[number])) for name, value in scores[:2]]
        return Card(images[row.place], lines)

    return [(name, [card(number) for number in numbers]) for name, numbers in sections.items()]


def _frames(example: Mapping, image_shape: Sequence[int]) -> list:
    """Return the image, or a few frames of the clip, to show."""
    image = examples.image_of(example)
    return media.read_clip(image, min(4, image_shape[0])) if len(image_shape) == 4 else [image]


def _compared(name: str, baseline: str, figure: Mapping[str, float] | None) -> list[str]:
    """Say in words whether the model beats a baseline; return [] without an interval.

    >>> _compared("word_f1", "nearest neighbour", {"value": -0.1, "low": -0.2, "high": 0.1})
    ['word f1: not clearly different from nearest neighbour (difference -0.100, -0.200 to 0.100)']
    """
    if figure is None or not all(map(math.isfinite, figure.values())):
        return []
    clear = "better than" if figure["low"] > 0 else "worse than" if figure["high"] < 0 else "not clearly different from"
    value, low, high = (_format(figure[end]) for end in ("value", "low", "high"))
    return [f"{name.replace('_', ' ')}: {clear} {baseline} (difference {value}, {low} to {high})"]


def _format(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return "–" if value is None or math.isnan(value) else "∞"
    return f"{value:.3f}" if abs(value) < 100 else f"{value:,.1f}"


def _as_json(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _as_json(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_as_json(one) for one in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    return value if isinstance(value, (int, str, bool, type(None))) else str(value)
