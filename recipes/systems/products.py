"""Product texts: a title from picture and attributes, and attributes from picture and title, each part alone as well.

python -m recipes.systems.products           # an hour on two cores
python -m recipes.systems.products titles    # one of the two: titles or attributes
"""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from recipes.families.examples import concatenate, split_and_part, without
from recipes.systems import trials
from vtx_keras import data, metrics, text, zoo
from vtx_keras.evaluate import _baselines as baseline
from vtx_keras.evaluate._outcomes import Outcome

SHARED = {"image_encoder": "efficientnet_lite0", "image_shape": (160, 160, 3), "dropout": 0.2}
READER = {**SHARED, "dim": 128, "depth": 1, "text_depth": 1, "max_length": 24, "allow_empty": True, "multi_label": True}
WRITER = {**SHARED, "dim": 192, "depth": 2, "max_length": 32}
SETTINGS = {"batch_size": 64, "ema": 0.99, "jit_compile": False, "save_every": 1000}
ATTRIBUTES = ("gender", "type", "colour")
PIECES = 2000
ALSO = (
    "t-shirt t shirt tee polo kid girl boy lady ladies woman womens mens s shoe flip flop sneaker slipper scarf "
    "eyewear dial analogue analog chronograph jersey wedge beanie bikini frame goggle timepiece hoodie hoody pullover"
)


def products(split: str) -> data.Examples:
    """Load products with their attributes as a prompt; perhaps "without picture" or "without prompt"."""
    name, part = split_and_part(split)
    rows = data.load("fashion", name).encoded

    def prompted(row: dict) -> dict:
        words = tf.strings.lower(tf.strings.reduce_join([row[key] for key in ATTRIBUTES], separator=", "))
        kept = {key: row[key] for key in ("id", "image", "caption", "concept")}
        return {**kept, "prompt": tf.strings.join([words, " :"])}

    found = data.Examples(rows.map(prompted))
    if part == "prompt":
        return data.Examples(found.encoded.map(lambda row: {**row, "prompt": ":"}))
    return without(found, part)


def labelled(split: str, hidden: bool = False) -> data.Examples:
    """Load products with the title as text and gender, type and colour as labels.

    Parts can be left out ("test without words"); with `hidden`, the words that name an attribute are.
    """
    name, part = split_and_part(split)
    pattern = telling() if hidden else ""

    def plain(row: dict) -> dict:
        title = row["caption"]
        title = tf.strings.regex_replace(tf.strings.lower(title), pattern, " ") if hidden else title
        labels = tf.stack([row[key] for key in ATTRIBUTES])
        return {**{key: row[key] for key in ("id", "image", "concept")}, "text": title, "label": labels}

    return without(data.Examples(data.load("fashion", name).encoded.map(plain)), part)


@functools.cache
def attributes() -> dict[str, list[str]]:
    """Return the values of each attribute in the training split."""
    rows = data.load("fashion", "train").encoded.map(lambda row: {key: row[key] for key in ATTRIBUTES})
    values = [{key: row[key].decode() for key in ATTRIBUTES} for row in rows.as_numpy_iterator()]
    return {key: sorted({row[key] for row in values}) for key in ATTRIBUTES}


@functools.cache
def telling() -> str:
    """Return a pattern of the words that name a gender, a type or a colour, in the singular or plural."""
    named = {singular(word) for values in attributes().values() for one in values for word in words_of(one)}
    return rf"\b({'|'.join(sorted({*named, *ALSO.split()}, key=len, reverse=True))})(e?s|'s)?\b"


def singular(word: str) -> str:
    """Return a noun without the ending of its plural.

    >>> [singular(word) for word in ("watches", "dresses", "shoes", "accessories", "ties", "dress")]
    ['watch', 'dress', 'shoe', 'accessory', 'tie', 'dress']
    """
    word = re.sub(r"(?<=..)(?<!^t)ies$", "y", word)
    return re.sub(r"(?<=ch|sh|ss)es$", "", word) if re.search(r"(ch|sh|ss)es$", word) else re.sub(r"(?<!s)s$", "", word)


def words_of(value: str) -> list[str]:
    """Return the words of an attribute.

    >>> words_of("Accessory Gift Set"), words_of("Tshirts")
    (['accessory', 'gift', 'set'], ['tshirts'])
    """
    return re.findall(r"[a-z]+", value.lower())


def reader(split: str = "train") -> Any:
    """Build a classifier of gender, type and colour; the vocabulary is that of the training titles."""
    names = [value for values in attributes().values() for value in values]
    titles = [row["text"].decode() for row in labelled(split).encoded.as_numpy_iterator()]
    vocabulary = text.vocabulary(titles, size=PIECES)
    return zoo.build("cross_attn_classifier", weights="encoders", vocabulary=vocabulary, classes=names, **READER)


def writer(split: str = "train") -> Any:
    """Build a captioner whose vocabulary is that of the training titles and attributes."""
    rows = [(row["prompt"].decode(), row["caption"].decode()) for row in products(split).encoded.as_numpy_iterator()]
    vocabulary = text.vocabulary([" ".join(row) for row in rows], size=PIECES)
    return zoo.build("cross_attn_captioner", weights="encoders", vocabulary=vocabulary, **WRITER)


