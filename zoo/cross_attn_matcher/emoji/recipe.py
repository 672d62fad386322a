"""Trains and releases `cross_attn_matcher/emoji`: python -m zoo.cross_attn_matcher.emoji.recipe"""

import hashlib
import math
import re
from collections import Counter

import keras
import numpy as np
import tensorflow as tf

from vtx_keras import media
from vtx_keras import zoo as models
from vtx_keras.data.reading import adapted
from zoo import cards, families, making
from zoo.retriever.emoji.recipe import pairs as found_names

NEAR, BEST = 8, 10  # names that nearly fit, of each; names that the matcher judges after the retriever


def pairs(split: str) -> tf.data.Dataset:
    """Emoji and names; to train on, each again with a name that is not its own: half of these nearly fit."""
    examples = families.emoji_names(split)
    if split != "train":
        return examples
    rows = list(examples.encoded.as_numpy_iterator())
    names = sorted({row["caption"].decode() for row in rows})
    near = dict(zip(names, alike(names), strict=True))
    columns: dict[str, list] = {name: [] for name in ("image", "id", "concept", "caption", "label")}
    for row in rows:
        own = row["caption"].decode()
        draw = int(hashlib.sha256(row["id"]).hexdigest()[:8], 16)
        other = near[own][draw // 2 % NEAR] if draw % 2 else names[draw // 2 % len(names)]
        for caption, label in ((own, 1), (other, int(other == own))):
            for name in ("image", "id", "concept"):
                columns[name].append(row[name])
            columns["caption"].append(caption)
            columns["label"].append(label)
    arrays = {name: np.array(told, object if name == "image" else None) for name, told in columns.items()}
    return adapted(tf.data.Dataset.from_tensor_slices(arrays))


def alike(names: list[str]) -> list[list[str]]:
    """Of each name the others that share the most words with it, rare words before common ones.

    >>> alike(["red apple", "green apple", "red car", "axe"])[0][:2]
    ['green apple', 'red car']
    """
    words = [set(re.findall(r"[\w’-]+", name.lower())) for name in names]
    seen = Counter(word for each in words for word in each)
    place = {word: number for number, word in enumerate(seen)}
    table = np.zeros((len(names), len(place)), "float32")
    for row, each in zip(table, words, strict=True):
        for word in each:
            row[place[word]] = 1 + math.log(len(names) / seen[word])
    table /= np.maximum(np.linalg.norm(table, axis=1, keepdims=True), 1e-9)
    likeness = table @ table.T
    np.fill_diagonal(likeness, -1)
    return [[names[at] for at in np.argsort(-row, kind="stable")[:NEAR]] for row in likeness]


def reranked(matcher: keras.Model) -> cards.Table:
    """Among all names of a split: the retriever alone, and its best judged again by the matcher."""
    retriever, rows = models.build("retriever", weights="emoji"), []
    for split in ("vendor, one name each", "test, one name each"):
        told = list(found_names(split).encoded.as_numpy_iterator())
        pictures, own = [media.read(row["image"]) for row in told], np.array([row["caption"].decode() for row in told])
        names = np.array(sorted(set(own)))
        best = np.argsort(-retriever.similarity(pictures, list(names)), axis=1)[:, :BEST]
        chances = matcher.match(
            [one for one in pictures for _ in range(BEST)], list(names[best].ravel()), batch_size=256
        )
        again = np.take_along_axis(best, np.argsort(-np.reshape(chances, best.shape), axis=1, kind="stable"), axis=1)
        for who, order in (("retriever", best), ("retriever, then matcher", again)):
            hits = [float(np.mean((names[order[:, :most]] == own[:, None]).any(axis=1))) for most in (1, 5)]
            rows.append([split, f"{len(told):,d} of {len(names):,d}", who, *(f"{hit:.3f}" for hit in hits)])
    about = (
        f"The name of a picture among those of a split: the retriever's {BEST} best, in its order and in the matcher's."
    )
    header = ["split", "pictures, names", "by", "recall 1", "recall 5"]
    return cards.Table("As a judge of what the retriever found", about, header, rows)


RELEASE = making.Release(
    __file__,
    about="Says how well a name fits an emoji's picture or a drawing: a judge of what the retriever found.",
    expect="It was taught with names of other pictures, half of them sharing words with the right one. Of what it "
    "never saw it is too sure that nothing fits.",
    sets=("emoji", "emoji_more", "word_cards"),
    examples=pairs,
    judged={split: what for split, what in families.EMOJI_SPLITS.items() if split != "composition"},
    eval_data="emoji",
    options={"depth": 2},
    copies=2,
    epochs=4,
    besides=reranked,
)

if __name__ == "__main__":
    making.main(RELEASE)
