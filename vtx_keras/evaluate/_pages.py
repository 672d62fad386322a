"""Results as a table, a JSON file and a page; self-contained HTML pages, and sheets, of images and texts.

Imports neither Keras nor TensorFlow.
"""

from __future__ import annotations

import base64
import html
import io
import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vtx_keras._files import whole, write
from vtx_keras.inputs import media

SIDE = 224  # largest width and height of a thumbnail in pixels
TILE, MARGIN, LINE = 128, 8, 18  # least side of a picture on a sheet, space between two, height of a line of text
LONGEST = 2_000  # most characters of a text on a page: megabytes of text stall a browser
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

# The content security policy forbids scripts, fonts and external images, whatever a caption contains.
HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; --ink: #1c1c1c; --paper: #fafafa; --card: #fff; --line: #d8d8d8; --faint: #666 }}
@media (prefers-color-scheme: dark) {{
  :root {{ --ink: #e6e6e6; --paper: #161616; --card: #202020; --line: #3a3a3a; --faint: #a0a0a0 }}
}}
body {{ margin: 0 auto; max-width: 80rem; padding: 1rem; font: 1rem/1.45 system-ui, sans-serif;
  color: var(--ink); background: var(--paper) }}
h1 {{ font-size: 1.4rem }} h2 {{ font-size: 1.1rem; margin: 2rem 0 .5rem }}
.note {{ color: var(--faint); margin: .25rem 0; overflow-wrap: anywhere }}
.wide {{ overflow-x: auto }}
table {{ border-collapse: collapse }} th, td {{ padding: .3rem .7rem; border-bottom: 1px solid var(--line) }}
th {{ text-align: left; font-weight: 600 }} td {{ white-space: nowrap; font-variant-numeric: tabular-nums }}
.cards {{ display: grid; gap: .8rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 15rem), 1fr)) }}
.card {{ background: var(--card); border: 1px solid var(--line); border-radius: .4rem; padding: .6rem; min-width: 0 }}
.strip {{ display: flex; gap: .3rem; overflow-x: auto }}
img {{ display: block; max-width: 100%; height: auto; border-radius: .2rem }}
dl {{ margin: .5rem 0 0 }} dt {{ color: var(--faint); font-size: .8rem }}
dd {{ margin: 0 0 .3rem; overflow-wrap: anywhere }}
</style>
</head>
<body>
"""


class Card(NamedTuple):
    """Images (or a clip's frames, or an image and its overlays), and lines of (label, text) below them."""

    pictures: Sequence[Any]
    lines: Sequence[tuple[str, str]]


def write_page(
    path: str | os.PathLike,
    title: str,
    sections: Iterable[tuple[str, Iterable[Card]]],
    notes: Sequence[str] = (),
    *,
    table: tuple[Sequence[str], Iterable[Sequence[Any]]] | None = None,
) -> Path:
    """Write one HTML file: a title, notes, a table `(header, rows)`, and cards in named sections.

    Images are anything that `media.read` takes, embedded as thumbnails; one that cannot be read is replaced by the
    error. Texts are escaped. Generators of cards are consumed one card at a time, so that a page may hold more images
    than fit in memory. The file is written atomically.

    >>> import tempfile
    >>> path = write_page(f"{tempfile.mkdtemp()}/a.html", "<b>", [], table=(["model", "score"], [["ours", 0.5]]))
    >>> "<h1>&lt;b&gt;</h1>" in path.read_text()
    True
    """
    with whole(path) as part, part.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(_page_parts(title, sections, notes, table))
    return Path(path)


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
            baselines = [figure_text(figures.get(name, {}).get("value")) for figures in self.baselines.values()]
            ends = [figure_text(figure[end]) for end in ("low", "high")]
            interval = "" if "–" in ends else f"{ends[0]} to {ends[1]}"
            rows.append([name.replace("_", " "), figure_text(figure["value"]), interval, *baselines])
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


def thumbnail(picture: Any) -> str:
    """Return an image as an `img` element with embedded data.

    >>> thumbnail(np.zeros((448, 896, 3), "uint8"))[:23], thumbnail(b"no picture")[:3]
    ('<img width="224" height', '<p ')
    """
    try:
        pixels = media.read(picture)
    except (media.BadPicture, OSError) as error:
        return f'<p class="note">no picture: {_escape(error)}</p>'
    image = Image.fromarray(np.rint(pixels).astype("uint8"))
    image.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85, subsampling=0)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img width="{image.width}" height="{image.height}" alt="" src="data:image/jpeg;base64,{data}">'