def titles() -> None:
    """Write titles: from both, from the attributes alone, from the picture alone."""
    parts = {"both": "", "attributes alone": " without picture", "picture alone": " without prompt"}
    plans = {name: titles_trial(part) for name, part in parts.items()}
    judged = trials.run("titles", plans)
    rows = {name: trials.measures(one.outcomes[""]) for name, one in judged.items()}
    like = judged["both"].outcomes[""][0]
    others = {"template of the attributes": trials.saying(like, template("test"))}
    taught = baseline.training_texts(writer(), products("train"))
    points = [vectors(split) for split in ("train", "test")]
    others["nearest neighbour"] = baseline.nearest_neighbour(like, taught, (), (points[0], points[1]))
    rows |= {name: trials.measures([outcome]) for name, outcome in others.items()}
    pairs = [("both", other) for other in rows if other != "both"]
    found = trials.compared(rows, ("cider", "exact_match", "word_f1", "bleu_4"), trials.groups_of(like), pairs)
    training = {name: {"parameters": one.parameters, "seconds": round(one.seconds)} for name, one in judged.items()}
    said = {name: one.outcomes[""][0].rows for name, one in judged.items()}
    examples = [
        {"title": row.expected[0], "attributes": row.read, **{name: rows[at].said for name, rows in said.items()}}
        for at, row in list(enumerate(like.rows))[:: len(like.rows) // 12][:12]
    ]
    trials.store("titles", "products titles", rows=len(like.rows), training=training, examples=examples, **found)


def titles_trial(part: str) -> trials.Trial:
    """Return a trial of titles with a part left out, or none."""
    learned, held_out, test = (products(f"{split}{part}") for split in ("train", "validation", "test"))
    settings = {**SETTINGS, "epochs": 6, "learning_rate": 1e-3, "buckets": (16, 20, 24)}
    return trials.Trial(writer, learned, held_out, {"": test}, settings)


def template(split: str) -> list[str]:
    """Return a title of the attributes: gender, colour, type."""
    rows = data.load("fashion", split).encoded.map(lambda row: [row[key] for key in ("gender", "colour", "type")])
    return [b" ".join(row).decode().lower() for row in rows.as_numpy_iterator()]


def vectors(split: str) -> np.ndarray:
    """Return the mean features of the pictures, at length one."""
    kept = data.features(products(split), frozen(), trials.FEATURES)
    points = np.stack([row["image"].mean(axis=(0, 1), dtype="float32") for row in kept.as_numpy_iterator()])
    return points / np.linalg.norm(points, axis=1, keepdims=True)


@functools.cache
def frozen() -> Any:
    """Return a writer whose image encoder is frozen."""
    model = writer()
    model.freeze("image")
    return model


def labels() -> None:
    """Predict attributes: from title and picture, from each alone; and with the telling words of the title hidden."""
    plans = {
        "both": attributes_trial(),
        "both, words hidden": attributes_trial(hidden=True),
        "title alone, words hidden": attributes_trial(" without picture", hidden=True),
        "picture alone": attributes_trial(" without words"),
    }
    judged = trials.run("attributes", plans)
    rows = {
        name + test: [by_attribute(one) for one in outcomes]
        for name, each in judged.items()
        for test, outcomes in each.outcomes.items()
    }
    like = judged["both"].outcomes[""][0]
    rows["most frequent"] = [by_attribute(most_frequent(like))]
    pairs = [("both, words hidden", other) for other in ("title alone, words hidden", "picture alone")]
    found = trials.compared(rows, (*ATTRIBUTES, "all three"), trials.groups_of(like), pairs)
    training = {name: {"parameters": one.parameters, "seconds": round(one.seconds)} for name, one in judged.items()}
    trials.store("attributes", "products attributes", rows=len(like.rows), training=training, **found)


def attributes_trial(part: str = "", hidden: bool = False) -> trials.Trial:
    """Return a trial with a part of the products left out; where none is, a third of the rows lacks either part."""
    # An epoch of all rows and of a third without either part has 5 / 3 of their number: equal steps.
    settings = {**SETTINGS, "epochs": 10 if part else 6, "learning_rate": 1e-3, "monitor": "val_loss"}
    learned, held_out, test = (labelled(f"{split}{part}", hidden) for split in ("train", "validation", "test"))
    if part:
        return trials.Trial(reader, learned, held_out, {"": test}, settings)
    thirds = [data.Examples(learned.encoded.shard(3, number)) for number in (0, 1)]
    learned = concatenate(learned, without(thirds[0], "picture"), without(thirds[1], "words"))
    tests = {left_out: labelled(f"test{left_out}", hidden) for left_out in ("", " without picture", " without words")}
    return trials.Trial(reader, learned, held_out, tests, settings)


def by_attribute(outcome: Outcome) -> dict[str, metrics.Measure]:
    """Return the accuracy of each attribute, whose likeliest value counts, and of all three."""
    scores, truth, at = np.asarray(outcome.scores), np.asarray(outcome.truth), 0
    right = []
    for values in attributes().values():
        part = slice(at, at + len(values))
        right.append(truth[np.arange(len(truth)), at + scores[:, part].argmax(axis=1)] > 0)
        at += len(values)
    table = dict(zip(ATTRIBUTES, right, strict=True))
    measures = {name: metrics.mean(one.astype(float)) for name, one in table.items()}
    return {**measures, "all three": metrics.mean(np.all(right, axis=0).astype(float))}


def most_frequent(like: Outcome) -> Outcome:
    """Return an outcome whose scores are the shares of the labels in the training split."""
    names = [value for values in attributes().values() for value in values]
    rows = labelled("train").encoded.map(lambda row: row["label"])
    counts = np.zeros(len(names))
    for row in rows.as_numpy_iterator():
        counts[[names.index(one.decode()) for one in row]] += 1
    return Outcome(like.kind, like.rows, like.left_out, np.tile(counts, (len(like.rows), 1)), like.truth)


PARTS = {"attributes": labels, "titles": titles}


def main(parts: Sequence[str]) -> None:
    """Run the parts that are named, or all."""
    for name in parts or PARTS:
        PARTS[name]()


if __name__ == "__main__":
    main(sys.argv[1:])
