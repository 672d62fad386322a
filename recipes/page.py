"""Writes zoo/README.md from what is stored: what is released, and which fusion to use.

python -m zoo.page
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from recipes import cards
from recipes.ablation import BATCH, CPU_SECONDS, FUSIONS, JUDGED, RATES, SEEDS, SHARED, STORED, TASKS, TEST, cells, encoder_hash, known

HERE = Path(__file__).parent
FIGURE, PAGE = HERE / "fusions.png", HERE / "README.md"


def released(place: str = "") -> str:
    """A table of all released models, whose links begin with `place`: what each is, how good, how fast."""
    rows = []
    for path in sorted(HERE.glob("*/*/results.json")):
        name, tag = path.parts[-3:-1]
        if name != "encoders":
            found = cards.results_of(path.parent)
            first, file = found["headline"], next(one for one in found["exports"] if one["quantize"] == "int8")
            low = "" if first["low"] is None else f" [{first['low']:.3f}, {first['high']:.3f}]"
            link = f"[`{name}` / `{tag}`]({place}{name}/{tag}/README.md)"
            size = f"{found['parameters'] / 1e6:.1f} M, {found['megabytes']:.1f} MB"
            figure = f"{first['metric'].replace('_', ' ')} **{first['value']:.3f}**{low}, {first['split']}"
            speed = f"{file['megabytes']:.1f} MB, {file['ms_p50']:.{0 if file['ms_p50'] >= 1 else 1}f} ms"
            rows.append([link, size, found["data"], figure, speed, found["licence"]])
    header = ["model / tag", "size", "data", "on held-out data", "LiteRT int8, one thread", "licence"]
    return cards.table(header, rows)


def summary() -> dict[tuple[str, str], dict[str, Any]]:
    """By task and fusion: the mean of the seeds, the widest of their intervals, what it costs."""
    found = {}
    for (task, fusion), one in ((tuple(cell.split()), one) for cell, one in known().items()):
        tests = [run["test"] for run in one["runs"]]
        values = [test["value"] for test in tests]
        found[task, fusion] = {
            **one,
            "mean": statistics.mean(values),
            "low": min(test["low"] for test in tests),
            "high": max(test["high"] for test in tests),
            "spread": max(values) - min(values),
            "steps": statistics.mean(run["steps"] for run in one["runs"]),
        }
    return {cell: found[cell] for cell in cells()}


def baseline(task: str) -> tuple[str, float]:
    """What needs no such model, from the released model's results on the same split: its name and value."""
    folder, name = TASKS[task]["baseline"]
    split = cards.results_of(HERE / folder)["splits"][TEST]
    return name.replace("_", " "), split["baselines"][name][TASKS[task]["metric"]]["value"]


def to_the_end(task: str) -> str:
    """What the released models of a task reach, which were trained for longer."""
    found = []
    for fusion in FUSIONS:
        folder = HERE / f"{fusion}_{task}" / "emoji"
        if (folder / "results.json").is_file():
            one = cards.results_of(folder)["splits"][TEST]["metrics"][TASKS[task]["metric"]]
            found.append(f"`{fusion}` {one['value']:.3f} [{one['low']:.3f}, {one['high']:.3f}]")
    return f"Trained to the end, as released, on all rows: {', '.join(found)}."


def short() -> str:
    """One table: every fusion's figure and time at every task."""
    found = summary()

    def told(task: str, fusion: str) -> str:
        if (one := found.get((task, fusion))) is None:
            return "–"
        return f"**{one['mean']:.3f}** [{one['low']:.3f}, {one['high']:.3f}], {one['litert_ms']:.1f} ms"

    rows = [[f"`{fusion}`", *(told(task, fusion) for task in TASKS)] for fusion in FUSIONS]
    rows.append(["without", *(f"{value:.3f} ({name})" for name, value in map(baseline, TASKS))])
    return cards.table(["", *(how["what"] for how in TASKS.values())], rows)


