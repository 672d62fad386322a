"""The card of a released model: a page made from `results.json` alone, so that every figure on it was measured."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from recipes.release import Release, Table
from vtx_keras._files import write
from vtx_keras.checkpoints._folder import CONFIG
from vtx_keras.checkpoints.published._encoders import PUBLISHED
from vtx_keras.data.sets import SETS

NAMES = {"litert": "LiteRT", "onnx": "ONNX", "savedmodel": "SavedModel"}
# The metrics that a card shows, by kind of result; lists show the first.
METRICS = {
    "captions": ("exact_match", "word_f1", "cider", "bleu_4"),
    "answers": ("accuracy",),
    "label": ("accuracy", "f1_macro"),
    "labels": ("f1_micro", "mean_average_precision"),
    "matches": ("accuracy", "average_precision"),
    "drawings": (
        "shape_right",
        "colour_right",
        "size_right",
        "shape_by_vqa_right",
        "colour_by_vqa_right",
        "frechet_mobilenet_v2",
        "kernel_mobilenet_v2",
        "precision",
        "recall",
        "diversity",
        "nearest_training",
    ),
    "search": ("image_to_text_recall_1", "image_to_text_recall_5", "text_to_image_recall_1", "text_to_image_recall_5"),
}


def read_results(folder: Path) -> dict[str, Any]:
    """Read a release's `results.json`; empty where there is none yet."""
    path = folder / "results.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def update_results(folder: Path, **results: Any) -> None:
    """Add to a release's `results.json`."""
    updated = {**read_results(folder), **results}
    write(folder / "results.json", json.dumps(updated, indent=1, ensure_ascii=False) + "\n")


def metrics_shown(split: Mapping[str, Any]) -> list[str]:
    """Return the metrics of a split that a card shows."""
    return [name for name in split.get("shown") or METRICS[split["kind"]] if name in split["metrics"]] or list(
        split["metrics"]
    )[:1]


def card_of(release: Release) -> str:
    """Return the card's text."""
    results = read_results(release.folder)
    config = json.loads((release.folder / CONFIG).read_text(encoding="utf-8"))
    encoder = config.get("image_encoder", {}).get("name")
    stored = f"{results['parameters'] / 1e6:.1f} M parameters, {results['megabytes']:.1f} MB stored as float16."
    if encoder:
        stored += f" The encoder's weights are stored with [{encoder}](../../encoders/{encoder}/README.md)."
    chosen = "; each output is chosen among the names of these rows" if release.name.endswith("retriever") else ""
    training = results["training"]
    decoding = "Greedy decoding" if release.beams == 1 else f"Beam search, {release.beams} beams,"
    if release.name.endswith("generator"):
        decoding = "One drawing of each text, seed 0,"
    hardware = training.get("hardware", "two cores, without a GPU")
    parts = [
        f"# {release.name} / {release.tag}\n\n{release.about}",
        stored,
        f"    from vtx_keras import zoo\n    model = zoo.build({release.name!r}, weights={release.tag!r})",
        *examples_of(release, results, chosen),
        f"## Results\n\nIntervals are 95 %, bootstrapped over concepts or pictures. {decoding} with the released "
        "float16 weights. Each split was evaluated after the recipe was fixed.",
        table(["split", "n", "metric", "model", "interval", "baselines"], figure_table(results)),
        *extra_table(results),
        f"## What to expect\n\n{release.expect}",
        "## Exports\n\nEach file was run in its own runtime on validation rows, on one thread.",
        table(["file", "identical results", "metric", "MB", "ms per row"], export_table(results)),
        "## Data and licences",
        table(["what", "licence"], licence_table(release, encoder)),
        f"## Reproduce\n\n{training_commands(release, training)}\n\nTraining took {duration(training)} "
        f"({training['epochs']} epochs of {training['rows']:,d} rows) on {hardware}."
        + (f" To measure the figures again:\n\n{eval_commands(release)}" if release.eval_data else ""),
    ]
    return "\n\n".join(parts) + "\n"


def table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a table in Markdown.

    >>> print(table(["a", "b"], [["1", "2"]]))
    | a | b |
    |---|---|
    | 1 | 2 |
    """
    header = list(header)
    lines = ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def examples_of(release: Release, results: Mapping[str, Any], chosen: str) -> list[str]:
    """Return the section of examples; of a generator with its sheet, on which nothing was chosen."""
    if "real" not in results["examples"][0]:
        return [
            f"## Examples\n\nEvery n-th row of `{release.shown_split}`, right or wrong{chosen}:",
            table(["picture", *example_fields(results), "model output"], example_table(results)),
        ]
    rows = [[row["words"], f"![]({row['picture']})", f"![]({row['real']})"] for row in results["examples"]]
    return [
        "![drawings, a row for each text](strip.png)\n\nThe first eight pictures of each text, with the default seed."
        + ("\n\n![which words each place attended to](words.png)" if release.name.startswith("cross_attn") else ""),
        f"## Examples\n\nEvery n-th row of `{release.shown_split}`: its words, the drawing, and the real picture.",
        table(["words", "drawn", "real"], rows),
    ]


def extra_table(results: Mapping[str, Any]) -> list[str]:
    """Return the release's additional table, if it has one."""
    if "besides" not in results:
        return []
    extra = Table(**results["besides"])
    return [f"## {extra.title}\n\n{extra.about}", table(extra.header, extra.rows)]


