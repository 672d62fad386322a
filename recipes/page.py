"""Write zoo/README.md from what is stored: the released models, and which fusion to use.

python -m recipes.page
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from recipes import ablation, cards
from recipes.ablation import FUSIONS, STORED, TASKS, TEST, ZOO, cells, encoder_hash, read_stored
from vtx_keras.checkpoints._folder import CONFIG

ADVICE, FIGURE, PAGE = Path(__file__).with_name("advice.md"), ZOO / "fusions.png", ZOO / "README.md"


def released(place: str = "") -> str:
    """Return a table of all released models: size, data, headline figure, speed, licence. Links begin with `place`."""
    rows = []
    for path in sorted(ZOO.glob("*/*/results.json")):
        name, tag = path.parts[-3:-1]
        if name != "encoders" and (path.parent / CONFIG).is_file():
            results = cards.read_results(path.parent)
            headline, file = results["headline"], next(one for one in results["exports"] if one["quantize"] == "int8")
            interval = "" if headline["low"] is None else f" [{headline['low']:.3f}, {headline['high']:.3f}]"
            link = f"[`{name}` / `{tag}`]({place}{name}/{tag}/README.md)"
            size = f"{results['parameters'] / 1e6:.1f} M, {results['megabytes']:.1f} MB"
            metric = headline["metric"].replace("_", " ")
            figure = f"{metric} **{headline['value']:.3f}**{interval}, {headline['split']}"
            speed = f"{file['megabytes']:.1f} MB, {file['ms_p50']:.{0 if file['ms_p50'] >= 1 else 1}f} ms"
            rows.append([link, size, results["data"], figure, speed, results["licence"]])
    header = ["model / tag", "size", "data", "on held-out data", "LiteRT int8, one thread", "licence"]
    return cards.table(header, rows)


def summary() -> dict[tuple[str, str], dict[str, Any]]:
    """Return by task and fusion: the mean of the seeds, the widest of their intervals, and the cost."""
    summaries = {}
    for cell, stored in read_stored().items():
        task, fusion = cell.split()
        tests = [run["test"] for run in stored["runs"]]
        values = [test["value"] for test in tests]
        summaries[task, fusion] = {
            **stored,
            "mean": statistics.mean(values),
            "low": min(test["low"] for test in tests),
            "high": max(test["high"] for test in tests),
            "spread": max(values) - min(values),
            "steps": statistics.mean(run["steps"] for run in stored["runs"]),
        }
    return {cell: summaries[cell] for cell in cells()}


def baseline(task: str) -> tuple[str, float]:
    """Return name and value of a baseline without a fusion, from the released model's results on the same split."""
    folder, name = TASKS[task]["baseline"]
    split = cards.read_results(ZOO / folder)["splits"][TEST]
    return name.replace("_", " "), split["baselines"][name][TASKS[task]["metric"]]["value"]


def released_figures(task: str) -> str:
    """Return the figures of the released models of a task, which were trained for longer."""
    figures = []
    for fusion in FUSIONS:
        folder = ZOO / f"{fusion}_{task}" / "emoji"
        if (folder / "results.json").is_file():
            metric = cards.read_results(folder)["splits"][TEST]["metrics"][TASKS[task]["metric"]]
            figures.append(f"`{fusion}` {metric['value']:.3f} [{metric['low']:.3f}, {metric['high']:.3f}]")
    return f"Trained to the end, as released, on all rows: {', '.join(figures)}."


def overview() -> str:
    """Return one table: every fusion's figure and time at every task."""
    summaries = summary()

    def cell(task: str, fusion: str) -> str:
        if (row := summaries.get((task, fusion))) is None:
            return "–"
        return f"**{row['mean']:.3f}** [{row['low']:.3f}, {row['high']:.3f}], {row['litert_ms']:.1f} ms"

    rows = [[f"`{fusion}`", *(cell(task, fusion) for task in TASKS)] for fusion in FUSIONS]
    rows.append(["without", *(f"{value:.3f} ({name})" for name, value in map(baseline, TASKS))])
    return cards.table(["", *(settings["what"] for settings in TASKS.values())], rows)