def compared() -> str:
    """Which fusion: advice, the figure, and a table for each task."""
    found, parts = summary(), []
    spent = [run["cpu_seconds"] for one in found.values() for run in one["runs"]]
    least, most = min(spent), max(spent)
    rates = " and ".join(f"{rate:g}" for rate in RATES)
    (encoder,) = {one["encoder_sha256"] for one in found.values()}
    which = "the" if encoder == encoder_hash() else f"an earlier (sha256 {encoder[:8]})"
    (data,) = {one["data"] for one in found.values()}
    header = ["", "test", "interval", "between seeds", "rate", "parameters", "steps", "LiteRT ms", "MB"]
    for task, how in TASKS.items():
        rows = [
            [
                f"`{fusion}`",
                f"**{one['mean']:.3f}**",
                f"{one['low']:.3f} to {one['high']:.3f}",
                f"{one['spread']:.3f}",
                f"{one['rate']:g}",
                f"{one['parameters'] / 1e6:.2f} M",
                f"{one['steps']:.0f}",
                f"{one['litert_ms']:.1f}" + (f" ({one['litert_tokens']:.1f} tokens)" if "litert_tokens" in one else ""),
                f"{one['litert_megabytes']:.1f}",
            ]
            for (of, fusion), one in found.items()
            if of == task
        ]
        name, value = baseline(task)
        parts.append(f"### {how['what']} ({name}: {value:.3f})\n\n{cards.table(header, rows)}\n\n{to_the_end(task)}")
    advice, tables = (HERE / "advice.md").read_text(encoding="utf-8"), "\n\n".join(parts)
    return f"""## Which fusion?

{advice}
![the same as a figure](fusions.png)

Five fusions of pictures and words of `emoji` {data}, in {SHARED["depth"]} blocks of width {SHARED["dim"]}: the same
frozen features (of {which} `{SHARED["image_encoder"]}`), data and words,
{CPU_SECONDS} CPU seconds of training ({least:.0f} to {most:.0f} when measured) in batches of {BATCH}. The learning rate
is the better of {rates} on validation. {len(SEEDS)}
seeds, each judged on the same {JUDGED:,d} rows of an artist whom none has seen. The interval spans the seeds'
bootstrapped 95 % intervals. Parameters are those behind the encoder; LiteRT ms (CPU, one thread) and MB are those of
the whole float32 file, the encoder included; a captioner writes its own caption. What needs no model is of the whole
split. `co_attn` cannot write from left to right.

{tables}

`python -m zoo.fusions train` and `python -m zoo.fusions time` made `fusions.json`.
"""


def drawn(path: Path) -> None:
    """Quality with its interval, each seed a dot; a panel for each task."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(TASKS), figsize=(11, 3.6), layout="constrained")
    found = summary()
    for panel, (task, how) in zip(panels, TASKS.items(), strict=True):
        shown = {fusion: found[task, fusion] for fusion in FUSIONS if (task, fusion) in found}
        for place, one in enumerate(shown.values()):
            reach = [[one["mean"] - one["low"]], [one["high"] - one["mean"]]]
            panel.errorbar(place, one["mean"], yerr=reach, fmt="_", markersize=14, capsize=3, color="C0")
            seeds = [run["test"]["value"] for run in one["runs"]]
            panel.plot([place] * len(seeds), seeds, "o", markersize=3, color="C1")
        panel.set_xticks(
            range(len(shown)), [f"{name}\n{one['litert_ms']:.1f} ms" for name, one in shown.items()], size=7
        )
        name, value = baseline(task)
        panel.axhline(value, color="gray", linestyle=":", linewidth=1)
        panel.annotate(name, (0.02, value), xycoords=("axes fraction", "data"), fontsize=7, va="bottom", color="gray")
        panel.set_title(how["what"], fontsize=9)
        panel.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


def page() -> str:
    """The whole text."""
    comparison = compared() if STORED.is_file() else ""
    return f"""# The zoo

`vtx list` shows what is released, `vtx show NAME` a card. Each folder holds weights, a card, results and the recipe
that made them; `encoders/` the frozen eyes that several share. [NOTICE.md](NOTICE.md) has the notices.

{released()}

{comparison}"""


if __name__ == "__main__":
    if STORED.is_file():
        drawn(FIGURE)
    PAGE.write_text(page(), encoding="utf-8")