def sheet(rows: Sequence[tuple[str, Sequence[Any]]]) -> list[Image.Image]:
    """Draw rows of pictures, each below its text, as one picture; of clips, one for each frame.

    >>> [page.size for page in sheet([("a cat", [np.zeros((64, 64, 3), "uint8")] * 2)])]
    [(280, 162)]
    """
    pictures = [np.asarray(one) for _, row in rows for one in row]
    frames = max(len(one) if one.ndim == 4 else 1 for one in pictures)
    font = ImageFont.load_default(13)
    height, width = pictures[0].shape[-3:-1]
    times = max(1, -(-TILE // max(height, width)))
    height, width = height * times, width * times
    most = max(len(row) for _, row in rows)
    size = (MARGIN + most * (width + MARGIN), len(rows) * (height + LINE + MARGIN) + MARGIN)
    pages = [Image.new("RGB", size, "white") for _ in range(frames)]
    for frame, page in enumerate(pages):
        pen = ImageDraw.Draw(page)
        for line, (words, row) in enumerate(rows):
            top = MARGIN + line * (height + LINE + MARGIN)
            pen.text((MARGIN, top), words[: size[0] // 6], fill="black", font=font)
            for place, one in enumerate(map(np.asarray, row)):
                pixels = one[frame % len(one)] if one.ndim == 4 else one
                tile = Image.fromarray(pixels).resize((width, height), Image.Resampling.NEAREST)
                page.paste(tile, (MARGIN + place * (width + MARGIN), top + LINE))
    return pages


def _page_parts(title: str, sections: Iterable, notes: Sequence[str], table: Any) -> Iterator[str]:
    """Yield the HTML of a page, card by card."""
    yield HEAD.format(title=_escape(title))
    yield f"<h1>{_escape(title)}</h1>\n"
    for note in notes:
        yield f'<p class="note" dir="auto">{_escape(note)}</p>\n'
    if table is not None:
        header, rows = table
        yield f'<div class="wide"><table>\n<tr>{"".join(f"<th>{_escape(name)}</th>" for name in header)}</tr>\n'
        for row in rows:
            yield f"<tr>{''.join(f'<td>{_escape(cell)}</td>' for cell in row)}</tr>\n"
        yield "</table></div>\n"
    for name, cards in sections:
        yield f'<h2>{_escape(name)}</h2>\n<div class="cards">\n'
        for pictures, lines in cards:
            strip = "".join(map(thumbnail, pictures))
            items = "".join(f'<dt>{_escape(label)}</dt><dd dir="auto">{_escape(text)}</dd>' for label, text in lines)
            yield f'<div class="card"><div class="strip">{strip}</div><dl>{items}</dl></div>\n'
        yield "</div>\n"
    yield "</body>\n</html>\n"


def _escape(value: Any) -> str:
    """Escape a text for HTML, shorten it to LONGEST characters and replace characters that HTML forbids."""
    text = value if isinstance(value, str) else str(value)
    if len(text) > LONGEST:
        text = f"{text[:LONGEST]} … ({len(text):,d} characters)"
    text = text.encode("utf-8", "replace").decode()  # half a surrogate pair
    return html.escape(re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]", "\ufffd", text))


def _compared(name: str, baseline: str, figure: Mapping[str, float] | None) -> list[str]:
    """Say in words whether the model beats a baseline; return [] without an interval.

    >>> _compared("word_f1", "nearest neighbour", {"value": -0.1, "low": -0.2, "high": 0.1})
    ['word f1: not clearly different from nearest neighbour (difference -0.100, -0.200 to 0.100)']
    """
    if figure is None or not all(map(math.isfinite, figure.values())):
        return []
    clear = "better than" if figure["low"] > 0 else "worse than" if figure["high"] < 0 else "not clearly different from"
    value, low, high = (figure_text(figure[end]) for end in ("value", "low", "high"))
    return [f"{name.replace('_', ' ')}: {clear} {baseline} (difference {value}, {low} to {high})"]


def figure_text(value: float | None) -> str:
    """Write a figure for a table: "–" if there is none.

    >>> figure_text(0.12345), figure_text(None), figure_text(math.inf)
    ('0.123', '–', '∞')
    """
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
