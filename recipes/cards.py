"""A released model's card: a page made of `results.json` alone, so that every figure on it is one that was measured."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from vtx_keras.checkpoints import _folder as weights
from vtx_keras.checkpoints._encoders import PUBLISHED
from vtx_keras.data.sets import SETS

if TYPE_CHECKING:
    from recipes.release import Release

NAMES = {"litert": "LiteRT", "onnx": "ONNX", "savedmodel": "SavedModel"}
# The metrics that cards tell, by kind of result; the first is the one that lists tell.
TOLD = {
    "captions": ("exact_match", "word_f1", "cider", "bleu_4"),
    "answers": ("accuracy",),
    "label": ("accuracy", "f1_macro"),
    "labels": ("f1_micro", "mean_average_precision"),
    "matches": ("accuracy", "average_precision"),
    "search": ("image_to_text_recall_1", "image_to_text_recall_5", "text_to_image_recall_1", "text_to_image_recall_5"),
}


class Table(NamedTuple):
    """Something of its own that a card tells."""

    title: str
    about: str
    header: list[str]
    rows: list[list[str]]


def results_of(folder: Path) -> dict[str, Any]:
    """What is known of a release so far."""
    path = folder / "results.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def telling(split: Mapping[str, Any]) -> list[str]:
    """The metrics that a card tells of a split."""
    return [name for name in TOLD[split["kind"]] if name in split["metrics"]] or list(split["metrics"])[:1]


def card_of(release: Release) -> str:
    """The card's text."""
    results = results_of(release.folder)
    config = json.loads((release.folder / weights.CONFIG).read_text(encoding="utf-8"))
    encoder = config.get("image_encoder", {}).get("name")
    parts = [
        f"# {release.name} / {release.folder.name}\n\n{release.about}",
        f"{results['parameters'] / 1e6:.1f} M parameters. {results['megabytes']:.1f} MB, stored as float16"
        + (f"; its encoder is [{encoder}](../../encoders/{encoder}/README.md), stored there." if encoder else "."),
        f"    from vtx_keras import zoo\n    model = zoo.build({release.name!r}, weights={release.folder.name!r})",
        f"## What it says\n\nEvery n-th row of `{release.shown or next(iter(release.judged))}`, good and bad alike"
        + (", among whose names it chooses:" if release.name.endswith("retriever") else ":"),
        table(["picture", *asked(results), "the model says"], strip(results)),
        "## How well\n\nIntervals are 95 %, bootstrapped over concepts or pictures. Greedy decoding, released float16 "
        "weights. Each split was evaluated once the recipe was fixed.",
        table(["split", "n", "metric", "model", "interval", "baselines"], figures(results)),
        *besides(results),
        f"## What to expect\n\n{release.expect}",
        "## Exported\n\nRun in its own runtime on validation rows, one thread.",
        table(["file", "same as the model", "metric", "MB", "ms per row"], files(results)),
        "## Data and licences",
        table(["what", "licence"], licences(release, encoder)),
        f"## Again\n\n{recipe(release, results['training'])}\n\nThe training took "
        f"{duration(results['training'])} ({results['training']['epochs']} epochs of "
        f"{results['training']['rows']:,d} rows) on {results['training'].get('hardware', 'two cores, without a GPU')}."
        + (f" The figures:\n\n{commands(release)}" if release.eval_data else ""),
    ]
    return "\n\n".join(parts) + "\n"


def table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table in Markdown.

    >>> print(table(["a", "b"], [["1", "2"]]))
    | a | b |
    |---|---|
    | 1 | 2 |
    """
    header = list(header)
    lines = ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def besides(results: Mapping[str, Any]) -> list[str]:
    """What else was measured, if anything."""
    if "besides" not in results:
        return []
    told = Table(**results["besides"])
    return [f"## {told.title}\n\n{told.about}", table(told.header, told.rows)]


def asked(results: Mapping[str, Any]) -> list[str]:
    """Which fields the example rows have beside picture and what is said."""
    return [name for name in results["examples"][0] if name not in ("picture", "said")]


def strip(results: Mapping[str, Any]) -> list[list[str]]:
    """A row for each example."""
    return [
        [f"![]({row['picture']})", *(row[name] for name in asked(results)), row["said"]] for row in results["examples"]
    ]


def figures(results: Mapping[str, Any]) -> list[list[str]]:
    """A row for each split and metric."""
    rows = []
    for split, found in results["splits"].items():
        for name in telling(found):
            figure = found["metrics"][name]
            others = [
                f"{who.replace('_', ' ')} {other[name]['value']:.3f}"
                for who, other in found["baselines"].items()
                if other.get(name, {}).get("value") is not None
            ]
            interval = "" if figure["low"] is None else f"{figure['low']:.3f} to {figure['high']:.3f}"
            told = f"{split}: {found['what']}" if name == telling(found)[0] else ""
            named = name.replace("_", " ")
            rows.append([told, f"{found['rows']:,d}", named, f"**{figure['value']:.3f}**", interval, ", ".join(others)])
    return rows


def files(results: Mapping[str, Any]) -> list[list[str]]:
    """A row for each exported file."""
    rows = []
    for one in results.get("exports", []):
        metric = (
            f"{one['metric']} {one['metric_artifact']:.3f} (model {one['metric_model']:.3f})" if one["metric"] else ""
        )
        name = f"{NAMES[one['format']]} {one['quantize'] or 'float32'}"
        rows.append([name, f"{one['identical']}/{one['n']}", metric, f"{one['megabytes']:.1f}", f"{one['ms_p50']:.1f}"])
    return rows


def licences(release: Release, encoder: str | None) -> list[list[str]]:
    """What it was made of, and under which licence."""
    rows = [[f"data set `{name}`: {SETS[name].about}", SETS[name].licence] for name in release.sets]
    if encoder:
        rows.append([f"encoder `{encoder}`: {PUBLISHED[encoder].about}", PUBLISHED[encoder].licence])
    return [*rows, ["these weights", f"{release.licence}; [notices](../../NOTICE.md)"]]


def duration(training: Mapping[str, Any]) -> str:
    """How long it took."""
    if "cpu_minutes" in training:
        return f"{training['cpu_minutes']} CPU minutes"
    if "wall_minutes" in training:
        return f"{training['wall_minutes']} minutes"
    return f"{training['minutes']} minutes, with interruptions,"


def recipe(release: Release, training: Mapping[str, Any]) -> str:
    """How to train it again: in one command, or where there is a GPU in four."""
    module, run = f"zoo.{release.name}.{release.folder.name}.recipe", f"runs/far/{release.run.name}"
    if "hardware" not in training:
        return f"    python -m {module}"
    return "\n".join(
        [
            f"    python -m zoo.far pack {module}    # after vtx data build of its data",
            f"    KERAS_BACKEND=jax python -m zoo.far train {run}    # with that folder where the GPU is",
            f"    python -m zoo.far take {module}    # with the folder back",
            f"    python -m {module} judge export card",
        ]
    )


def commands(release: Release) -> str:
    """How to have the figures again."""
    lines, told = [], release.eval_data or ""
    for split in release.judged:
        name, _, part = split.partition(", ")
        if name.isidentifier() and bool(part) == ("{part}" in told):  # other parts of a split are the recipe's own
            named = f"{release.name} --weights {release.folder.name}"
            lines.append(f"    vtx eval {named} --data {told.format(part=part)} --split {name}")
    return "\n".join(lines)
