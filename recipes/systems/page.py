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
    Shown("[Questions about clips](#video)", "emoji_video`, `exercises", "video", "whole clip", "over time",
          ("shuffled frames", "first frame", "question alone")),
    Shown("[Five descriptions](#several-descriptions-to-one)", "flickr8k", "summaries", "captions and picture",
          "cider", ("captions alone", "picture alone", "most central of the four")),
)  # fmt: skip


MISSING = "Not measured yet: `python -m recipes.systems.{}` does it."
COMMANDS = {"attributes": "products attributes", "titles": "products titles", "video_captions": "video captions"}
SHOTS = (1, 2, 5, 10)
SEARCHES = {  # part of what is stored, and its metrics
    "by words": ("by words", ("image_to_text_recall_1", "image_to_text_recall_10", "text_to_image_recall_1",
                              "text_to_image_recall_10")),
    "more like this": ("more like this", ("type", "colour", "type and colour")),
    "like this but blue": ("like this but blue, results by picture", ("type", "colour", "type and colour", "all four")),
}  # fmt: skip
FIGURES = {  # what is shown of each system, by the name of its place on the page
    "sentiment": ("accuracy", "f1_macro"),
    "diagnosis": ("mean AUROC", "COVID-19", "No Finding", "Pneumocystis", "calibration error"),
    "attributes": ("gender", "type", "colour", "all three"),
    "titles": ("cider", "exact_match", "word_f1"),
    "summaries": ("cider", "rouge_l", "word_f1"),
    "video": ("all", "over time", "which comes first", "what comes last", "how many scenes", "in one frame"),
    "video_captions": ("cider", "word_f1"),
    "consistency": ("accuracy", "consistency_mirrored", "consistency_reworded", "consistency_implied"),
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
        return MISSING.format(COMMANDS.get(system, system))
    names = [name for name in found["figures"] if not models or name in models]
    rows = [[name, *(cell(found, name, metric) for metric in metrics)] for name in names]
    table = cards.table(["", *(metric.replace("_", " ") for metric in metrics)], rows)
    if not found["differences"]:
        return table
    rows = [[name, *(cell(found, name, metric, "differences") for metric in metrics)] for name in found["differences"]]
    return f"{table}\n\n{cards.table(['difference', *(metric.replace('_', ' ') for metric in metrics)], rows)}"


def few() -> str:
    """Return accuracy by method and number of examples, for each set."""
    found = read("few")
    if not found:
        return MISSING.format("few")
    tables = []
    for name, part in found["sets"].items():
        methods = list(dict.fromkeys(model.rpartition(", ")[0] for model in part["figures"] if ", " in model))
        metric = "recall_macro" if name == "posts" else "accuracy"  # draws are balanced, the posts are not
        rows = [
            [method, *(cell(part, f"{method}, {shots} example{'s' * (shots > 1)}", metric) for shots in SHOTS)]
            for method in methods
        ]
        others = [model for model in part["figures"] if ", " not in model]
        rows += [[model, cell(part, model, metric), *[""] * (len(SHOTS) - 1)] for model in others]
        title = f"`{name}`, {part['classes']} classes, {part['rows']:,d} test rows: {metric.replace('_', ' ')}"
        tables.append(cards.table([title, *(f"{shots} of each" for shots in SHOTS)], rows))
    return "\n\n".join(tables)


def search() -> str:
    """Return the tables of the three searches."""
    found = read("search")
    if not found:
        return MISSING.format("search")
    tables = []
    for title, (part, names) in SEARCHES.items():
        rows = [[model, *(cell(found[part], model, name) for name in names)] for model in found[part]["figures"]]
        heads = [name.replace("_", " ") for name in names]
        tables.append(cards.table([title, *heads], rows))
    return "\n\n".join(tables)


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
    "few": few,
    "search": search,
    **{system: functools.partial(figures, system, metrics) for system, metrics in FIGURES.items()},
}
