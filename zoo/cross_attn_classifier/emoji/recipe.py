"""Trains and releases `cross_attn_classifier/emoji`: python -m zoo.cross_attn_classifier.emoji.recipe"""

import tensorflow as tf

from vtx_keras.data._load import adapted
from recipes import families, release as making


def kinds(split: str) -> tf.data.Dataset:
    """Pictures, their keywords, and the group and sub-group of Unicode; of the training rows a third has no keywords,
    a third no picture."""
    name, part = families.split_and_part(split)
    rows = families.emoji(name).encoded.map(
        lambda row: {
            **{key: row[key] for key in ("image", "id", "concept")},
            "text": tf.strings.reduce_join(row["keywords"], separator=" "),
            "label": tf.stack([row["group"], row["subgroup"]]),
        }
    )
    whole = adapted(rows)
    if name == "train":
        for part in ("words", "picture"):
            rows = rows.concatenate(families.without(whole, part).encoded)
        return adapted(rows)
    return families.without(whole, part) if part else whole


RELEASE = making.Release(
    __file__,
    about="Says to which group and sub-group an emoji belongs, by its picture and its keywords, or by either alone.",
    expect="Some sub-groups are a matter of convention (which faces are `face-affection`, which `face-smiling`). "
    "Where nothing is said, no label came above one half.",
    sets=("emoji", "emoji_more"),
    examples=kinds,
    judged={
        "test": "concepts never trained on, four artists",
        "test without words": "the same, by the picture alone",
        "test without picture": "the same, by the keywords alone",
        "vendor without words": "known concepts by an artist never trained on, by the picture alone",
    },
    options={"depth": 2, "multi_label": True, "allow_empty": True},
    epochs=5,
    baselines=("most_frequent",),
)

if __name__ == "__main__":
    making.main(RELEASE)
