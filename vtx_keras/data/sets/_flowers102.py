"""Build the data set flowers102: photographs of 102 kinds of flowers with a caption and the kind's name."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import tensorflow_datasets as tfds

from vtx_keras._files import BadArchive
from vtx_keras.data import sets
from vtx_keras.data.sets._builder import WORD, Builder

COLUMNS = ("image", "caption", "name", "class", "split")


class Flowers102(Builder):
    """Photographs of flowers (Nilsback and Zisserman, 2008), each with a caption."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = sets.SETS["flowers102"].by_hand.format(folder="the manual directory")
    FEATURES: ClassVar[dict[str, Any]] = {
        "id": WORD(),
        "image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
        "caption": WORD(),
        "name": WORD(),
        "class": WORD(),
    }

    def examples(self) -> Iterator[tuple[str, str, dict]]:
        folder = self.folder / "flowers102"
        table, advice = folder / "captions.csv", sets.SETS["flowers102"].by_hand.format(folder=self.folder)
        if not table.is_file() or not (folder / "jpg").is_dir():
            raise BadArchive(f"{folder} has no captions.csv or no folder jpg: {advice}")
        with table.open(newline="", encoding="utf-8") as lines:
            rows = csv.DictReader(lines)
            missing = set(COLUMNS) - set(rows.fieldnames or ())
            if missing:
                raise BadArchive(f"{table} lacks columns: expected also {', '.join(sorted(missing))}: {advice}")
            for row in rows:
                example_id = Path(row["image"]).stem
                yield (
                    row["split"],
                    example_id,
                    {
                        "id": example_id,
                        "image": str(folder / "jpg" / row["image"]),
                        "caption": row["caption"],
                        "name": row["name"],
                        "class": row["class"],
                    },
                )
