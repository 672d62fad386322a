"""Pages of results: self-contained files that show texts and run nothing."""

from __future__ import annotations

import base64
import io
import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from vtx_keras.evaluate import _pages as pages
from vtx_keras.evaluate._pages import Card

NASTY = ["<script>alert(1)</script>", "</dd></div>", "\"'&amp;", "a\x00b\x1bc", "\ud800", "עברית", "👩‍🚀", "x" * 5000]


class Seen(HTMLParser):
    """Elements, and the text between them."""

    def __init__(self):
        super().__init__()
        self.tags, self.open, self.texts, self.images = [], [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag == "img":
            self.images.append(dict(attributes))
        elif tag not in ("meta", "p"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag != "p":
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def parsed(path):
    seen = Seen()
    seen.feed(path.read_text(encoding="utf-8"))
    assert not seen.open
    return seen


def test_texts_are_shown_and_never_run(tmp_path):
    cards = [Card([], [(words, words)]) for words in NASTY]
    seen = parsed(
        pages.write_page(tmp_path / "a.html", NASTY[0], [(NASTY[1], cards)], notes=NASTY, table=(NASTY, [NASTY, NASTY]))
    )
    ours = "html head meta title style body h1 h2 p div dl dt dd table tr th td"
    assert set(seen.tags) == set(ours.split(" "))
    assert seen.texts.count(NASTY[0]) == 2 + 1 + 3 + 2  # title, heading, note, three table rows, label and text
    assert "a�b�c" in seen.texts
    assert any("5,000 characters" in words for words in seen.texts)


def test_pictures_are_inside_and_small(tmp_path):
    red = np.zeros((900, 300, 3), "uint8") + np.array([255, 0, 0], "uint8")
    clear = Image.new("RGBA", (4, 8), (0, 0, 0, 0))
    seen = parsed(pages.write_page(tmp_path / "a.html", "t", [("s", [Card([red, clear, b"<html>"], [("a", "b")])])]))
    big, small = seen.images
    assert (big["width"], big["height"]) == ("75", "224")
    shown = [Image.open(io.BytesIO(base64.b64decode(image["src"].partition(",")[2]))) for image in (big, small)]
    assert [image.size for image in shown] == [(75, 224), (4, 8)]
    np.testing.assert_allclose(shown[0].getpixel((9, 9)), (255, 0, 0), atol=3)
    assert shown[1].getpixel((0, 0)) == (255, 255, 255)  # transparency is composited on white, as in every model
    assert any(words.startswith("no picture: bytes: ") for words in seen.texts)


def test_nothing_is_fetched(tmp_path):
    page = pages.write_page(tmp_path / "a.html", "t", [("s", [Card([np.zeros((2, 2, 3), "uint8")], [])])]).read_text()
    assert not re.search(r"https?:|//|<script|@import|url\(", re.sub(r'src="data:[^"]*"', "", page))
    assert "default-src 'none'" in page


def test_a_page_appears_whole_or_not_at_all(tmp_path):
    path = pages.write_page(tmp_path / "new" / "a.html", "first", [])

    def failing():
        yield Card([], [("a", "b")])
        raise RuntimeError("the model is gone")

    with pytest.raises(RuntimeError):
        pages.write_page(path, "second", [("s", failing())])
    assert "first" in path.read_text()
    assert [file.name for file in path.parent.iterdir()] == ["a.html"]


def test_pages_load_neither_keras_nor_tensorflow():
    script = "import sys, vtx_keras.evaluate._pages; assert not {'keras', 'tensorflow', 'jax'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)
