"""Sentiment of a post from its picture and its text: five fusions, each part alone, one part missing, linear baselines.

vtx convert minilm_l6                   # once
python -m recipes.systems.sentiment     # a quarter of an hour on two cores
"""

from __future__ import annotations

import functools
import statistics
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from recipes import word_vectors
from recipes.ablation import FUSIONS
from recipes.families.examples import split_and_part, without
from recipes.systems import arrays, trials
from vtx_keras import data, zoo
from vtx_keras.evaluate._outcomes import Outcome

LABELS = ("negative", "neutral", "positive")
OPTIONS = {
    "image_encoder": "efficientnet_lite0", "image_shape": (160, 160, 3), "text_encoder": "minilm_l6", "dim": 128,
    "depth": 1, "dropout": 0.4, "max_length": 40, "classes": list(LABELS), "allow_empty": True,
}  # fmt: skip
SETTINGS = {"epochs": 5, "batch_size": 64, "learning_rate": 5e-4}
NAMES = ("accuracy", "f1_macro")
PARTS = ("", " without picture", " without words")


def posts(split: str) -> data.Examples:
    """Load a split of `posts`, perhaps "without picture" or "without words".

    The training split lacks posts whose text or picture occurs in the others: a few were posted again.
    """
    name, part = split_and_part(split)
    rows = data.load("posts", name)
    if name == "train":
        texts, pictures = held_out()
        again = data.Examples(rows.encoded.filter(lambda row: ~tf.reduce_any(row["text"] == texts)))
        rows = data.Examples(again.encoded.filter(lambda row: ~tf.reduce_any(row["image_id"] == pictures)))
    return without(rows, part)


@functools.cache
def held_out() -> tuple[tf.Tensor, tf.Tensor]:
    """Return texts and pictures of the splits that are not learned from; an empty text is nobody's."""
    both = [row for split in ("validation", "test") for row in data.load("posts", split).encoded.as_numpy_iterator()]
    return tf.constant([row["text"] for row in both if row["text"]]), tf.constant([row["image_id"] for row in both])


def model(fusion: str = "cross_attn") -> Any:
    """Build a classifier of posts between two frozen encoders."""
    built = zoo.build(f"{fusion}_classifier", weights="encoders", **OPTIONS)
    built.freeze("image", "text")
    return built


@functools.cache
def kept(split: str) -> arrays.Kept:
    """Return a split as features; a split "in parts" has some rows without picture, as many without words."""
    if split.endswith(" in parts"):
        whole, no_picture, no_words = (kept(split.removesuffix(" in parts") + part) for part in PARTS)
        return arrays.join(whole, arrays.every(no_picture, 3, 0), arrays.every(no_words, 3, 1))
    return arrays.kept(model(), posts(split))


def trial(fusion: str = "cross_attn", part: str = "", learned: str = "train") -> dict[str, list[Outcome]]:
    """Train with each seed, with both parts or `without` one of them; return outcomes by what is missing."""
    outcomes: dict[str, list[Outcome]] = {test: [] for test in ([part] if part else PARTS)}
    for seed in trials.SEEDS:
        keras.utils.set_random_seed(seed)
        built = model(fusion)
        arrays.fitted(built, kept(learned + part), kept("validation" + part), SETTINGS)
        for test, found in outcomes.items():
            found.append(arrays.outcome(built, kept("test" + test)))
    return outcomes


def main() -> None:
    """Run all trials and store the figures."""
    plans = {
        "text alone": {"part": " without picture"},
        "picture alone": {"part": " without words"},
        **{fusion: {"fusion": fusion} for fusion in FUSIONS},
        "cross_attn, parts left out": {"learned": "train in parts"},
    }
    rows, like = {}, None
    for name, plan in plans.items():
        outcomes = trial(**plan)
        like = next(iter(outcomes.values()))[0]
        for test, found in outcomes.items():
            rows[name + (test if "part" not in plan else "")] = trials.measures(found)
        said = ", ".join(f"{statistics.mean(x['accuracy'].value for x in one):.3f}" for one in list(rows.values())[-3:])
        print(f"{name}: {said}", flush=True)
    rows |= {name: trials.measures([outcome]) for name, outcome in baselines(like).items()}
    others = ("text alone", "picture alone", "MiniLM, linear", "bag of words, linear", "most frequent")
    pairs = [("cross_attn, parts left out", other) for other in others]
    found = trials.compared(rows, NAMES, trials.groups_of(like), pairs)
    trials.store("sentiment", rows=len(like.rows), **found)


def baselines(like: Outcome) -> dict[str, Outcome]:
    """Return what reads no picture: the most frequent label, and a linear model on words or on MiniLM's vectors."""
    texts, labels = {}, {}
    for split in ("train", "validation", "test"):
        rows = list(posts(split).encoded.map(lambda row: (row["text"], row["label"])).as_numpy_iterator())
        texts[split] = [text.decode() for text, _ in rows]
        labels[split] = np.array([LABELS.index(label.decode()) for _, label in rows])
    vectors = {
        "bag of words, linear": trials.bag_of_words(*texts.values()),
        "MiniLM, linear": [word_vectors.of(rows) for rows in texts.values()],
    }
    found = {}
    for name, (train, validation, test) in vectors.items():
        logits = trials.linear((train, labels["train"]), (validation, labels["validation"]), test)
        found[name] = trials.saying(like, [LABELS[row.argmax()] for row in logits])
    frequent = LABELS[np.bincount(labels["train"]).argmax()]
    return {**found, "most frequent": trials.saying(like, [frequent] * len(texts["test"]))}


if __name__ == "__main__":
    main()
