"""Results as a table, a JSON file and a page of cases; pages of images and texts that need nothing else."""

from __future__ import annotations

import base64
import html
import io
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from vtx_keras._files import whole, write
from vtx_keras.data import _examples as examples
from vtx_keras.evaluate._measures import Measure
from vtx_keras.evaluate._outcomes import Outcome
from vtx_keras.inputs import media

SHOWN = 12  # cases in each part of the page


# By which the best and the worst cases are chosen: the first that there is, then the next where rows are equal.
TELLING = ("cider", "vqa_accuracy", "word_f1", "image_to_text_median_rank", "f1_micro", "accuracy")


LOWER_IS_BETTER = ("median_rank",)


PLAIN = {
    "captions": "captions",
    "answers": "written answers",
    "label": "answers or labels",
    "labels": "several labels per row",
    "matches": "pairs of a picture and a text",
    "search": "pictures, and then the texts that were searched for",
}


@dataclass(frozen=True)
class Results:
    """What an evaluation found. A figure is {"value", "low", "high"}: the 95 % interval, None where there is none."""

    model: str
    kind: str
    rows: int
    groups: int  # concepts or pictures, which are what is resampled
    left_out: dict[str, str]  # rows that could not be judged, by their place, and why
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
        """All of it as JSON takes it: what is no number, or not finite, is None."""
        return _plain(asdict(self))

    def grid(self) -> tuple[list[str], list[list[str]]]:
        """Header and rows of a table: a metric per row, the model beside its baselines."""
        header = ["", self.model, "95 % interval", *(name.replace("_", " ") for name in self.baselines)]
        rows = []
        for name, figure in self.metrics.items():
            others = [_shown(found.get(name, {}).get("value")) for found in self.baselines.values()]
            ends = [_shown(figure[end]) for end in ("low", "high")]
            between = "" if "–" in ends else f"{ends[0]} to {ends[1]}"
            rows.append([name.replace("_", " "), _shown(figure["value"]), between, *others])
        return header, rows

    def table(self) -> str:
        """The table as plain text.

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
        """What a reader must know beside the figures."""
        lines = [f"{self.rows:,d} rows ({PLAIN[self.kind]}), resampled by {self.groups:,d} pictures or concepts"]
        if self.left_out:
            first = ", ".join(f"row {place}: {why}" for place, why in list(self.left_out.items())[:3])
            lines.append(f"{len(self.left_out):,d} rows were left out: {first}")
        telling = next((name for name in TELLING if name in self.metrics), None)
        if telling is not None:
            for baseline, found in self.differences.items():
                lines += _compared(telling, baseline.replace("_", " "), found.get(telling))
        return lines + list(self.notes)


def keep(results: Results, folder: Path, cases: Sequence[tuple[str, Sequence[Card]]]) -> None:
    """Writes `results.json` and `results.html`, each whole or not at all.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> keep(Results("toy", "label", 9, 9, {}, {}, {}), folder, [])
    >>> json.loads((folder / "results.json").read_text())["rows"]
    9
    """
    write(folder / "results.json", json.dumps(results.as_dict(), indent=1, ensure_ascii=False) + "\n")
    told = [*results.summary(), *(f"{key}: {value}" for key, value in results.about.items())]
    write_page(folder / "results.html", f"{results.model}: what it says", cases, told, table=results.grid())


def cases_of(
    outcome: Outcome,
    measures: Mapping[str, Measure],
    others: Mapping[str, Outcome],
    stream: Callable[[], Iterator[dict]],
    image_shape: Sequence[int],
    seed: int = 0,
) -> list[tuple[str, list[Card]]]:
    """Random, best and worst cases as sections of a page; only their pictures are read again."""
    rows = [number for number, row in enumerate(outcome.rows) if row.expected]
    scores = [(name, measures[name].rows) for name in TELLING if name in measures]
    random = np.random.default_rng(seed)
    mixed = [rows[number] for number in random.permutation(len(rows))]

    def goodness(number: int) -> tuple:
        return tuple(-value[number] if name.endswith(LOWER_IS_BETTER) else value[number] for name, value in scores)

    ranked = sorted(mixed, key=goodness)
    share = min(SHOWN, max(1, len(ranked) // 2))
    parts = {
        "Random cases": mixed[:SHOWN],
        f"Best cases, by {scores[0][0].replace('_', ' ')}": ranked[::-1][:share],
        f"Worst cases, by {scores[0][0].replace('_', ' ')}": ranked[:share],
    }
    wanted = {outcome.rows[number].place for numbers in parts.values() for number in numbers}
    pictures = {place: _frames(example, image_shape) for place, example in enumerate(stream()) if place in wanted}

    def card(number: int) -> Card:
        row = outcome.rows[number]
        lines = [("id", row.id), *([("read", row.read)] if row.read else []), ("said", row.said or "(nothing)")]
        lines += [("expected", " | ".join(row.expected))]
        lines += [(name.replace("_", " "), other.rows[number].said) for name, other in others.items()]
        lines += [(name.replace("_", " "), _shown(value[number])) for name, value in scores[:2]]
        return Card(pictures[row.place], lines)

    return [(name, [card(number) for number in numbers]) for name, numbers in parts.items()]


def _frames(example: Mapping, image_shape: Sequence[int]) -> list:
    """The picture, or a few frames of the clip, as they can be shown."""
    picture = examples.picture(example)
    return media.read_clip(picture, min(4, image_shape[0])) if len(image_shape) == 4 else [picture]


def _compared(name: str, baseline: str, figure: Mapping[str, float] | None) -> list[str]:
    """Whether the model is better, in words; nothing where there is no interval to tell by.

    >>> _compared("word_f1", "nearest neighbour", {"value": -0.1, "low": -0.2, "high": 0.1})
    ['word f1: not clearly different from nearest neighbour (difference -0.100, -0.200 to 0.100)']
    """
    if figure is None or not all(map(math.isfinite, figure.values())):
        return []
    clear = "better than" if figure["low"] > 0 else "worse than" if figure["high"] < 0 else "not clearly different from"
    value, low, high = (_shown(figure[end]) for end in ("value", "low", "high"))
    return [f"{name.replace('_', ' ')}: {clear} {baseline} (difference {value}, {low} to {high})"]


def _shown(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return "–" if value is None or math.isnan(value) else "∞"
    return f"{value:.3f}" if abs(value) < 100 else f"{value:,.1f}"


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    return value if isinstance(value, (int, str, bool, type(None))) else str(value)


SIDE = 224  # most pixels of a thumbnail's side


LONGEST = 2_000  # characters of one text: nobody reads more on a page, and a browser chokes on megabytes


# No script, no font, no picture from elsewhere: the first meta line forbids them, whatever a caption may hold.
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
    """Pictures (several are a clip's frames, or a picture and its overlays) and lines of (label, text) below them."""

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
    """Writes one HTML file: a title, notes, a table `(header, rows)`, and cards in named sections.

    Pictures are whatever `media.read` takes, shown as thumbnails inside the file; one that cannot be read says so.
    Texts are shown as they are, never run: what looks like HTML stays text. A generator of cards is taken one by one,
    so that a page may hold more pictures than memory does. The file appears when it is whole.

    >>> import tempfile
    >>> path = write_page(f"{tempfile.mkdtemp()}/a.html", "<b>", [], table=(["model", "score"], [["ours", 0.5]]))
    >>> "<h1>&lt;b&gt;</h1>" in path.read_text()
    True
    """
    with whole(path) as part, part.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(_page_parts(title, sections, notes, table))
    return Path(path)


def thumbnail(picture: Any) -> str:
    """A picture as an `img` element that holds its own data.

    >>> thumbnail(np.zeros((448, 896, 3), "uint8"))[:23], thumbnail(b"no picture")[:3]
    ('<img width="224" height', '<p ')
    """
    try:
        pixels = media.read(picture)
    except (media.BadPicture, OSError) as error:
        return f'<p class="note">no picture: {_text(error)}</p>'
    image = Image.fromarray(np.rint(pixels).astype("uint8"))
    image.thumbnail((SIDE, SIDE))
    held = io.BytesIO()
    image.save(held, "JPEG", quality=85, subsampling=0)
    data = base64.b64encode(held.getvalue()).decode()
    return f'<img width="{image.width}" height="{image.height}" alt="" src="data:image/jpeg;base64,{data}">'


def _page_parts(title: str, sections: Iterable, notes: Sequence[str], table: Any) -> Iterator[str]:
    yield HEAD.format(title=_text(title))
    yield f"<h1>{_text(title)}</h1>\n"
    for note in notes:
        yield f'<p class="note" dir="auto">{_text(note)}</p>\n'
    if table is not None:
        header, rows = table
        yield f'<div class="wide"><table>\n<tr>{"".join(f"<th>{_text(name)}</th>" for name in header)}</tr>\n'
        for row in rows:
            yield f"<tr>{''.join(f'<td>{_text(cell)}</td>' for cell in row)}</tr>\n"
        yield "</table></div>\n"
    for name, cards in sections:
        yield f'<h2>{_text(name)}</h2>\n<div class="cards">\n'
        for pictures, lines in cards:
            strip = "".join(map(thumbnail, pictures))
            said = "".join(f'<dt>{_text(label)}</dt><dd dir="auto">{_text(words)}</dd>' for label, words in lines)
            yield f'<div class="card"><div class="strip">{strip}</div><dl>{said}</dl></div>\n'
        yield "</div>\n"
    yield "</body>\n</html>\n"


def _text(value: Any) -> str:
    """What stands between tags: escaped, of bounded length, and without characters that no page may hold."""
    words = value if isinstance(value, str) else str(value)
    if len(words) > LONGEST:
        words = f"{words[:LONGEST]} … ({len(words):,d} characters)"
    words = words.encode("utf-8", "replace").decode()  # half a surrogate pair
    return html.escape(re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]", "\ufffd", words))
