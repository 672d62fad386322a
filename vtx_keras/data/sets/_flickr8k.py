"""Build the data set flickr8k: photographs with five captions each, from any of the layouts in circulation."""

from __future__ import annotations

import csv
import json
import warnings
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import tensorflow_datasets as tfds

from vtx_keras._files import BadArchive
from vtx_keras.data import sets
from vtx_keras.data.sets import concepts
from vtx_keras.data.sets._builder import WORD, Builder

IMAGES = ("Flicker8k_Dataset", "Flickr8k_Dataset", "Images", "images")  # the first is how the archive spells it
LISTS = {"train": "train", "dev": "validation", "test": "test"}
KARPATHY = {"train": "train", "val": "validation", "test": "test"}


class Flickr8k(Builder):
    """Photographs of people and animals, five captions each (Hodosh, Young, Hockenmaier, 2013)."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = sets.SETS["flickr8k"].by_hand.format(folder="the manual directory")
    FEATURES: ClassVar[dict[str, Any]] = {
        "id": WORD(),
        "image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
        "image_id": WORD(),
        "captions": tfds.features.Sequence(WORD()),
    }

    def examples(self) -> Iterator[tuple[str, str, dict]]:
        folder = self.folder / "flickr8k"
        images, captions, splits = image_folder(folder), captions_of(folder), splits_of(folder)
        for name in sorted(captions):
            split = splits.get(name) if splits else split_by_name(name)
            if split is None:  # the published lists leave out 91
                continue
            path = images / name
            if not path.is_file():
                raise BadArchive(f"{path} is missing, and it has captions: copy the images again")
            image_id = Path(name).stem
            yield (
                split,
                image_id,
                {
                    "id": image_id,
                    "image": str(path),
                    "image_id": image_id,
                    "captions": captions[name],
                },
            )


def image_folder(folder: Path) -> Path:
    """Return the folder of images, whose name depends on the source of the copy."""
    for name in IMAGES:
        if (folder / name).is_dir():
            return folder / name
    advice = sets.SETS["flickr8k"].by_hand.format(folder=folder.parent)
    raise BadArchive(f"{folder} has none of the folders {', '.join(IMAGES)}: {advice}")


def captions_of(folder: Path) -> dict[str, list[str]]:
    """Return the captions of each image by file name, from the files of the authors, of Karpathy or of Kaggle."""
    found: dict[str, list[str]] = defaultdict(list)
    tokens, kaggle, karpathy = _file(folder, "Flickr8k.token.txt"), folder / "captions.txt", _karpathy(folder)
    if tokens:
        for line in tokens.read_text(encoding="utf-8").splitlines():
            name, tab, caption = line.partition("\t")
            if tab:
                found[name.rpartition("#")[0]].append(caption.strip())
    elif karpathy:
        for row in karpathy:
            found[row["filename"]] += [sentence["raw"].strip() for sentence in row["sentences"]]
    elif kaggle.is_file():
        with kaggle.open(newline="", encoding="utf-8") as lines:
            for row in csv.DictReader(lines):
                found[row["image"]].append(row["caption"].strip())
    else:
        advice = sets.SETS["flickr8k"].by_hand.format(folder=folder.parent)
        raise BadArchive(
            f"{folder} has no captions (Flickr8k.token.txt, dataset_flickr8k.json, captions.txt): {advice}"
        )
    return {
        name: texts for name, texts in found.items() if name.endswith(".jpg")
    }  # a line of the authors' file names no image


def splits_of(folder: Path) -> dict[str, str]:
    """Return the official split of each image by file name, or nothing if no list is there."""
    found: dict[str, str] = {}
    for part, split in LISTS.items():
        path = _file(folder, f"Flickr_8k.{part}Images.txt")
        if path:
            found |= dict.fromkeys(path.read_text(encoding="utf-8").split(), split)
    if found:
        return found
    found = {row["filename"]: KARPATHY[row["split"]] for row in _karpathy(folder)}
    if not found:
        warnings.warn(
            f"{folder} has neither Flickr_8k.*Images.txt nor dataset_flickr8k.json: images are split by a hash of the "
            "name, and figures on these splits are not comparable with published ones",
            stacklevel=2,
        )
    return found


def split_by_name(name: str) -> str:
    """Return a split by a hash of the name: three quarters train, an eighth each validation and test.

    >>> split_by_name("1000268201_693b08cb0e.jpg") in ("train", "validation", "test")
    True
    """
    place = concepts.fraction(f"flickr8k {name}")
    return "train" if place < 0.75 else "validation" if place < 0.875 else "test"


def _file(folder: Path, name: str) -> Path | None:
    """Return a text file of the authors, from their folder or beside the images, if it is there."""
    return next((path for path in (folder / "Flickr8k_text" / name, folder / name) if path.is_file()), None)


def _karpathy(folder: Path) -> list[dict]:
    path = folder / "dataset_flickr8k.json"
    return json.loads(path.read_text(encoding="utf-8"))["images"] if path.is_file() else []