def example_fields(results: Mapping[str, Any]) -> list[str]:
    """Return the fields of the example rows between the picture and the model's output."""
    return [name for name in results["examples"][0] if name not in ("picture", "said")]


def example_table(results: Mapping[str, Any]) -> list[list[str]]:
    """Return a row for each example."""
    fields = example_fields(results)
    return [[f"![]({row['picture']})", *(row[name] for name in fields), row["said"]] for row in results["examples"]]


def figure_table(results: Mapping[str, Any]) -> list[list[str]]:
    """Return a row for each split and metric."""
    rows = []
    for split, figures in results["splits"].items():
        for name in metrics_shown(figures):
            figure = figures["metrics"][name]
            baselines = [
                f"{baseline.replace('_', ' ')} {values[name]['value']:.3f}"
                for baseline, values in figures["baselines"].items()
                if values.get(name, {}).get("value") is not None
            ]
            interval = "" if figure["low"] is None else f"{figure['low']:.3f} to {figure['high']:.3f}"
            title = f"{split}: {figures['what']}" if name == metrics_shown(figures)[0] else ""
            value, metric = f"**{figure['value']:.3f}**", name.replace("_", " ")
            rows.append([title, f"{figures['rows']:,d}", metric, value, interval, ", ".join(baselines)])
    return rows


def export_table(results: Mapping[str, Any]) -> list[list[str]]:
    """Return a row for each exported file."""
    rows = []
    for file in results.get("exports", []):
        metric = ""
        if file["metric"]:
            metric = f"{file['metric']} {file['metric_artifact']:.3f} (model {file['metric_model']:.3f})"
        metric = "; ".join(file["notes"]) if "notes" in file else metric
        name, identical = f"{NAMES[file['format']]} {file['quantize'] or 'float32'}", f"{file['identical']}/{file['n']}"
        rows.append([name, identical, metric, f"{file['megabytes']:.1f}", f"{file['ms_p50']:.1f}"])
    return rows


def licence_table(release: Release, encoder: str | None) -> list[list[str]]:
    """Return a row for each source of the release, and one for its weights."""
    rows = [[f"data set `{name}`: {SETS[name].about}", SETS[name].licence] for name in release.sets]
    if encoder:
        rows.append([f"encoder `{encoder}`: {PUBLISHED[encoder].about}", PUBLISHED[encoder].licence])
    return [*rows, *map(list, release.sources), ["these weights", f"{release.licence}; [notices](../../NOTICE.md)"]]


def duration(training: Mapping[str, Any]) -> str:
    """Return how long training took.

    >>> duration({"cpu_minutes": 17.3})
    '17.3 CPU minutes'
    """
    if "cpu_minutes" in training:
        return f"{training['cpu_minutes']} CPU minutes"
    if "wall_minutes" in training:
        return f"{training['wall_minutes']} minutes"
    return f"{training['minutes']} minutes with interruptions"


def training_commands(release: Release, training: Mapping[str, Any]) -> str:
    """Return the commands that train it again: those of the release, one on a CPU, or four with a GPU."""
    if release.commands:
        return "\n".join(f"    {command}" for command in release.commands)
    module, run = f"zoo.{release.name}.{release.tag}.recipe", f"runs/remote/{release.run.name}"
    if "hardware" not in training:
        return f"    python -m {module}"
    return "\n".join(
        [
            f"    python -m recipes.remote pack {module}    # after vtx data build of its data",
            f"    KERAS_BACKEND=jax python -m recipes.remote train {run}    # on the GPU, with a copy of that folder",
            f"    python -m recipes.remote take {module}    # after copying the folder back",
            f"    python -m {module} judge export card",
        ]
    )


def eval_commands(release: Release) -> str:
    """Return the commands that measure the figures again."""
    lines, eval_data = [], release.eval_data or ""
    for split in release.eval_splits:
        name, _, part = split.partition(", ")
        if name.isidentifier() and bool(part) == ("{part}" in eval_data):  # only the recipe knows other parts
            model = f"{release.name} --weights {release.tag}" + (f" --beams {release.beams}" * (release.beams > 1))
            lines.append(f"    vtx eval {model} --data {eval_data.format(part=part)} --split {name}")
    return "\n".join(lines)
