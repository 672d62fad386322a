"""Concepts: what the classes of ImageNet-1k are called in captions, and what a sentence mentions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vtx_keras.models import concepts

# Concepts whose plural has no "s", or that have none; the others follow the rules of spelling.
PLURALS = {
    "goose": "geese", "knife": "knives", "leaf": "leaves", "man": "men", "mouse": "mice", "potato": "potatoes",
    "scarf": "scarves", "shelf": "shelves", "woman": "women", "wood": "wood",
}  # fmt: skip
ENDS = {"y": "ies", "s": "ses", "x": "xes", "ch": "ches", "sh": "shes"}


def words(text: str) -> list[str]:
    return [concepts.names()[index] for index in concepts.mentioned(text)]


def plural(name: str) -> str:
    if name in PLURALS or name in concepts.SAME:
        return PLURALS.get(name, name)
    end = next((end for end in ENDS if name.endswith(end) and not name.endswith(("ay", "ey", "oy"))), "")
    return name.removesuffix(end) + (ENDS[end] if end else "s")


def test_the_table_has_the_classes_of_imagenet_in_their_order():
    from keras_hub.utils import decode_imagenet_predictions

    lines = Path(concepts.__file__).with_name("concepts.txt").read_text("utf-8").splitlines()
    labels, meant = zip(*(line.split("\t") for line in lines), strict=True)
    assert list(labels) == [row[0][0] for row in decode_imagenet_predictions(np.eye(1000), top=1)]
    assert sum(not line for line in meant) <= 60
    assert all(len(set(line.split())) == len(line.split()) <= 3 for line in meant)
    assert " ".join(meant) == " ".join(meant).lower()
    for number, line in enumerate(meant):
        assert sorted(line.split()) == [concepts.names()[index] for index in concepts.matrix()[number].nonzero()[0]]
    assert concepts.matrix().shape == (1000, len(concepts.names()))
    assert concepts.matrix().any(axis=0).all()


@pytest.mark.parametrize(
    ("label", "meant"),
    [
        (207, "dog"), (21, "bird"), (134, "bird"), (517, "crane"), (673, "mouse"), (725, "vase"), (779, "bus"),
        (950, "oranges"), (978, "beach"), (851, "tv"), (69, None),
    ],
)  # fmt: skip
def test_a_class_means_what_people_call_it(label, meant):
    row = {concepts.names()[index] for index in concepts.matrix()[label].nonzero()[0]}
    assert meant in row if meant else not row


def test_every_concept_is_found_alone_and_in_the_plural():
    for name in concepts.names():
        assert words(f"A {name}.") == [name]
        assert words(f"many {plural(name)}") == [name]


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("a hot dog", ["hotdog"]),
        ("Hot dogs, and a dog", ["hotdog", "dog"]),
        ("a teddy bear and a bear", ["teddy", "bear"]),
        ("a girl in a tank top at a fire hydrant", []),
        ("a fire truck at the traffic lights", ["firetruck", "traffic"]),
        ("men in bathing suits", ["man", "swimsuit"]),
        ("two puppies and a kitten", ["dog", "cat"]),
        ("a sofa, a couch and a television", ["couch", "tv"]),
        ("ladies on bicycles and motorbikes", ["woman", "bike", "motorcycle"]),
        ("a jet over the sea", ["airplane", "ocean"]),
        ("a man's T-shirt", ["man", "shirt"]),
        ("", []),
    ],
)
def test_compounds_and_other_words_for_a_concept(text, meant):
    assert words(text) == meant


def test_other_words_and_compounds_name_concepts():
    for meant in (*concepts.ALIASES, *" ".join(concepts.COMPOUNDS.values()).split()):
        assert meant in concepts.names()
    assert not set(" ".join(concepts.ALIASES.values()).split()) & set(concepts.names())
