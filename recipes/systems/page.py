"""Tables of docs/systems.md from what the recipes stored: `python tools/readme.py` writes them."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from recipes import cards
from recipes.systems.trials import RESULTS


class Shown(NamedTuple):
    """One row of the overview: what was measured, and which stored figures tell it."""

    title: str
    data: str
    stored: str  # the file in `results`
    model: str
    metric: str
    beside: tuple[str, ...]  # models that the figure stands beside


OVERVIEW = (
    Shown("[Sentiment](#sentiment-of-a-post)", "posts", "sentiment", "cross_attn, parts left out", "f1_macro",
          ("text alone", "picture alone", "bag of words, linear")),
    Shown("[Findings](#radiology)", "chest_xray", "diagnosis", "image and masked note", "mean AUROC",
          ("image alone", "masked note alone")),
    Shown("[Attributes of a product](#products)", "fashion", "attributes", "both, words hidden", "all three",
          ("title alone, words hidden", "picture alone")),
    Shown("[Its title](#products)", "fashion", "titles", "both", "cider",
          ("attributes alone", "picture alone", "template of the attributes", "nearest neighbour")),
    Shown("[Five descriptions](#several-descriptions-to-one)", "flickr8k", "summaries", "captions and picture",
          "cider", ("captions alone", "picture alone", "most central of the four")),
)  # fmt: skip


FIGURES = {  # what is shown of each system, by the name of its place on the page
    "sentiment": ("accuracy", "f1_macro"),
    "diagnosis": ("mean AUROC", "COVID-19", "No Finding", "Pneumocystis", "calibration error"),
    "attributes": ("gender", "type", "colour", "all three"),
    "titles": ("cider", "exact_match", "word_f1"),
    "summaries": ("cider", "rouge_l", "word_f1"),
}


def overview() -> str:
    """Return a row for each system whose recipe has run."""
    rows = []
    for one in OVERVIEW:
        found = read(one.stored)
        if found:
            beside = [f"{name} {cell(found, name, one.metric, interval=False)}" for name in one.beside]
            figure = f"{one.metric.replace('_', ' ')} **{cell(found, one.model, one.metric)}**"
            rows.append([one.title, f"`{one.data}`", one.model, figure, ", ".join(beside), f"`{found['command']}`"])
    return cards.table(["system", "data", "model", "on held-out data", "beside", "command"], rows)


def figures(system: str, metrics: Sequence[str], models: Sequence[str] = ()) -> str:
    """Return the stored figures of a system with intervals, a row for each model, then what its differences are."""
    found = read(system)
    if not found:
        return f"Not measured yet: `python -m recipes.systems.{system}` does it."
    names = [name for name in found["figures"] if not models or name in models]
    rows = [[name, *(cell(found, name, metric) for metric in metrics)] for name in names]
    table = cards.table(["", *(metric.replace("_", " ") for metric in metrics)], rows)
    if not found["differences"]:
        return table
    rows = [[name, *(cell(found, name, metric, "differences") for metric in metrics)] for name in found["differences"]]
    return f"{table}\n\n{cards.table(['difference', *(metric.replace('_', ' ') for metric in metrics)], rows)}"


def cell(found: dict[str, Any], model: str, metric: str, part: str = "figures", interval: bool = True) -> str:
    """Return a figure with its interval, or a dash where there is none."""
    figure = found[part].get(model, {}).get(metric)
    if figure is None:
        return "–"
    sign = "+" if part == "differences" else ""
    value = f"{figure['value']:{sign}.3f}"
    if not interval or figure["low"] is None or figure["low"] != figure["low"]:
        return value
    return f"{value} [{figure['low']:{sign}.3f}, {figure['high']:{sign}.3f}]"


def read(system: str) -> dict[str, Any]:
    """Return what is stored of a system, or nothing.

    >>> read("sentiment")["system"], read("nothing")
    ('sentiment', {})
    """
    path = RESULTS / f"{system}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


TABLES: dict[str, Callable[[], str]] = {
    "overview": overview,
    **{system: functools.partial(figures, system, metrics) for system, metrics in FIGURES.items()},
}
