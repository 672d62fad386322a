"""Trains and releases `cross_attn_matcher/emoji`: python -m zoo.cross_attn_matcher.emoji.recipe"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import tensorflow as tf

from vtx_keras import data
from vtx_keras import zoo as models
from vtx_keras.data.reading import adapted
from zoo import cards, families, making
from zoo.retriever.emoji.recipe import pairs as found_names

BEST = 10  # names that the retriever finds: of those one is a wrong one to train on, and those the matcher judges
SHARES = (0.0, 0.1, 0.2, 0.5, 1.0)  # what the matcher may count beside the retriever; validation chooses


def pairs(split: str) -> tf.data.Dataset:
    """Emoji and their names; to train on, with wrong names too.

    Each picture then comes four times: twice with its name, once with one of those that the retriever finds before
    others, and once with any other name.
    """
    if split != "train":
        return families.emoji_names(split)
    retriever = models.build("retriever", weights="emoji")
    sets = (families.emoji("train"), data.load("word_cards", "train"))  # a name of the other may well fit
    return families.joined(*(with_wrong_names(one, retriever) for one in sets))


def with_wrong_names(examples: tf.data.Dataset, retriever: Any, seed: int = 0) -> tf.data.Dataset:
    """Pictures with names, `label` says whether they fit."""
    rows = list(examples.encoded.as_numpy_iterator())
    own = [row["caption"].decode() for row in rows]
    names = np.array(sorted(set(own)))
    likeness = retriever.similarity([row["image"] for row in rows], list(names), batch_size=256)
    right = defaultdict(set)  # some artists draw two things alike
    for row, name in zip(rows, own, strict=True):
        right[row["image"]].add(name)
    for row, values in zip(rows, likeness, strict=True):
        values[np.isin(names, list(right[row["image"]]))] = -np.inf
    order, draw = np.argsort(-likeness, axis=1), np.random.default_rng(seed)
    near, any_other = (
        names[np.take_along_axis(order, draw.integers(low, high, (len(rows), 1)), 1)[:, 0]]
        for low, high in ((0, BEST), (BEST, len(names) - max(map(len, right.values()))))
    )
    kept = [name for name in ("image", "alpha") if name in rows[0]]
    columns = {name: np.repeat(np.array([row[name] for row in rows], object), 4) for name in kept}
    columns["caption"] = np.stack([own, own, near, any_other], axis=1).ravel()
    columns["label"] = np.tile([1, 1, 0, 0], len(rows))
    return adapted(tf.data.Dataset.from_tensor_slices(columns))


def reranked(matcher: Any) -> cards.Table:
    """Among all names of a split: the retriever alone, the matcher alone on its best, and both."""
    retriever, rows, share = models.build("retriever", weights="emoji"), [], None
    scale = float(np.exp(next(each for each in retriever.weights if each.name == "log_scale")))
    for split in ("validation, one name each", "vendor, one name each", "test, one name each"):
        told = list(found_names(split).encoded.as_numpy_iterator())
        pictures, own = [row["image"] for row in told], np.array([row["caption"].decode() for row in told])
        names = np.array(sorted(set(own)))
        likeness = retriever.similarity(pictures, list(names), batch_size=256)
        best = np.argsort(-likeness, axis=1)[:, :BEST]
        asked = [one for one in pictures for _ in range(BEST)]
        chances = np.reshape(matcher.match(asked, list(names[best].ravel()), batch_size=256), best.shape)
        odds = np.log(np.maximum(chances, 1e-9)) - np.log(np.maximum(1 - chances, 1e-9))
        known, right = scale * np.take_along_axis(likeness, best, axis=1), names[best] == own[:, None]
        if share is None:
            share = max(SHARES, key=lambda one: recall(known + one * odds, right, 1))
        ways = {"retriever": known, "matcher": odds, f"retriever + {share:g} × matcher": known + share * odds}
        for who, scores in ways.items():
            hits = [f"{recall(scores, right, most):.3f}" for most in (1, 5)]
            rows.append([split, f"{len(told):,d} of {len(names):,d}", who, *hits])
    about = (
        f"The name of a picture among those of a split: the retriever's {BEST} best, in its order, in the matcher's, "
        "and by the sum of both log-odds, with the matcher's share that is best on validation (of "
        f"{', '.join(f'{one:g}' for one in SHARES)})."
    )
    header = ["split", "pictures, names", "by", "recall 1", "recall 5"]
    return cards.Table("As a judge of what the retriever found", about, header, rows)


def recall(scores: np.ndarray, right: np.ndarray, most: int) -> float:
    """How many rows have a right one among so many of the highest scores.

    >>> recall(np.array([[1.0, 2.0]]), np.array([[True, False]]), 1)
    0.0
    """
    order = np.argsort(-scores, axis=1, kind="stable")[:, :most]
    return float(np.mean(np.take_along_axis(right, order, axis=1).any(axis=1)))


RELEASE = making.Release(
    __file__,
    about="Says how well a name fits an emoji's picture or a drawing: a judge of what the retriever found.",
    expect="Half of the wrong names that it was taught with are those that the retriever takes for right ones, so that "
    "it looks at what tells them apart (a tone, a gender).",
    sets=("emoji", "emoji_more", "word_cards"),
    examples=pairs,
    judged={split: what for split, what in families.EMOJI_SPLITS.items() if split != "composition"},
    eval_data="emoji",
    options={"depth": 2},
    copies=2,
    epochs=3,
    besides=reranked,
)

if __name__ == "__main__":
    making.main(RELEASE)
