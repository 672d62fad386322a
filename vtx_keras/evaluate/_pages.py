"""A page of pictures and what was said about them: one HTML file that needs nothing else, for mail, a disk or a phone.

>>> import tempfile
>>> card = Card([np.zeros((8, 8, 3), "uint8")], [("predicted", "a black square"), ("reference", "night")])
>>> write(f"{tempfile.mkdtemp()}/page.html", "Two words", [("All", [card])]).name
'page.html'
"""

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
from PIL import Image

from vtx_keras._files import whole
from vtx_keras.inputs import media

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


def write(
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
    >>> path = write(f"{tempfile.mkdtemp()}/a.html", "<b>", [], table=(["model", "score"], [["ours", 0.5]]))
    >>> "<h1>&lt;b&gt;</h1>" in path.read_text()
    True
    """
    with whole(path) as part, part.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(_parts(title, sections, notes, table))
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


def _parts(title: str, sections: Iterable, notes: Sequence[str], table: Any) -> Iterator[str]:
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
