"""Trains and releases `retriever/emoji`: python -m zoo.retriever.emoji.recipe

Its words have MiniLM's meanings: `python -m vtx_keras.weights convert minilm_l6` once, before.
"""

import json
from pathlib import Path

import tensorflow as tf

from vtx_keras import data, meanings
from vtx_keras.data._load import adapted
from recipes import families, release as making

KEYWORDS = 3  # of an emoji's, as one text
BASELINES = Path(__file__).parents[3] / "benchmarks" / "results" / "baselines.json"


def pairs(split: str) -> tf.data.Dataset:
    """Emoji and names; of "test, one name each" those that bear the shortest name of their concept.

    To train on, every emoji has a second row, with keywords for its name: they tell more words than names have.
    """
    part, _, chosen = split.partition(", ")
    if part == "train":
        return families.joined(families.emoji_names(part), adapted(families.emoji(part).encoded.map(by_keywords)))
    if not chosen:
        return families.emoji_names(part)
    rows = data.load("emoji", part).encoded
    shortest: dict[bytes, bytes] = {}
    for row in rows.as_numpy_iterator():
        name, known = row["caption"], shortest.get(row["concept"], row["caption"])
        shortest[row["concept"]] = min(name, known, key=lambda one: (len(one.decode()), one))
    pool = tf.constant(sorted(shortest.values()))
    return adapted(rows.filter(lambda row: tf.reduce_any(row["caption"] == pool)))


def by_keywords(row: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """The row with some of its keywords for a caption, always the same."""
    seed = tf.stack([tf.strings.to_hash_bucket_fast(row["id"], 2**31), 0])
    order = tf.argsort(tf.random.stateless_uniform((tf.size(row["keywords"]),), seed))
    some = tf.strings.reduce_join(tf.gather(row["keywords"], order[:KEYWORDS]), separator=" ")
    return {**row, "caption": tf.where(tf.size(row["keywords"]) > 0, some, row["caption"])}


def ridge(split: str) -> str:
    """What ridge regression to MiniLM finds among the same names, with pictures as the questions."""
    if not BASELINES.is_file():  # in a wheel
        return ""
    rows = json.loads(BASELINES.read_text(encoding="utf-8"))["rows"]
    found = next(row for row in rows if row["what"].startswith(f"emoji {split}: ridge"))
    return f"; ridge regression from EfficientNet-Lite0 to MiniLM finds {found['recall@1'][0]}, {found['recall@5'][0]}"


RELEASE = making.Release(
    __file__,
    about="Finds the picture of a name and the name of a picture, among emoji and drawings: two towers. Its words have "
    "the meanings that MiniLM gives them (the main directions of its vectors, frozen), so it also finds what it never "
    "saw by what is like it.",
    expect="What it was trained on it finds well; of what it never saw, rather the kind of thing than the thing. "
    "Photographs are not what it was trained on.",
    sets=("emoji", "emoji_more", "word_cards"),
    examples=pairs,
    judged={
        "vendor": families.EMOJI_SPLITS["vendor"],
        "vendor, one name each": f"of these, one name of each concept{ridge('vendor')}",
        "test": families.EMOJI_SPLITS["test"],
        "test, one name each": f"of these, one name of each concept{ridge('test')}",
    },
    eval_data="emoji",
    options={"text_depth": 2},
    vocabulary_size=None,
    prepared=meanings.give,
    copies=2,
    epochs=6,
    batch_size=256,
    shown="vendor",
)

if __name__ == "__main__":
    making.main(RELEASE)
