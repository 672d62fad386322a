"""Build the data set posts: what people wrote beside a picture on a social network, with its sentiment."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any, ClassVar

import tensorflow_datasets as tfds

from vtx_keras.data import sets
from vtx_keras.data.sets._builder import WORD, Builder

COLUMNS = ("image", "text", "sentiment", "split")


class Posts(Builder):
    """Posts of a social network; posts with the same picture file share an `image_id`."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = sets.SETS["posts"].by_hand.format(folder="the manual directory")
    FEATURES: ClassVar[dict[str, Any]] = {
        "id": WORD(),
        "image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
        "image_id": WORD(),
        "text": WORD(),
        "label": WORD(),
    }

    def examples(self) -> Iterator[tuple[str, str, dict]]:
        for path, row in self.rows_by_hand("posts.csv", "images", COLUMNS):
            example = {
                "id": path.stem,
                "image": str(path),
                "image_id": hashlib.sha256(path.read_bytes()).hexdigest()[:16],
                "text": row["text"],
                "label": row["sentiment"],
            }
            yield row["split"], path.stem, example
