"""Write self-contained HTML pages, and sheets, of images and texts. Imports neither Keras nor TensorFlow."""

from __future__ import annotations

import base64
import html
import io
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vtx_keras._files import whole
from vtx_keras.inputs import media

SIDE = 224  # largest width and height of a thumbnail in pixels
TILE, MARGIN, LINE = 128, 8, 18  # least side of a picture on a sheet, space between two, height of a line of text
LONGEST = 2_000  # most characters of a text on a page: megabytes of text stall a browser

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
