"""Write the stored figures into the README, between its markers: python tools/readme.py

A table begins with `<!-- name -->` and ends with `<!-- end -->`. A test compares the README with what is stored.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from recipes import cards, page  # noqa: E402  (the checkout's recipes, whatever the current folder)

RESULTS = ROOT / "benchmarks" / "results"
FORMATS = {"savedmodel": "SavedModel", "litert": "LiteRT", "onnx": "ONNX"}
RUNTIMES = {
    "litert int8": "LiteRT int8",
    "litert float32": "LiteRT float32",
    "onnx float32": "ONNX float32",
    "savedmodel float32": "SavedModel",
    "keras": "`generate`",
}
LOADS = {
    ("base", 1, 1): "`base`, one picture",
    ("base", 1, 4): "`base`, 4 beams",
    ("base", 32, 1): "`base`, batch of 32",
    ("tiny", 1, 1): "`tiny`, one picture",
    ("tiny", 1, 4): "`tiny`, 4 beams",
    ("tiny", 32, 1): "`tiny`, batch of 32",
}


def exports() -> str:
    """Return the table of the released captioner in other formats."""
    rows = [
        [f"{FORMATS[row['format']]} {row['quantize']}", row["identical"], metrics(row), f"{row['megabytes']:.1f}"]
        for row in json.loads((RESULTS / "export_tasks.json").read_text())["rows"]
        if row["task"] == "captioner"
    ]
    return cards.table(["released captioner, 274 pictures", "captions identical", "word F1", "MB"], rows)


def metrics(row: dict) -> str:
    """Return the file's metric beside the model's."""
    return f"{row['metric_artifact']:.3f} (model {row['metric_model']:.3f})"


def speed() -> str:
    """Return the table of how many times less CPU time than the peer each format takes."""
    by_load = {
        (row["shape"], row["batch"], row["beams"]): row["times_faster"]
        for row in json.loads((RESULTS / "export.json").read_text())["rows"]
        if "times_faster" in row
    }
    rows = [[title, *(f"{by_load[load][runtime]:.1f} ×" for runtime in RUNTIMES)] for load, title in LOADS.items()]
    return cards.table(["captions, times faster", *RUNTIMES.values()], rows)


def fusions() -> str:
    """Return the comparison of fusions with its advice, once it has been measured."""
    if not page.STORED.is_file():
        return "`python -m recipes.ablation train` compares them on equal terms: data, budget, search, seeds."
    advice = page.ADVICE.read_text(encoding="utf-8").strip()
    return f"{page.overview()}\n\n{advice}\n\nOn equal terms: [zoo/README.md](zoo/README.md) tells how."


TABLES = {"released": lambda: page.released("zoo/"), "exports": exports, "speed": speed, "fusions": fusions}


def filled(text: str) -> str:
    """Return the text with the stored figures between its markers."""
    for name, make in TABLES.items():
        before, begin, after = text.partition(f"<!-- {name} -->\n")
        assert begin, f"the README has no place for {name}"
        _, end, after = after.partition("<!-- end -->")
        text = f"{before}{begin}\n{make()}\n\n{end}{after}"
    return text


if __name__ == "__main__":
    readme = ROOT / "README.md"
    readme.write_text(filled(readme.read_text(encoding="utf-8")), encoding="utf-8")
