"""Load a data set as examples `{"image", "caption" | "question" and "answer" | "text" and "label"}`.

An adapter is a function from an example of tfds to one of ours, or to a `tf.data.Dataset` of ours where one image has
many. A set without an adapter needs one line:

    data.load("my_set", "train", columns={"image": "photo", "caption": "title"})
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf
import tensorflow_datasets as tfds

from vtx_keras.data import _files as files
from vtx_keras.data import _tensors as tensors
from vtx_keras.data import sets
from vtx_keras.data._source import Examples, adapted, mapped, named_classes, plainly
from vtx_keras.data.sets import (
    _chest_xray,
    _easy_vqa,
    _emoji,
    _exercises,
    _fashion,
    _flickr8k,
    _flickr8k_dialog,
    _flickr8k_qa,
    _flowers102,
    _posts,
    _shapes,
    _vqa_rad,
    _word_cards,
)
from vtx_keras.models.options import did_you_mean

# Importing them registers their builders with tfds.
BUILDERS = (
    _emoji, _word_cards, _easy_vqa, _shapes, _vqa_rad, _flickr8k, _flickr8k_qa, _flickr8k_dialog, _flowers102,
    _posts, _fashion, _chest_xray, _exercises,
)  # fmt: skip
SAMPLE = Path(__file__).parents[1] / "sample"
SAMPLES = {"sample": "captions.csv", "sample/questions": "questions.csv"}


def load(
    name: str,
    split: str = "train",
    *,
    columns: Mapping[str, str] | Callable[[dict], Any] | None = None,
    where: Callable[[dict], tf.Tensor] | None = None,
    folder: str | os.PathLike | None = None,
) -> Examples:
    """Load a tfds set as `Examples` of `{"image": uint8 (h, w, 3), "caption": ..., ...}`, and build it if necessary.

    `name` may include a config ("emoji/de"); `split` is a tfds split ("train+validation", "test[:10%]"). `columns` maps
    our names to features of the set (`{"text": "keywords", "label": "group"}`; a list of texts is joined, a class
    number becomes its name), or is a function from a tfds example to ours. `where` filters the examples by the set's
    own features, whatever `columns` is: `where=lambda example: example["vendor"] != "openmoji"`.

        data.load("sample")                       # bundled: a few emoji (train, validation) and photos
        data.load("sample/questions")
        data.load("emoji", "test")
        data.load("coco_captions", "val")
    """
    if name in SAMPLES:
        encoded = files.from_csv(SAMPLE / SAMPLES[name], split).encoded
        return adapted(encoded, columns, where)
    try:
        builder = tfds.builder(name, data_dir=str(sets.data_dir(folder)))
    except tfds.core.DatasetNotFoundError as error:
        names = [*SAMPLES, *sets.SETS, *ADAPTERS]
        raise ValueError(
            f"there is no data set {name!r}{did_you_mean(name, names)}: expected sample, {', '.join(sets.SETS)}, or "
            f"any set of tfds ({', '.join(ADAPTERS)} need no columns=)"
        ) from error
    with contextlib.redirect_stdout(sys.stderr):  # standard output is for results, such as JSON
        builder.download_and_prepare()
    features = builder.info.features
    image_keys = [key for key, feature in features.items() if isinstance(feature, tfds.features.Image)]
    # Images stay encoded, since `batches` may need only a part of one. If there are no files, this is tfds'
    # `mock_data`, which only makes pixels.
    decoders = dict.fromkeys(image_keys, tfds.decode.SkipDecoding()) if os.path.exists(builder.data_dir) else None
    return adapted(
        mapped(builder.as_dataset(split=split, decoders=decoders), named_classes(features)),
        columns if columns is not None else ADAPTERS.get(builder.name),
        where,
    )


def sample(name: str) -> Path:
    """Return the path of a file in the bundled sample.

    >>> sample("photos/cat.jpg").is_file()
    True
    """
    path = SAMPLE / name
    if not path.is_file():
        raise FileNotFoundError(f"the sample has no {name}: it has emoji/ and photos/, listed in captions.csv")
    return path


def has_splits(name: str | os.PathLike, columns: str | None = None) -> bool:
    """Return whether a data set (see `named`) has splits: a column in a CSV, folders in a folder.

    >>> has_splits("sample")
    True
    """
    path = Path(name)
    if is_catalogued(name):
        return True
    if path.is_dir() and (path / "captions.csv").is_file():
        path = path / "captions.csv"
    if path.is_dir():
        return any(one.name.lower() in files.SPLITS for one in path.iterdir() if one.is_dir())
    if not path.name.lower().endswith((".csv", ".tsv")) or not path.is_file():
        return True
    with path.open(newline="", encoding="utf-8-sig", errors="replace") as lines:
        header = files.header_of(lines, path, columns)
        return "split" in [cell.strip().lower() for cell in header]


def held_out(name: str | os.PathLike) -> str:
    """Return the default split for evaluation: "test", or "validation" for the samples, which have no test split.

    >>> held_out("emoji"), held_out("sample")
    ('test', 'validation')
    """
    return "validation" if str(name) in SAMPLES else "test"


def named(
    name: str | os.PathLike,
    split: str | None = None,
    folder: str | os.PathLike | None = None,
    columns: str | None = None,
    allow_outside: bool = False,
) -> Examples:
    """Load a data set as named on the command line: a CSV, a folder of images, or a name for `load`.

    Write `./emoji` for a folder with the name of a data set. `columns`, such as "image=photo,caption=title", maps our
    names to columns of the data. A table or folder names no picture outside its folder unless `allow_outside`.

    >>> "caption" in named("sample", "train").fields
    True
    """
    if str(name).lower().endswith((".csv", ".tsv")):
        return files.from_csv(name, split, columns=files.pairs(columns), allow_outside=allow_outside)
    if Path(name).is_dir() and not is_catalogued(name):
        return files.from_folder(name, split, columns=files.pairs(columns), allow_outside=allow_outside)
    return load(str(name), split or "train", folder=folder, columns=files.pairs(columns) or None)


def is_catalogued(name: str | os.PathLike) -> bool:
    """Return whether `load` reads this name without `columns`."""
    return str(name) in (*SAMPLES, *ADAPTERS) or str(name).split("/")[0] in sets.SETS


def coco_captions(example: dict) -> dict:
    """COCO: a photograph and five captions."""
    return {"id": example["image/filename"], "image": example["image"], "captions": example["captions"]["text"]}


def ai2dcaption(example: dict) -> dict:
    """AI2D-Caption: a diagram and its caption."""
    return {"id": example["image_filename"], "image": example["image"], "caption": example["caption"]}


def webvid(example: dict) -> dict:
    """WebVid: a clip and its caption."""
    return {"id": example["id"], "image": example["video"], "caption": example["caption"]}


def covr(example: dict) -> dict:
    """COVR: a question about several pictures, which a video model takes as frames."""
    return {"image": example["images"], "question": example["utterance"], "answer": example["label"]}


def clevr(example: dict) -> tf.data.Dataset:
    """CLEVR: one example for each question about the scene."""
    pairs = example["question_answer"]
    rows = tf.data.Dataset.zip(*(tf.data.Dataset.from_tensor_slices(pairs[key]) for key in ("question", "answer")))
    common = {"id": example["file_name"], "image": example["image"]}
    return rows.map(lambda question, answer: {**common, "question": question, "answer": answer})


def ref_coco(example: dict) -> tf.data.Dataset:
    """RefCOCO: one example for each object that people referred to: its crop and their expressions."""
    image, objects = example["image"], example["objects"]
    image = tensors.read(image) if image.dtype == tf.string else image
    boxes = tf.data.Dataset.from_tensor_slices(objects["bbox"])
    expressions = tf.data.Dataset.from_tensor_slices(objects["refexp"]["raw"])

    def crop(box: tf.Tensor, captions: tf.Tensor) -> dict:
        sides = tf.shape(image)[:2]
        corners = tf.cast(tf.round(tf.reshape(box, (2, 2)) * tf.cast(sides, tf.float32)), tf.int32)
        top_left = tf.clip_by_value(corners[0], 0, sides - 1)
        bottom_right = tf.clip_by_value(corners[1], top_left + 1, sides)
        return {"image": image[top_left[0] : bottom_right[0], top_left[1] : bottom_right[1]], "captions": captions}

    return tf.data.Dataset.zip(boxes, expressions).map(crop)


ADAPTERS = {
    adapter.__name__: plainly(adapter) for adapter in (coco_captions, ref_coco, clevr, covr, ai2dcaption, webvid)
}


def judges(name: str) -> dict[str, Callable[[Any], list[str]]]:
    """Return functions that read labels off pictures like a data set's, by field, where a rule can; none otherwise.

    >>> judges("flickr8k"), sorted(judges("shapes"))
    ({}, ['colour', 'shape', 'size'])
    """
    if name != "shapes":
        return {}

    def part(place: int) -> Callable[[Any], list[str]]:
        return lambda pictures: [(_shapes.described(one) or ("", "", ""))[place] for one in pictures]

    return {field: part(place) for place, field in enumerate(("size", "colour", "shape"))}
