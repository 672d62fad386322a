"""The splits of the emoji sets, by the names alone: all 3,786 English names (Unicode CLDR 48.2, Unicode-3.0)."""

from __future__ import annotations

from collections import defaultdict

import pytest
from paths import EMOJI_NAMES

from vtx_keras.data.sets import _emoji, concepts

NAMES = EMOJI_NAMES.read_text(encoding="utf-8").split("\n")[:-1]


def by_split() -> dict[str, list[str]]:
    found = defaultdict(list)
    for name in NAMES:
        found[concepts.split_of(name)].append(name)
    return found


def test_every_name_has_a_split_and_the_sizes_are_as_documented():
    sizes = {split: len(names) for split, names in by_split().items()}
    assert sizes == {"train": 2361, "test": 848, "validation": 243, "composition": 65, "flags": 269}
    assert len({concepts.concept(name) for name in by_split()["test"]}) >= 300


def test_no_concept_is_in_two_splits():
    sides = {split: {concepts.concept(name) for name in names} for split, names in by_split().items()}
    assert not sides["train"] & sides["validation"]
    assert not sides["train"] & sides["test"]
    assert not sides["validation"] & sides["test"]
    assert sides["composition"] <= sides["train"]


def test_no_lemmatised_base_name_of_the_test_is_in_train():
    def base(name: str) -> frozenset[str]:
        words = name.lower().split(":")[0].replace("’s", "").split()
        return frozenset(word.rstrip("s") for word in words if word not in ("man", "woman", "person", "men", "women"))

    unseen = {base(name) for name in by_split()["test"] + by_split()["validation"]}
    seen = {base(name) for name in by_split()["train"] + by_split()["composition"]}
    # An empty set of words may occur on both sides ("person" alone), any other may not.
    assert not {words for words in unseen & seen if words}


@pytest.mark.parametrize(
    "alike",
    [
        ["dog", "dog face", "guide dog", "poodle"],
        ["cat", "cat face", "grinning cat", "weary cat"],
        ["one o’clock", "twelve-thirty", "mantelpiece clock"],
        ["full moon", "new moon face", "waning gibbous moon", "crescent moon"],
        ["red heart", "blue heart", "broken heart"],
        ["keycap: 1", "keycap: #"],
        ["woman firefighter: dark skin tone", "firefighter", "man firefighter"],
        ["thumbs up: light skin tone", "thumbs down"],
        ["man: red hair", "woman: beard", "girl", "baby: medium skin tone"],
        ["up arrow", "down-left arrow"],
        ["snowman", "snowman without snow"],
        ["brown square", "dark skin tone", "new moon"],  # OpenMoji draws them alike
    ],
)
def test_names_that_look_alike_are_one_concept(alike):
    assert len({concepts.concept(name) for name in alike}) == 1


def test_different_things_are_different_concepts():
    names = [
        "hot dog",
        "dog",
        "moon cake",
        "full moon",
        "mouse trap",
        "mouse",
        "star",
        "starfish",
        "fire",
        "firefighter",
    ]
    assert len({concepts.concept(name) for name in names}) == len(names)


def test_the_held_out_triples_are_unseen_but_each_of_their_factors_is_seen():
    seen = {concepts.person(name) for name in by_split()["train"]} - {None}
    held = {concepts.person(name) for name in by_split()["composition"]}
    assert None not in held
    assert not held & seen
    for place in range(3):
        assert {triple[place] for triple in held} <= {triple[place] for triple in seen}
    # Each two of the three are seen together as well (the job in that tone perhaps of neither gender).
    tones = {(concepts.concept(name), name.split(": ")[-1].removesuffix(" skin tone")) for name in by_split()["train"]}
    genders = {(job, gender) for job, gender, _ in seen}
    assert all((job, tone) in tones and (job, gender) in genders for job, gender, tone in held)


@pytest.mark.parametrize(
    ("vendor", "name", "split"),
    [
        ("noto", "strawberry", "train"),
        ("fluent", "strawberry", "vendor"),
        ("fluent", "admission tickets", "test"),
        ("noto", "admission tickets", "test"),
        ("openmoji", "flag: Mexico", "flags"),
    ],
)
def test_fluent_is_in_vendor_and_test_only(vendor, name, split):
    assert _emoji.split_of(vendor, name) == split


def test_fluent_is_in_no_split_that_models_are_tuned_on():
    assert {_emoji.split_of("fluent", name) for name in NAMES} == {"vendor", "test", "flags", None}
