"""Pairs of emoji and names for the retriever, and how the matcher ranks what the retriever returns."""

from __future__ import annotations

import json
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from recipes.families.drawings import emoji, emoji_names
from recipes.families.examples import concatenate
from recipes.release import Table
from vtx_keras import data, media, zoo

KEYWORDS = 3  # of an emoji's, as one text
CANDIDATES = 10  # names that the matcher ranks after the retriever
BASELINES = Path(__file__).parents[2] / "benchmarks" / "results" / "baselines.json"


def pairs(split: str) -> data.Examples:
    """Load emoji and names; "test, one name each" has only those with the shortest name of their concept.

    In the training split every emoji has a second row with keywords as its name, which have more words than names do.
    """
    part, _, chosen = split.partition(", ")
    if part == "train":
        return concatenate(emoji_names(part), data.Examples(emoji(part).encoded.map(named_by_keywords)))
    if not chosen:
        return emoji_names(part)
    rows = data.load("emoji", part).encoded
    shortest: dict[bytes, bytes] = {}
    for row in rows.as_numpy_iterator():
        name, other = row["caption"], shortest.get(row["concept"], row["caption"])
        shortest[row["concept"]] = min(name, other, key=lambda name: (len(name.decode()), name))
    pool = tf.constant(sorted(shortest.values()))
    return data.Examples(rows.filter(lambda row: tf.reduce_any(row["caption"] == pool)))


def named_by_keywords(row: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """Replace the caption by some of the keywords, the same ones each time."""
    seed = tf.stack([tf.strings.to_hash_bucket_fast(row["id"], 2**31), 0])
    order = tf.argsort(tf.random.stateless_uniform((tf.size(row["keywords"]),), seed))
    words = tf.strings.reduce_join(tf.gather(row["keywords"], order[:KEYWORDS]), separator=" ")
    return {**row, "caption": tf.where(tf.size(row["keywords"]) > 0, words, row["caption"])}


def one_name_each(split: str) -> str:
    """Describe a split of one name per concept, with the recall of a baseline that was measured on it."""
    description = "those with one name per concept"
    if not BASELINES.is_file():  # in a wheel
        return description
    rows = json.loads(BASELINES.read_text(encoding="utf-8"))["rows"]
    ridge = next(row for row in rows if row["what"].startswith(f"emoji {split}: ridge"))
    figures = f"recall 1 {ridge['recall@1'][0]}, recall 5 {ridge['recall@5'][0]}"
    return f"{description}; ridge regression from EfficientNet-Lite0 to MiniLM has {figures}"


def reranked(matcher: keras.Model) -> Table:
    """Measure recall among all names of a split: by the retriever alone, and with its best ranked by the matcher."""
    retriever, rows = zoo.build("retriever", weights="emoji"), []
    for split in ("vendor, one name each", "test, one name each"):
        examples = list(pairs(split).encoded.as_numpy_iterator())
        pictures = [media.read(row["image"]) for row in examples]
        right = np.array([row["caption"].decode() for row in examples])
        names = np.array(sorted(set(right)))
        best = np.argsort(-retriever.similarity(pictures, list(names)), axis=1)[:, :CANDIDATES]
        repeated = [picture for picture in pictures for _ in range(CANDIDATES)]
        scores = matcher.match(repeated, list(names[best].ravel()), batch_size=256)
        order = np.argsort(-np.reshape(scores, best.shape), axis=1, kind="stable")
        for ranking, ranked in (
            ("retriever", best),
            ("retriever, then matcher", np.take_along_axis(best, order, axis=1)),
        ):
            hits = [float(np.mean((names[ranked[:, :most]] == right[:, None]).any(axis=1))) for most in (1, 5)]
            counts = f"{len(examples):,d} of {len(names):,d}"
            rows.append([split, counts, ranking, *(f"{hit:.3f}" for hit in hits)])
    about = (
        f"Recall of a picture's name among all names of a split: the retriever's {CANDIDATES} best in its own order, "
        "and in the matcher's."
    )
    header = ["split", "pictures, names", "ranked by", "recall 1", "recall 5"]
    return Table("Reranking the retriever's results", about, header, rows)
