"""What can be said without the model: the figures that it must beat.

Each takes the model's own outcome and gives another one of the same rows with other words, so that all are measured
alike. They learn from the training split alone; a nearest neighbour is a training picture whose features are closest.
"""

from __future__ import annotations

import functools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np

from vtx_keras.checkpoints import _encoders as published
from vtx_keras.checkpoints._folder import BadWeights
from vtx_keras.data import _examples as examples
from vtx_keras.evaluate._measures import chance
from vtx_keras.evaluate._outcomes import Outcome
from vtx_keras.inputs import media
from vtx_keras.inputs.text import normalize
from vtx_keras.models._base import VisionText, in_pieces
from vtx_keras.models._readers import Answerer

BASELINES = ("most_frequent", "question_alone", "nearest_neighbour", "chance")
ENCODER, SIDE = "efficientnet_lite0", 160  # sees no more of our data than the model's own encoder does at the start

BATCH = 32


class Learned(NamedTuple):
    """The training split without its pictures: per row what was read and what was right."""

    read: tuple[str, ...]
    right: tuple[tuple[str, ...], ...]


def learned(model: VisionText, ds: Any) -> Learned:
    """What a training split says to those who do not look.

    >>> from vtx_keras import zoo
    >>> model = zoo.build("gated_captioner", weights=None, dim=32, depth=1, vision_depth=1, image_shape=(32, 32, 3))
    >>> learned(model, [{"image": b"", "caption": "a cat"}]).right
    (('a cat',),)
    """
    pairs = [examples.asked(model, example) for example in examples.plain(ds)]
    return Learned(*map(tuple, zip(*pairs, strict=True))) if pairs else Learned((), ())


def most_frequent(outcome: Outcome, train: Learned, names: Sequence[str]) -> Outcome:
    """The commonest training text for every row; several labels by how often each is right.

    >>> from vtx_keras.evaluate._outcomes import Row
    >>> outcome = Outcome("captions", (Row(0, "0", "0", "", ("a cat",)),), {})
    >>> most_frequent(outcome, Learned(("",) * 3, (("a dog",), ("a cat",), ("A dog",))), []).rows[0].said
    'a dog'
    """
    if outcome.kind == "labels":
        shares = np.array([np.mean([name in right for right in train.right]) for name in names])
        odds = np.log((shares + 1e-9) / (1 - shares + 1e-9))
        return _labelled(outcome, np.tile(odds, (len(outcome.rows), 1)), names)
    commonest = _commonest(one for right in train.right for one in right)
    return _saying(outcome, [commonest] * len(outcome.rows))


def question_alone(outcome: Outcome, train: Learned) -> Outcome:
    """The commonest training answer to the same words, else the commonest of all: no picture is looked at.

    >>> from vtx_keras.evaluate._outcomes import Row
    >>> outcome = Outcome("answers", (Row(0, "0", "0", "is it red?", ("yes",)),), {})
    >>> question_alone(outcome, Learned(("what?", "what?", "Is it red?"), (("dog",), ("dog",), ("no",)))).rows[0].said
    'no'
    """
    known: defaultdict[str, list[str]] = defaultdict(list)
    for read, right in zip(train.read, train.right, strict=True):
        known[normalize(read)] += right
    commonest = _commonest(one for right in train.right for one in right)
    answers = {read: _commonest(right) for read, right in known.items()}
    return _saying(outcome, [answers.get(normalize(row.read), commonest) for row in outcome.rows])


def nearest_neighbour(
    outcome: Outcome,
    train: Learned,
    names: Sequence[str],
    points: tuple[np.ndarray, np.ndarray],
) -> Outcome:
    """What is right for the nearest training picture, of those asked the same question where there are such.

    `points` are unit features of the training rows and of the outcome's rows; a picture without any is never nearest.

    >>> from vtx_keras.evaluate._outcomes import Row
    >>> outcome = Outcome("captions", (Row(0, "0", "0", "", ("a cat",)),), {})
    >>> points = np.eye(2), np.array([[0.6, 0.8]])
    >>> nearest_neighbour(outcome, Learned(("", ""), (("a dog",), ("a lion",))), [], points).rows[0].said
    'a lion'
    """
    theirs, ours = points
    asked = defaultdict(list)
    for number, read in enumerate(train.read):
        asked[normalize(read)].append(number)
    by_read = defaultdict(list)
    for number, row in enumerate(outcome.rows):
        by_read[normalize(row.read)].append(number)
    nearest = np.zeros(len(outcome.rows), int)
    for read, rows in by_read.items():
        pool = np.array(asked.get(read) or range(len(theirs)))
        for start in range(0, len(rows), 512):
            part = rows[start : start + 512]
            nearest[part] = pool[(ours[part] @ theirs[pool].T).argmax(axis=1)]
    if outcome.kind == "labels":
        found = [train.right[number] for number in nearest]
        return _labelled(outcome, np.array([[1.0 if name in one else -1.0 for name in names] for one in found]), names)
    return _saying(outcome, [_commonest(train.right[number]) for number in nearest])


