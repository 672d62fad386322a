"""Held-out pictures with what the model says of them and what people said, as a page."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from vtx_keras import explain, media, pages
from vtx_keras.explain.methods import looking_blocks
from vtx_keras.metrics.examples import picture
from vtx_keras.metrics.outcomes import said_of
from vtx_keras.models import Captioner, VisionText


def shower(model: VisionText, examples: Any, count: int) -> Callable[[Path], None]:
    """A function that writes the page for the model as it is then: the same few examples each time."""
    chosen = getattr(examples, "encoded", examples).shuffle(1_000, seed=0).take(count)
    rows = list(chosen.as_numpy_iterator())

    def show(path: Path) -> None:
        outcome = said_of(model, rows)
        cards = []
        for row in outcome.rows[: len(rows)]:
            lines = [("asked", row.read), ("predicted", row.said), ("expected", " | ".join(row.expected))]
            pictures = _pictures(model, picture(rows[row.place]), row.read, row.said)
            cards.append(pages.Card(pictures, [(label, line) for label, line in lines if line]))
        left_out = [f"row {place} is left out: {why}" for place, why in outcome.left_out.items()]
        pages.write(path, f"{model.spec['name']}: held-out samples", [("Validation", cards)], left_out)

    return show


def _pictures(model: VisionText, shown: Any, read: str, said: str) -> list[np.ndarray]:
    """The picture (of a clip, four frames); beside it where the model looked, if its fusion has attention."""
    if len(model.image_shape) == 4:
        frames = media.read_clip(shown, 4)
        return list(frames)
    text = said if isinstance(model, Captioner) else read
    if not text or not looking_blocks(model):
        return [media.read(shown)]
    seen = explain.attention(model, shown, text)
    return [seen.picture, explain.overlay(seen.picture, seen.heat())] if seen.words else [seen.picture]
