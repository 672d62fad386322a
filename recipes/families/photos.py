"""What the releases for photographs share: their data, encoder and vocabulary.

The data lie in the manual folder of tfds (docs/data.md): `flickr8k/`, and beside it `coco_sample/` (1,441 photographs
of COCO with a caption each) and `captions.txt.gz` (sentences that people wrote about photographs).
"""

from __future__ import annotations

import csv
import functools
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import tensorflow as tf

from vtx_keras import data, text

ENCODER = {"image_encoder": "efficientnet_lite2", "image_shape": (224, 224, 3), "resize": "stretch"}
COCO_COPIES = 3  # of each photograph of coco_sample in an epoch: one caption each, where Flickr8k has five
LEAST = 8  # a word is seen so often at least; others are unknown


def folder() -> Path:
    """Return the folder that the photographs lie in."""
    return data.sets.archive_dir()


def flickr8k(split: str) -> data.Examples:
    """Return Flickr8k's official split: {"id", "image", "image_id", "captions"}."""
    return data.load("flickr8k", split)


def coco_sample(split: str) -> data.Examples:
    """Return photographs of kitchens, streets, animals and food, in the form of `flickr8k`."""
    with (folder() / "coco_sample" / "captions.csv").open(encoding="utf-8", newline="") as lines:
        rows = [row for row in csv.DictReader(lines) if row["split"] == split]
    form = flickr8k("validation").encoded.element_spec

    def read() -> Iterator[dict]:
        for row in rows:
            image = (folder() / "coco_sample" / "images" / row["image"]).read_bytes()
            yield {"id": row["coco_id"], "image": image, "image_id": row["coco_id"], "captions": [row["caption"]]}

    return data.Examples(tf.data.Dataset.from_generator(read, output_signature=form).apply(_sized(len(rows))))


def _sized(count: int) -> Callable:
    return tf.data.experimental.assert_cardinality(count)


def examples(split: str) -> data.Examples:
    """Return the photographs that a captioner learns from ("train"), or those of Flickr8k."""
    if split != "train":
        return flickr8k(split)
    return flickr8k("train").concatenate(data.Examples(coco_sample("train").encoded.repeat(COCO_COPIES)))


@functools.lru_cache(maxsize=1)
def sentences() -> data.Examples:
    """Return the sentences without pictures, and the captions of the training photographs."""
    return data.sentences([*_lines(), *_captions()])


def vocabulary() -> tuple[str, ...]:
    """Return the words that occur at least LEAST times in the sentences, the most frequent first."""
    counts = Counter(word for line in (*_lines(), *_captions()) for word in text.tokens(line))
    return text.vocabulary([word for word, count in counts.most_common() if count >= LEAST])


def _lines() -> list[str]:
    import gzip

    with gzip.open(folder() / "captions.txt.gz", "rt", encoding="utf-8") as lines:
        return lines.read().split("\n")


@functools.lru_cache(maxsize=1)
def _captions() -> list[str]:
    rows = flickr8k("train").concatenate(coco_sample("train")).encoded.map(lambda row: row["captions"])
    return [caption.decode() for captions in rows.as_numpy_iterator() for caption in captions]
