"""Emoji and word cards: examples for several tasks, and the captioners that differ only in their fusion."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Any

import numpy as np
import tensorflow as tf

from recipes.encoder import TONES
from recipes.families.examples import concatenate, split_and_part, without
from recipes.release import Release, Table
from vtx_keras import data
from vtx_keras.data.sets import LANGUAGES, concepts

EMOJI_SPLITS = {
    "vendor": "an artist never trained on (Fluent 3D), concepts of the training split",
    "composition": "people whose job, gender and skin tone were each trained on, but never together",
    "test": "concepts never trained on, four artists",
}


def captioner(recipe: str, fusion: str, **changes: Any) -> Release:
    """Return the release of a captioner of emoji; `fusion` says how picture and words are combined."""
    about = (
        "Writes the English name of an emoji or of another drawing. The picture, at 97 × 97 px, is encoded by a "
        f"MobileNetV2 that was trained further on emoji; in three decoder blocks of width 192 {fusion}."
    )
    expect = (
        "It names what it was trained on, also as drawn by an artist it was not trained on, though the skin tone is "
        "then often one step too light or too dark. Anything else gets the nearest name that it was trained on. It was "
        "not trained on photographs: fine-tune it on your own pictures for those."
    )
    settings = {
        "sets": ("emoji", "emoji_more", "word_cards"),
        "examples": emoji_names,
        "eval_splits": EMOJI_SPLITS,
        "eval_data": "emoji",
        "copies": 4,
        "epochs": 3,
        "baselines_from": "cross_attn_captioner/emoji",
    }
    return Release(recipe, **{"about": about, "expect": expect, **settings, **changes})


def emoji(split: str) -> data.Examples:
    """Load emoji; the training split also has those by five more artists."""
    examples = data.load("emoji", split)
    return unambiguous(concatenate(examples, data.load("emoji_more", split))) if split == "train" else examples


def unambiguous(examples: data.Examples) -> data.Examples:
    """Leave out a picture of a "person" that is also named man or woman: some artists draw both alike."""
    gendered: dict[bytes, dict[bytes, bool]] = defaultdict(dict)  # by picture, then by the id of the example
    for row in examples.encoded.as_numpy_iterator():
        gendered[row["image"]][row["id"]] = re.search(rb"\b(man|woman|men|women)\b", row["caption"]) is not None
    dropped = [key for ids in gendered.values() if any(ids.values()) for key, named in ids.items() if not named]
    kept = examples.encoded.filter(lambda row: tf.reduce_all(row["id"] != tf.constant([b"", *dropped])))
    count = sum(map(len, gendered.values())) - len(dropped)
    return data.Examples(kept.apply(tf.data.experimental.assert_cardinality(count)))


def emoji_names(split: str) -> data.Examples:
    """Load emoji and their names; the training and validation splits also have word cards."""
    examples = emoji(split)
    return concatenate(examples, data.load("word_cards", split)) if split in ("train", "validation") else examples


def names_by_language(split: str) -> data.Examples:
    """Load emoji and names with the language as the prompt: "vendor, de" is one language, "train" all of them."""
    part, _, language = split.partition(", ")
    return concatenate(*(_with_prompt(part, each) for each in ([language] if language else LANGUAGES)))


def _with_prompt(split: str, language: str) -> data.Examples:
    rows = data.load(f"emoji/{language}", split).encoded
    return data.Examples(rows.map(lambda row: {**row, "prompt": f"{language}:"}))


def groups(split: str) -> data.Examples:
    """Load emoji, their keywords as text, and Unicode's group and sub-group as labels.

    A third of the training rows has no keywords, a third no picture.
    """
    name, part = split_and_part(split)
    rows = data.Examples(
        emoji(name).encoded.map(
            lambda row: {
                **{key: row[key] for key in ("image", "id", "concept")},
                "text": tf.strings.reduce_join(row["keywords"], separator=" "),
                "label": tf.stack([row["group"], row["subgroup"]]),
            }
        )
    )
    if name == "train":
        return concatenate(rows, without(rows, "words"), without(rows, "picture"))
    return without(rows, part)


def clips(split: str) -> data.Examples:
    """Load animated emoji and their names."""
    return data.load("emoji_video", split)


def accuracy_by_tone(model: Any) -> Table:
    """Measure exact match on an unseen artist by skin tone, with and without the tone in the name."""
    rows = list(data.load("emoji", "vendor").encoded.as_numpy_iterator())
    captions = [
        caption
        for start in range(0, len(rows), 128)
        for caption in model.generate([row["image"] for row in rows[start : start + 128]])
    ]
    matches = defaultdict(list)
    for row, caption in zip(rows, captions, strict=True):
        name = row["caption"].decode().lower()
        matches[tone_of(name)].append((caption == name, without_tone(caption) == without_tone(name)))
    lines = []
    for tone in ("", *TONES):
        exact, ignoring_tone = np.mean(matches[tone], axis=0)
        lines.append([tone or "none", f"{len(matches[tone]):,d}", f"{exact:.3f}", f"{ignoring_tone:.3f}"])
    about = (
        "Exact match on `vendor` by the skin tone in the right name, and exact match with the tone left out of both "
        "names: this artist's tones resemble darker ones of the artists that it was trained on."
    )
    return Table("Errors by skin tone", about, ["skin tone", "pictures", "exact match", "ignoring the tone"], lines)


def tone_of(name: str) -> str:
    """Return the skin tone in a name, or "".

    >>> tone_of("artist: medium-dark skin tone"), tone_of("left arrow")
    ('medium-dark', '')
    """
    match = re.search(concepts.TONE, name)
    return match[1] if match else ""


def without_tone(name: str) -> str:
    """Return the name without its skin tone.

    >>> without_tone("woman: dark skin tone, red hair")
    'woman, red hair'
    """
    return re.sub(rf"(: |, ){concepts.TONE}", "", name)
