"""Build the data set easy_vqa: questions about one coloured shape, with validation split off by image."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, ClassVar

import tensorflow_datasets as tfds

from vtx_keras._files import read_archive
from vtx_keras.data import sets
from vtx_keras.data.sets import concepts
from vtx_keras.data.sets._builder import WORD, Builder
from vtx_keras.inputs import media


class EasyVqa(Builder):
    """Questions about one coloured shape."""

    FEATURES: ClassVar[dict[str, Any]] = {
        "id": WORD(),
        "image": tfds.features.Image(shape=(64, 64, 3), encoding_format="png"),
        "image_id": WORD(),
        "question": WORD(),
        "answer": tfds.features.ClassLabel(
            names=["circle", "green", "red", "gray", "yes", "teal", "black", "rectangle", "yellow", "triangle",
                   "brown", "blue", "no"]
        ),
    }  # fmt: skip

    def examples(self) -> Iterator[tuple[str, str, dict]]:
        files = dict(read_archive(self.archive(sets.EASY_VQA), "easy_vqa/data/*/*"))
        for part in ("train", "test"):
            for row, (question, answer, number) in enumerate(json.loads(files[f"easy_vqa/data/{part}/questions.json"])):
                image_id, example_id = f"{part}-{number}", f"{part}-{row}"
                split = "validation" if part == "train" and concepts.fraction(image_id) < 0.1 else part
                image = media.read(files[f"easy_vqa/data/{part}/images/{number}.png"])
                example = {"image": image, "image_id": image_id, "question": question, "answer": answer}
                yield split, example_id, {"id": example_id, **example}
