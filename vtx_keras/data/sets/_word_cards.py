"""Build the data set word_cards: drawings of words, split by concept as in the emoji sets."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import tensorflow_datasets as tfds

from vtx_keras._files import read_archive
from vtx_keras.data import sets
from vtx_keras.data.sets import concepts
from vtx_keras.data.sets._builder import WORD, Builder
from vtx_keras.inputs import media

GROUPS = (
    "actions", "animals", "body", "clothes_n_accessories", "construction", "food", "fruit_n_veg", "jobs", "nature",
    "people", "sport", "transport",
)  # fmt: skip


class WordCards(Builder):
    """Drawings of words."""

    FEATURES: ClassVar[dict[str, Any]] = {
        "id": WORD(),
        "image": tfds.features.Image(shape=(200, 200, 3), encoding_format="png"),
        "caption": WORD(),
        "concept": WORD(),
        "group": tfds.features.ClassLabel(names=list(GROUPS)),
        "attribution": WORD(),
    }

    def examples(self) -> Iterator[tuple[str, str, dict]]:
        cards = dict(read_archive(self.archive(sets.ART4APPS), "*/art4apps/*/*.jpg"))
        splits_of: dict[bytes, set[str]] = defaultdict(set)
        for name, data in cards.items():
            splits_of[data].add(concepts.split_of(Path(name).stem.replace("_", " ")))
        for name, data in cards.items():
            group, word = Path(name).parts[-2], Path(name).stem.replace("_", " ")
            split = concepts.split_of(word)
            # A word that shares its drawing with a word of a held-out split is left out.
            if split != next(name for name in ("test", "validation", "train") if name in splits_of[data]):
                continue
            example = {"image": media.read(data), "caption": word, "concept": concepts.concept(word), "group": group}
            example_id = f"card-{Path(name).stem}"
            yield split, example_id, {"id": example_id, **example, "attribution": sets.describe("word_cards").licence}
