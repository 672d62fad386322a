"""Build the data set flowers102: photographs of 102 kinds of flowers with a caption and the kind's name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import tensorflow_datasets as tfds

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
        for path, row in self.rows_by_hand("captions.csv", "jpg", COLUMNS):
            labels = {column: row[column] for column in ("caption", "name", "class")}
            yield row["split"], path.stem, {"id": path.stem, "image": str(path), **labels}
