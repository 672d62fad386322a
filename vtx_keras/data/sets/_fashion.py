"""Build the data set fashion: studio photographs of products with their title and attributes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import tensorflow_datasets as tfds

from vtx_keras.data import sets
from vtx_keras.data.sets._builder import WORD, Builder

COLUMNS = ("image", "title", "gender", "type", "colour", "usage", "split")


class Fashion(Builder):
    """Photographs of products; the title is `caption`, and in lower case `concept`, by which the splits are."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = sets.SETS["fashion"].by_hand.format(folder="the manual directory")
    FEATURES: ClassVar[dict[str, Any]] = {
        "id": WORD(),
        "image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
        "caption": WORD(),
        "concept": WORD(),
        "gender": WORD(),
        "type": WORD(),
        "colour": WORD(),
        "usage": WORD(),
    }

    def examples(self) -> Iterator[tuple[str, str, dict]]:
        for path, row in self.rows_by_hand("products.csv", "images", COLUMNS):
            labels = {column: row[column] for column in ("gender", "type", "colour", "usage")}
            titles = {"caption": row["title"], "concept": row["title"].lower()}
            yield row["split"], path.stem, {"id": path.stem, "image": str(path), **titles, **labels}
