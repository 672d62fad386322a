"""What several recipes share: examples, and how a family of models differs only in its fusion."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Any

import numpy as np
import tensorflow as tf

from vtx_keras import data
from vtx_keras.data.sets import concepts
from vtx_keras.data._load import adapted
from recipes import cards
from recipes.encoder import TONES
from recipes.release import Release

EMOJI_SPLITS = {
    "vendor": "an artist never trained on (Fluent 3D), concepts of the training split",
    "composition": "people whose job, gender and skin tone were each trained on, but never together",
    "test": "concepts never trained on, four artists",
}


def captioner(recipe: str, how: str, **changes: Any) -> Release:
    """A captioner of emoji; they differ in how the picture gets into the words."""
    about = (
        "Says the English name of an emoji's picture, or of a drawing. MobileNetV2, trained on to see emoji, reads it "
        f"at 97 × 97 px; in three decoder blocks of width 192 {how}."
    )
    expect = (
        "It names what it has learned, also in the hand of an artist it never saw, though the skin tone there is often "
        "the next lighter or darker one. What it never saw it calls by the nearest name it knows. It knows nothing of "
        "photographs: train on your own pictures for those."
    )
    settings = {
        "sets": ("emoji", "emoji_more", "word_cards"),
        "examples": emoji_names,
        "judged": EMOJI_SPLITS,
        "eval_data": "emoji",
        "copies": 4,
        "epochs": 3,
        "baselines_of": "cross_attn_captioner/emoji",
    }
    return Release(recipe, **{"about": about, "expect": expect, **settings, **changes})


def by_tone(model: Any) -> cards.Table:
    """How often names are right in an unseen artist's hand, and would be but for the skin tone, by that tone."""
    rows = list(data.load("emoji", "vendor").encoded.as_numpy_iterator())
    said = [
        name
        for at in range(0, len(rows), 128)
        for name in model.generate([row["image"] for row in rows[at : at + 128]])
    ]
    found = defaultdict(list)
    for row, name in zip(rows, said, strict=True):
        right = row["caption"].decode().lower()
        found[tone_of(right)].append((name == right, without_tone(name) == without_tone(right)))
    lines = []
    for tone in ("", *TONES):
        exact, but_for = np.mean(found[tone], axis=0)
        lines.append([tone or "none", f"{len(found[tone]):,d}", f"{exact:.3f}", f"{but_for:.3f}"])
    about = (
        "Exact match on `vendor` by the skin tone that the name asks for, and what it would be if tones were left out "
        "of both names: this artist's tones look like darker ones of the artists it knows."
    )
    return cards.Table("Where it errs", about, ["skin tone", "pictures", "exact match", "but for the tone"], lines)


def tone_of(name: str) -> str:
    """The skin tone that a name tells, or nothing.

    >>> tone_of("artist: medium-dark skin tone"), tone_of("left arrow")
    ('medium-dark', '')
    """
    found = re.search(concepts.TONE, name)
    return found[1] if found else ""


def without_tone(name: str) -> str:
    """The name but for its skin tone.

    >>> without_tone("woman: dark skin tone, red hair")
    'woman, red hair'
    """
    return re.sub(rf"(: |, ){concepts.TONE}", "", name)


def radiology(recipe: str, kind: str) -> Release:
    """A model that answers clinicians' questions about radiology images, by one of the data set's two splits."""
    about = (
        "Answers clinicians' questions about radiology images with one of the answers it was trained on. **For "
        "research, not for diagnosis.** A frozen MobileNetV2, trained on photographs, reads the image at 193 × 193 px."
    )
    expect = (
        "A small model, without medical pretraining: compare the blank picture and the question alone to see how "
        "little it looks. Answers that training never had it cannot give, and they count as wrong."
    )
    shows = {
        "official": "the published test questions; their images also occur in training",
        "disjoint": "questions about images that occur nowhere else",
    }
    splits = {
        "test": shows[kind],
        "test, closed": "of these, the questions that yes, no or a choice answers",
        "test, open": "the others",
        "test without picture": "the same questions about a blank picture",
    }
    options = {"image_encoder": "mobilenet_v2", "image_shape": (193, 193, 3), "dim": 128, "depth": 2, "text_depth": 1}

    def questions(split: str) -> tf.data.Dataset:
        name, part = split_and_part(split)
        name, _, answers = name.partition(", ")
        found = data.load(f"vqa_rad/{kind}", name)
        if answers:
            found = adapted(found.encoded.filter(lambda row: row["answer_type"] == answers))
        return without(found, part) if part else found

    settings = {"options": {**options, "dropout": 0.3}, "licence": "Apache-2.0", "epochs": 12, "batch_size": 32}
    settings["eval_data"] = f"vqa_rad/{kind}"
    return Release(recipe, about, expect, ("vqa_rad",), questions, splits, **settings)


def emoji(split: str) -> tf.data.Dataset:
    """Emoji; to train on, those by five more artists too."""
    found = data.load("emoji", split)
    return certain(joined(found, data.load("emoji_more", split))) if split == "train" else found


def certain(examples: tf.data.Dataset) -> tf.data.Dataset:
    """Without pictures of a person whom the same picture calls man or woman elsewhere: some artists draw both alike."""
    named: dict[bytes, dict[bytes, bool]] = defaultdict(dict)
    for row in examples.encoded.as_numpy_iterator():
        named[row["image"]][row["id"]] = re.search(rb"\b(man|woman|men|women)\b", row["caption"]) is not None
    unclear = [one for ids in named.values() if any(ids.values()) for one, told in ids.items() if not told]
    kept = examples.encoded.filter(lambda row: tf.reduce_all(row["id"] != tf.constant([b"", *unclear])))
    count = sum(map(len, named.values())) - len(unclear)
    return adapted(kept.apply(tf.data.experimental.assert_cardinality(count)))


def emoji_names(split: str) -> tf.data.Dataset:
    """Emoji and their names; to train on, word cards too."""
    return joined(emoji(split), data.load("word_cards", split)) if split in ("train", "validation") else emoji(split)


def joined(*sets: tf.data.Dataset) -> tf.data.Dataset:
    """Several sets of examples as one, with the fields that all of them have."""
    shared = set.intersection(*(set(one.encoded.element_spec) for one in sets)) | {"image"}
    found = [one.encoded.map(lambda row: {name: row[name] for name in shared}) for one in sets]
    together = found[0]
    for each in found[1:]:
        together = together.concatenate(each)
    return adapted(together)


def without(examples: tf.data.Dataset, part: str) -> tf.data.Dataset:
    """The same examples with a blank "picture", or with no "words"."""
    blank = tf.io.encode_png(tf.fill((8, 8, 3), tf.constant(255, tf.uint8)))
    if part == "picture":
        return adapted(examples.encoded.map(lambda row: {**row, "image": blank}))
    return adapted(examples.encoded.map(lambda row: {**row, "text": ""}))


def split_and_part(split: str) -> tuple[str, str]:
    """What a judged split leaves out, if anything.

    >>> split_and_part("test without picture"), split_and_part("test")
    (('test', 'picture'), ('test', ''))
    """
    name, _, part = split.partition(" without ")
    return name, part
