"""Trains and releases `cross_attn_classifier/emoji`: python -m zoo.cross_attn_classifier.emoji.recipe"""

from recipes.families import drawings
from recipes.release import Release
from recipes.steps import main

RELEASE = Release(
    __file__,
    about="Predicts the Unicode group and sub-group of an emoji from its picture and its keywords, or from either "
    "alone.",
    expect="Some sub-groups are a matter of convention (which faces are `face-affection`, which `face-smiling`). "
    "An empty output means that no label's probability was above one half.",
    sets=("emoji", "emoji_more"),
    examples=drawings.groups,
    eval_splits={
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
    main(RELEASE)
