"""Build the data set vqa_rad: clinicians' questions about radiology images, split as published or by image."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import tensorflow_datasets as tfds

from vtx_keras._files import BadArchive
from vtx_keras.data import sets
from vtx_keras.data.sets import concepts
from vtx_keras.data.sets._builder import WORD, Builder

HASHES = {
    "trainset.json": "3b0567673ae224b6489ca1bc4ce05cda642223d5cf4f17db8fbf7010c872e00f",
    "testset.json": "3d32a047592cb680e18054030b38b1a44d6b17105fc62d3088c8655d56a00ced",
    "images": "a572bdf60c61ad4eb09e0d89c12a989a711596c1b00a534f0eae6619f79b852c",  # of all files together, by name
}


class VqaRad(Builder):
    """Radiology images with clinicians' questions."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = sets.SETS["vqa_rad"].by_hand.format(folder="the manual directory")
    BUILDER_CONFIGS: ClassVar[list] = [
        tfds.core.BuilderConfig(name="official", description="The published split; validation carved out of train."),
        tfds.core.BuilderConfig(name="disjoint", description="No image occurs in two splits."),
    ]
    FEATURES: ClassVar[dict[str, Any]] = {
        "id": WORD(),
        "image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
        "image_id": WORD(),
        "question": WORD(),
        "answer": WORD(),
        "answer_type": tfds.features.ClassLabel(names=["open", "closed"]),
        "question_type": WORD(),
        "organ": WORD(),
        "phrase_type": WORD(),
    }

    def examples(self) -> Iterator[tuple[str, str, dict]]:
        folder = self.folder / "vqa_rad"
        _check_files(folder)
        for part in ("train", "test"):
            for row, entry in enumerate(json.loads((folder / f"{part}set.json").read_text(encoding="utf-8"))):
                image_id, example_id = Path(entry["image_name"]).stem, f"{part}-{row}"
                place = concepts.fraction(f"vqa_rad {image_id}")
                if self.builder_config.name == "disjoint":
                    split = "train" if place < 0.7 else "validation" if place < 0.8 else "test"
                else:
                    split = "validation" if part == "train" and place < 0.1 else part
                yield (
                    split,
                    example_id,
                    {
                        "id": example_id,
                        "image": str(folder / "images" / entry["image_name"]),
                        "image_id": image_id,
                        "question": _one_line(entry["question"]),
                        "answer": _one_line(entry["answer"]).lower(),  # some are numbers; "Yes" and "yes" both occur
                        "answer_type": entry["answer_type"].strip().lower(),  # some end in a space
                        "question_type": entry["question_type"],
                        "organ": entry["image_organ"],
                        "phrase_type": entry["phrase_type"],
                    },
                )


def _check_files(folder: Path) -> None:
    """Raise `BadArchive` if a file is missing or differs from the release."""
    images = sorted((folder / "images").glob("*.jpg"))
    missing = [name for name in HASHES if not (folder / name).exists()]
    if missing:
        advice = sets.SETS["vqa_rad"].by_hand.format(folder=folder.parent)
        raise BadArchive(f"{folder} has no {', '.join(missing)}: {advice}")
    hashes = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in HASHES if name != "images"}
    hashes["images"] = hashlib.sha256(b"".join(path.read_bytes() for path in images)).hexdigest()
    changed = [name for name, sha256 in HASHES.items() if hashes[name] != sha256]
    if changed:
        raise BadArchive(
            f"{', '.join(changed)} in {folder}: not as released (315 images, 3,064 and 451 questions). Fetch it again"
        )


def _one_line(value: Any) -> str:
    return " ".join(str(value).split())