def blind(outcome: Outcome) -> dict[str, float] | Outcome:
    """Of pairs, the commoner verdict for all; of a search, what guesses come to on the average.

    >>> from vtx_keras.evaluate._outcomes import Row
    >>> rows = (Row(0, "0", "0", "", ("a", "b")), Row(0, "0", "0", "a", ()), Row(0, "0", "0", "b", ()))
    >>> blind(Outcome("search", rows, {}, np.zeros((3, 1)), np.array([[0, 1], [0, 2]])))["text_to_image_recall_1"]
    1.0
    """
    assert outcome.truth is not None  # pairs and searches have it
    if outcome.kind == "matches":
        yes = float(np.mean(outcome.truth)) >= 0.5
        scores = np.full_like(outcome.scores, 1.0 if yes else -1.0)
        rows = tuple(row._replace(said="yes" if yes else "no") for row in outcome.rows)
        return outcome._replace(rows=rows, scores=scores)
    pictures = sum(bool(row.expected) for row in outcome.rows)
    sizes = {"image_to_text": len(outcome.rows) - pictures, "text_to_image": pictures}
    found: dict[str, float] = {}
    for way, column in (("image_to_text", 0), ("text_to_image", 1)):
        right = Counter(Counter(outcome.truth[:, column].tolist()).values())
        found |= {f"{way}_{name}": value for name, value in chance(sizes[way], right).items()}
    return found


@functools.cache  # traced once for all that is judged
def _published_encoder(policy: str) -> keras.Model:
    """Under the global `policy`, as it is made."""
    return published.load(ENCODER, image_shape=(SIDE, SIDE, 3))


def encoder_of(model: VisionText) -> tuple[str, Callable[[Sequence], tuple[np.ndarray, list[int]]]]:
    """A name, and a function from pictures to unit features (good pictures, dim) and which pictures are good."""
    clip = model.image_shape[:-3]
    side: tuple[int, ...]
    try:
        encoder, side, name = _published_encoder(keras.config.dtype_policy().name), (SIDE, SIDE, 3), ENCODER
    except BadWeights:
        encoder, side, name = model.get_layer("image_encoder"), model.image_shape[-3:], "the model's own encoder"

    def run(pictures: Sequence) -> tuple[np.ndarray, list[int]]:
        pixels, good, _ = media.batch(list(pictures), (*clip, *side))
        if not good:
            return np.zeros((0, 1), "float32"), good
        flat = pixels.reshape(-1, *side) if len(encoder.input.shape) == 4 else pixels
        maps = in_pieces(encoder.predict_on_batch, flat, 16)
        means = maps.reshape(len(good), -1, maps.shape[-1]).mean(axis=1)
        return means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-9), good

    return name, run


@functools.lru_cache(maxsize=1)
def seen(encoder: str, frames: tuple[int, ...]) -> dict[str, np.ndarray | None]:
    """Features by picture, to be filled: kept for the next split that is judged by the same encoder.

    >>> seen("an encoder", (8,)) is seen("an encoder", (8,))
    True
    """
    return {}


def features(
    run: Callable, ds: Iterable[Mapping], told: Callable[[int], object], found: dict[str, np.ndarray | None]
) -> np.ndarray:
    """Features of every example's picture, in order; zeros where it cannot be read.

    Each picture is seen once, and not at all if it is `found` already; new ones are added there.

    >>> features(lambda pictures: (np.ones((1, 2)), [1]), [{"image": b"bad"}, {"image": b"good"}], print, {}).tolist()
    2
    [[0.0, 0.0], [1.0, 1.0]]
    """
    order: list[str] = []
    for _, chunk in examples.chunks(examples.plain(ds), 64, told):
        pictures = [examples.picture(example) for example in chunk]
        keys = [examples.digest(picture) for picture in pictures]
        order += keys
        new = {key: picture for key, picture in zip(keys, pictures, strict=True) if key not in found}
        if new:
            values, good = run(list(new.values()))
            fine = dict(zip(good, values.astype("float32"), strict=True))
            found |= {key: fine.get(at) for at, key in enumerate(new)}
    width = next((len(value) for value in found.values() if value is not None), 1)
    empty = np.zeros(width, "float32")
    return np.stack([empty if (one := found[key]) is None else one for key in order])


def suited(outcome: Outcome, wanted: Sequence[str]) -> list[str]:
    """Which of the wanted baselines say anything about this kind of outcome.

    >>> suited(Outcome("captions", (), {}), BASELINES)
    ['most_frequent', 'nearest_neighbour']
    """
    unknown = [name for name in wanted if name not in BASELINES]
    if unknown:
        raise ValueError(f"there is no baseline {unknown[0]!r}: choose among {', '.join(BASELINES)}")
    texts = ("most_frequent", "nearest_neighbour")
    fitting = {
        "captions": texts,
        "labels": texts,
        "answers": (*texts, "question_alone"),
        "label": (*texts, "question_alone"),
        "matches": ("chance",),
        "search": ("chance",),
    }[outcome.kind]
    return [name for name in wanted if name in fitting]


def classes_of(model: VisionText) -> list[str]:
    """The names of a model's classes, none where it has no classes."""
    return model.class_names if isinstance(model, Answerer) else []


def _saying(outcome: Outcome, said: Sequence[str]) -> Outcome:
    rows = tuple(row._replace(said=words) for row, words in zip(outcome.rows, said, strict=True))
    return outcome._replace(rows=rows)


def _labelled(outcome: Outcome, scores: np.ndarray, names: Sequence[str]) -> Outcome:
    said = [", ".join(names[int(c)] for c in np.flatnonzero(row > 0)) for row in scores]
    return _saying(outcome, said)._replace(scores=scores)


def _commonest(texts: Iterable[str]) -> str:
    """The text that comes most often, whatever its case, as it is first written; of equals, the first."""
    counts: Counter[str] = Counter()
    written: dict[str, str] = {}
    for words in texts:
        counts[normalize(words)] += 1
        written.setdefault(normalize(words), words)
    return written[counts.most_common(1)[0][0]]