def comparison() -> str:
    """Return the chapter on fusions: advice, the figure, and a table for each task."""
    summaries, shared, parts = summary(), ablation.SHARED, []
    seconds = [run["cpu_seconds"] for row in summaries.values() for run in row["runs"]]
    least, most = min(seconds), max(seconds)
    rates = " and ".join(f"{rate:g}" for rate in ablation.RATES)
    (encoder,) = {row["encoder_sha256"] for row in summaries.values()}
    which = "the" if encoder == encoder_hash() else f"an earlier (sha256 {encoder[:8]})"
    (version,) = {row["data"] for row in summaries.values()}
    header = ["", "test", "interval", "between seeds", "rate", "parameters", "steps", "LiteRT ms", "MB"]
    for task, settings in TASKS.items():
        rows = [
            [
                f"`{fusion}`",
                f"**{row['mean']:.3f}**",
                f"{row['low']:.3f} to {row['high']:.3f}",
                f"{row['spread']:.3f}",
                f"{row['rate']:g}",
                f"{row['parameters'] / 1e6:.2f} M",
                f"{row['steps']:.0f}",
                f"{row['litert_ms']:.1f}" + (f" ({row['litert_tokens']:.1f} tokens)" if "litert_tokens" in row else ""),
                f"{row['litert_megabytes']:.1f}",
            ]
            for (of_task, fusion), row in summaries.items()
            if of_task == task
        ]
        name, value = baseline(task)
        title = f"### {settings['what']} ({name}: {value:.3f})"
        parts.append(f"{title}\n\n{cards.table(header, rows)}\n\n{released_figures(task)}")
    advice, tables = ADVICE.read_text(encoding="utf-8"), "\n\n".join(parts)
    return f"""## Which fusion?

{advice}
![the same as a figure](fusions.png)

Five fusions of pictures and words of `emoji` {version}, in {shared["depth"]} blocks of width {shared["dim"]}: the same
frozen features (of {which} `{shared["image_encoder"]}`), data and vocabulary,
{ablation.CPU_SECONDS} CPU seconds of training ({least:.0f} to {most:.0f} when measured) in batches of {ablation.BATCH}.
The learning rate is the better of {rates} on validation.
{len(ablation.SEEDS)} seeds, each evaluated on the same {ablation.EVAL_ROWS:,d} rows by an artist that no run was
trained on. The interval spans the seeds' bootstrapped 95 % intervals. Parameters are those behind the encoder; LiteRT
ms (CPU, one thread) and MB are those of the whole float32 file, the encoder included; a captioner writes captions of
its own length. The baseline in brackets was measured on the whole split. `co_attn` cannot write from left to right.

{tables}

`python -m recipes.ablation train` and `python -m recipes.ablation time` made `fusions.json`.
"""


def draw(path: Path) -> None:
    """Draw the test metric with its interval, and each seed as a dot; a panel for each task."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(TASKS), figsize=(11, 3.6), layout="constrained")
    summaries = summary()
    for panel, (task, settings) in zip(panels, TASKS.items(), strict=True):
        rows = {fusion: summaries[task, fusion] for fusion in FUSIONS if (task, fusion) in summaries}
        for place, row in enumerate(rows.values()):
            reach = [[row["mean"] - row["low"]], [row["high"] - row["mean"]]]
            panel.errorbar(place, row["mean"], yerr=reach, fmt="_", markersize=14, capsize=3, color="C0")
            seeds = [run["test"]["value"] for run in row["runs"]]
            panel.plot([place] * len(seeds), seeds, "o", markersize=3, color="C1")
        panel.set_xticks(range(len(rows)), [f"{name}\n{row['litert_ms']:.1f} ms" for name, row in rows.items()], size=7)
        name, value = baseline(task)
        panel.axhline(value, color="gray", linestyle=":", linewidth=1)
        panel.annotate(name, (0.02, value), xycoords=("axes fraction", "data"), fontsize=7, va="bottom", color="gray")
        panel.set_title(settings["what"], fontsize=9)
        panel.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


def page() -> str:
    """Return the whole page."""
    chapter = comparison() if STORED.is_file() else ""
    return f"""# The zoo

`vtx list` shows what is released, `vtx show NAME` a card. Each folder holds weights, a card, results and the recipe
that made them; `encoders/` holds the frozen image encoders that several models share. The notices of the sources are in
[NOTICE.md](NOTICE.md).

{released()}

{chapter}"""


if __name__ == "__main__":
    if STORED.is_file():
        draw(FIGURE)
    PAGE.write_text(page(), encoding="utf-8")
