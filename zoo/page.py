"""Writes zoo/README.md from what is stored: what is released, and which fusion to use.

python -m zoo.page
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zoo import cards
from zoo.fusions import FUSIONS, RATES, SEEDS, STORED, TASKS, best_rate, runs

HERE = Path(__file__).parent
FIGURE, PAGE = HERE / "fusions.png", HERE / "README.md"


def released() -> str:
    """A table of all released models."""
    rows = []
    for path in sorted(HERE.glob("*/*/results.json")):
        name, tag = path.parts[-3:-1]
        if name != "encoders":
            found = cards.results_of(path.parent)
            first = found["headline"]
            low = "" if first["low"] is None else f" [{first['low']:.3f}, {first['high']:.3f}]"
            figure = f"{first['metric'].replace('_', ' ')} **{first['value']:.3f}**{low}, {first['split']}"
            size = f"{found['parameters'] / 1e6:.1f} M, {found['megabytes']:.1f} MB"
            rows.append(
                [f"[`{name}` / `{tag}`]({name}/{tag}/README.md)", size, found["data"], figure, found["licence"]]
            )
    return cards.table(["model / tag", "size", "data", "on held-out data", "licence"], rows)


def chosen(rows: list[dict], task: str, fusion: str) -> list[dict]:
    """The runs of every seed with the rate that was chosen."""
    rate = best_rate(rows, task, fusion)
    return [row for row in rows if (row["task"], row["fusion"], row["rate"]) == (task, fusion, rate)]


def summary(rows: list[dict]) -> dict[tuple[str, str], dict[str, float]]:
    """By task and fusion: the mean of the seeds, the widest of their intervals, what it costs."""
    found = {}
    for task, fusion in runs():
        mine = chosen(rows, task, fusion)
        values = [row["test"]["value"] for row in mine]
        found[task, fusion] = {
            "mean": statistics.mean(values),
            "low": min(row["test"]["low"] for row in mine),
            "high": max(row["test"]["high"] for row in mine),
            "spread": max(values) - min(values),
            "seeds": len(mine),
            "steps": statistics.mean(row["steps"] for row in mine),
            "cpu_seconds": statistics.mean(row["cpu_seconds"] for row in mine),
            "parameters": mine[0]["parameters"],
            "litert_ms": mine[0]["litert_ms"],
            "litert_megabytes": mine[0]["litert_megabytes"],
        }
    return found


def compared(stored: Mapping[str, Any]) -> str:
    """Which fusion: advice, the figure, and a table for each task."""
    found, how, parts = summary(stored["rows"]), stored["settings"], []
    header = ["", "test", "interval", "between seeds", "parameters", "CPU s", "steps", "LiteRT ms", "MB"]
    for task, told in TASKS.items():
        rows = [
            [
                f"`{fusion}`",
                f"**{one['mean']:.3f}**",
                f"{one['low']:.3f} to {one['high']:.3f}",
                f"{one['spread']:.3f}",
                f"{one['parameters'] / 1e6:.2f} M",
                f"{one['cpu_seconds']:.0f}",
                f"{one['steps']:.0f}",
                f"{one['litert_ms']:.1f}",
                f"{one['litert_megabytes']:.1f}",
            ]
            for (of, fusion), one in found.items()
            if of == task
        ]
        parts.append(f"### {told['what']}\n\n{cards.table(header, rows)}")
    advice, tables = (HERE / "advice.md").read_text(encoding="utf-8"), "\n\n".join(parts)
    return f"""## Which fusion?

{advice}
![the same as a figure](fusions.png)

Five fusions, the same frozen features, data and words; {how["cpu_seconds"]:.0f} CPU seconds of training each,
batches of {how["batch_size"]}, width {how["dim"]}, {how["depth"]} blocks; the learning rate is the better of
{" and ".join(f"{rate:g}" for rate in RATES)} on validation; {len(SEEDS)} seeds, each judged on the same
{how["judged_rows"]:,d} test rows. The interval spans the seeds' bootstrapped 95 % intervals. Parameters are those
behind the encoder; LiteRT ms and MB are those of the whole float32 file, one thread. `co_attn` cannot write from left
to right.

{tables}

`python -m zoo.fusions` made `fusions.json`.
"""


def drawn(found: Mapping[tuple[str, str], Mapping[str, float]], path: Path) -> None:
    """Quality with its interval over the time of a picture, a panel for each task."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(TASKS), figsize=(11, 3.6), layout="constrained")
    for panel, (task, told) in zip(panels, TASKS.items(), strict=True):
        for number, fusion in enumerate(FUSIONS):
            if (one := found.get((task, fusion))) is not None:
                reach = [[one["mean"] - one["low"]], [one["high"] - one["mean"]]]
                panel.errorbar(
                    one["litert_ms"], one["mean"], yerr=reach, fmt="o", color=f"C{number}", label=fusion, capsize=3
                )
        panel.set_title(told["what"], fontsize=9)
        panel.set_xlabel("LiteRT, ms per row")
        panel.grid(alpha=0.3)
    panels[1].legend(fontsize=8)
    figure.savefig(path, dpi=110)


def page() -> str:
    """The whole text."""
    comparison = compared(json.loads(STORED.read_text())) if STORED.is_file() else ""
    return f"""# The zoo

`vtx list` shows what is released, `vtx show NAME` a card. Each folder holds weights, a card, results and the recipe
that made them; `encoders/` the frozen eyes that they share. [NOTICE.md](NOTICE.md) has the notices.

{released()}

{comparison}"""


if __name__ == "__main__":
    if STORED.is_file():
        drawn(summary(json.loads(STORED.read_text())["rows"]), FIGURE)
    PAGE.write_text(page(), encoding="utf-8")
