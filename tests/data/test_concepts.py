"""The splits of the emoji sets, by the names alone: all 3,786 English names (Unicode CLDR 48.2, Unicode-3.0)."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest

from vtx_keras.data.sets import concepts as emoji

NAMES = (Path(__file__).parent / "data" / "emoji_names.txt").read_text(encoding="utf-8").split("\n")[:-1]


def by_split() -> dict[str, list[str]]:
    found = defaultdict(list)
    for name in NAMES:
        found[emoji.split_of(name)].append(name)
    return found


def test_every_name_has_a_split_and_the_sizes_are_as_documented():
    sizes = {split: len(names) for split, names in by_split().items()}
    assert sizes == {"train": 2361, "test": 848, "validation": 243, "composition": 65, "flags": 269}
    assert len({emoji.concept(name) for name in by_split()["test"]}) >= 300


def test_no_concept_lies_on_two_sides():
    sides = {split: {emoji.concept(name) for name in names} for split, names in by_split().items()}
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
    # What is left of a name without its colours may coincide ("person" alone); words that say something may not.
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
def test_what_looks_alike_is_one_concept(alike):
    assert len({emoji.concept(name) for name in alike}) == 1


def test_what_differs_is_not():
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
    assert len({emoji.concept(name) for name in names}) == len(names)


def test_the_held_out_triples_are_unseen_but_each_of_their_factors_is_seen():
    seen = {emoji.person(name) for name in by_split()["train"]} - {None}
    held = {emoji.person(name) for name in by_split()["composition"]}
    assert None not in held
    assert not held & seen
    for place in range(3):
        assert {triple[place] for triple in held} <= {triple[place] for triple in seen}
    # Each two of the three are seen together as well (the job in that tone perhaps of neither gender).
    tones = {(emoji.concept(name), name.split(": ")[-1].removesuffix(" skin tone")) for name in by_split()["train"]}
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
def test_fluent_serves_vendor_and_test_alone(vendor, name, split):
    from vtx_keras.data.sets import _emoji as builders

    assert builders.split_of(vendor, name) == split


def test_no_tuning_sees_fluent():
    from vtx_keras.data.sets import _emoji as builders

    assert {builders.split_of("fluent", name) for name in NAMES} == {"vendor", "test", "flags", None}
