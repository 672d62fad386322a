"""Held-out pictures with what the model says of them and what people said, as a page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vtx_keras import explain, media, pages
from vtx_keras.explain.methods import looking_blocks
from vtx_keras.metrics.examples import picture
from vtx_keras.metrics.outcomes import Row, said_of
from vtx_keras.models import Captioner
from vtx_keras.vision_text import VisionText


def shower(model: VisionText, examples: Any, count: int) -> Callable[[Path], None]:
    """A function that writes the page for the model as it is then: the same few examples each time."""
    chosen = getattr(examples, "encoded", examples).shuffle(1_000, seed=0).take(count)
    rows = list(chosen.as_numpy_iterator())

    def show(path: Path) -> None:
        outcome = said_of(model, rows)
        told = outcome.rows[: len(rows)]  # of a search, pictures come first
        cards = []
        for row, pictures in zip(told, _pictures(model, [picture(rows[row.place]) for row in told], told), strict=True):
            lines = [("asked", row.read), ("predicted", row.said), ("expected", " | ".join(row.expected))]
            cards.append(pages.Card(pictures, [(label, line) for label, line in lines if line]))
        left_out = [f"row {place} is left out: {why}" for place, why in outcome.left_out.items()]
        pages.write(path, f"{model.spec['name']}: held-out samples", [("Validation", cards)], left_out)

    return show


def _pictures(model: VisionText, shown: Sequence[Any], told: Sequence[Row]) -> list[list[np.ndarray]]:
    """The pictures (of a clip, four frames); beside each where the model looked, if its fusion has attention."""
    if len(model.image_shape) == 4:
        return [list(media.read_clip(clip, 4)) for clip in shown]
    found = [[media.read(one)] for one in shown]
    texts = [row.said if isinstance(model, Captioner) else row.read for row in told]
    worded = [place for place, text in enumerate(texts) if text] if looking_blocks(model) else []
    if worded:  # all at once, for one by one takes several times as long
        seen = explain.attention(model, [shown[place] for place in worded], [texts[place] for place in worded])
        for place, one in zip(worded, seen, strict=True):
            if one.words:
                found[place].append(explain.overlay(one.picture, one.heat()))
    return found
