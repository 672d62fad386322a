"""Predict without the model: baselines that a useful model must beat.

Each takes the model's outcome and returns one for the same rows with other predictions, so that both are measured
alike. Baselines use only the training split; the nearest neighbour is the training image with the closest features.
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
from vtx_keras.models._base import VisionText, run_in_batches
from vtx_keras.models._readers import Answerer

BASELINES = ("most_frequent", "question_alone", "nearest_neighbour", "chance")
ENCODER, SIDE = "efficientnet_lite0", 160  # its published weights have not seen our data


class TrainingTexts(NamedTuple):
    """The input text and the correct texts or labels of each row of a training split."""

    inputs: tuple[str, ...]
    targets: tuple[tuple[str, ...], ...]


def training_texts(model: VisionText, ds: Any) -> TrainingTexts:
    """Read the texts of a training split.

    >>> from vtx_keras import zoo
    >>> model = zoo.build("gated_captioner", weights=None, dim=32, depth=1, vision_depth=1, image_shape=(32, 32, 3))
    >>> training_texts(model, [{"image": b"", "caption": "a cat"}]).targets
    (('a cat',),)
    """
    pairs = [examples.text_and_targets(model, example) for example in examples.as_numpy(ds)]
    return TrainingTexts(*map(tuple, zip(*pairs, strict=True))) if pairs else TrainingTexts((), ())


def most_frequent(outcome: Outcome, train: TrainingTexts, names: Sequence[str]) -> Outcome:
    """Predict the most common training text for every row; with several labels, the log odds of each.

    >>> from vtx_keras.evaluate._outcomes import Row
    >>> outcome = Outcome("captions", (Row(0, "0", "0", "", ("a cat",)),), {})
    >>> most_frequent(outcome, TrainingTexts(("",) * 3, (("a dog",), ("a cat",), ("A dog",))), []).rows[0].said
    'a dog'
    """
    if outcome.kind == "labels":
        shares = np.array([np.mean([name in targets for targets in train.targets]) for name in names])
        odds = np.log((shares + 1e-9) / (1 - shares + 1e-9))
        return _with_scores(outcome, np.tile(odds, (len(outcome.rows), 1)), names)
    text = _most_common(text for targets in train.targets for text in targets)
    return _with_texts(outcome, [text] * len(outcome.rows))


def question_alone(outcome: Outcome, train: TrainingTexts) -> Outcome:
    """Predict the most common training answer to the same question, or else to any question.

    >>> from vtx_keras.evaluate._outcomes import Row
    >>> outcome = Outcome("answers", (Row(0, "0", "0", "is it red?", ("yes",)),), {})
    >>> train = TrainingTexts(("what?", "what?", "Is it red?"), (("dog",), ("dog",), ("no",)))
    >>> question_alone(outcome, train).rows[0].said
    'no'
    """
    answers_to: defaultdict[str, list[str]] = defaultdict(list)
    for text, targets in zip(train.inputs, train.targets, strict=True):
        answers_to[normalize(text)] += targets
    default = _most_common(target for targets in train.targets for target in targets)
    answers = {text: _most_common(targets) for text, targets in answers_to.items()}
    return _with_texts(outcome, [answers.get(normalize(row.read), default) for row in outcome.rows])


def nearest_neighbour(
    outcome: Outcome,
    train: TrainingTexts,
    names: Sequence[str],
    points: tuple[np.ndarray, np.ndarray],
) -> Outcome:
    """Predict the target of the nearest training image, among those with the same question if there are any.

    `points` are unit features of the training rows and of the outcome's rows; an image without features is never
    nearest.

    >>> from vtx_keras.evaluate._outcomes import Row
    >>> outcome = Outcome("captions", (Row(0, "0", "0", "", ("a cat",)),), {})
    >>> points = np.eye(2), np.array([[0.6, 0.8]])
    >>> nearest_neighbour(outcome, TrainingTexts(("", ""), (("a dog",), ("a lion",))), [], points).rows[0].said
    'a lion'
    """
    train_points, row_points = points
    train_rows_of = defaultdict(list)
    for number, text in enumerate(train.inputs):
        train_rows_of[normalize(text)].append(number)
    rows_of = defaultdict(list)
    for number, row in enumerate(outcome.rows):
        rows_of[normalize(row.read)].append(number)
    nearest = np.zeros(len(outcome.rows), int)
    for text, rows in rows_of.items():
        pool = np.array(train_rows_of.get(text) or range(len(train_points)))
        for start in range(0, len(rows), 512):
            batch = rows[start : start + 512]
            nearest[batch] = pool[(row_points[batch] @ train_points[pool].T).argmax(axis=1)]
    if outcome.kind == "labels":
        targets = [train.targets[number] for number in nearest]
        scores = np.array([[1.0 if name in labels else -1.0 for name in names] for labels in targets])
        return _with_scores(outcome, scores, names)
    return _with_texts(outcome, [_most_common(train.targets[number]) for number in nearest])


def chance_level(outcome: Outcome) -> dict[str, float] | Outcome:
    """For pairs, predict the more common verdict; for a search, return the expected recall of a random ranking.

    >>> from vtx_keras.evaluate._outcomes import Row
    >>> rows = (Row(0, "0", "0", "", ("a", "b")), Row(0, "0", "0", "a", ()), Row(0, "0", "0", "b", ()))
    >>> outcome = Outcome("search", rows, {}, np.zeros((3, 1)), np.array([[0, 1], [0, 2]]))
    >>> chance_level(outcome)["text_to_image_recall_1"]
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
    figures: dict[str, float] = {}
    for direction, column in (("image_to_text", 0), ("text_to_image", 1)):
        counts = Counter(Counter(outcome.truth[:, column].tolist()).values())
        figures |= {f"{direction}_{name}": value for name, value in chance(sizes[direction], counts).items()}
    return figures


@functools.cache  # traced once per process
def _published_encoder(policy: str) -> keras.Model:
    """Load the encoder under the global dtype `policy`."""
    return published.load(ENCODER, image_shape=(SIDE, SIDE, 3))


def encoder_of(model: VisionText) -> tuple[str, Callable[[Sequence], tuple[np.ndarray, list[int]]]]:
    """Return an encoder's name, and a function from images to unit features (readable, dim) and their indices."""
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
        maps = run_in_batches(encoder.predict_on_batch, flat, 16)
        means = maps.reshape(len(good), -1, maps.shape[-1]).mean(axis=1)
        return means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-9), good

    return name, run


@functools.lru_cache(maxsize=1)
def feature_cache(encoder: str, frames: tuple[int, ...]) -> dict[str, np.ndarray | None]:
    """Return a cache of features by image digest, shared by all evaluations with this encoder.

    >>> feature_cache("an encoder", (8,)) is feature_cache("an encoder", (8,))
    True
    """
    return {}


def features(
    run: Callable, ds: Iterable[Mapping], update: Callable[[int], object], cache: dict[str, np.ndarray | None]
) -> np.ndarray:
    """Return the features of every example's image, in order; zeros if it cannot be read.

    Each image is encoded once, or not at all if it is in `cache`, to which new features are added.

    >>> features(lambda pictures: (np.ones((1, 2)), [1]), [{"image": b"bad"}, {"image": b"good"}], print, {}).tolist()
    2
    [[0.0, 0.0], [1.0, 1.0]]
    """
    order: list[str] = []
    for _, chunk in examples.chunks(examples.as_numpy(ds), 64, update):
        images = [examples.image_of(example) for example in chunk]
        keys = [examples.image_digest(image) for image in images]
        order += keys
        new = {key: image for key, image in zip(keys, images, strict=True) if key not in cache}
        if new:
            values, good = run(list(new.values()))
            new_features = dict(zip(good, values.astype("float32"), strict=True))
            cache |= {key: new_features.get(at) for at, key in enumerate(new)}
    width = next((len(value) for value in cache.values() if value is not None), 1)
    empty = np.zeros(width, "float32")
    return np.stack([empty if (value := cache[key]) is None else value for key in order])


def applicable(outcome: Outcome, wanted: Sequence[str]) -> list[str]:
    """Return which of the wanted baselines apply to this kind of outcome.

    >>> applicable(Outcome("captions", (), {}), BASELINES)
    ['most_frequent', 'nearest_neighbour']
    """
    unknown = [name for name in wanted if name not in BASELINES]
    if unknown:
        raise ValueError(f"there is no baseline {unknown[0]!r}: choose among {', '.join(BASELINES)}")
    texts = ("most_frequent", "nearest_neighbour")
    names = {
        "captions": texts,
        "labels": texts,
        "answers": (*texts, "question_alone"),
        "label": (*texts, "question_alone"),
        "matches": ("chance",),
        "search": ("chance",),
    }[outcome.kind]
    return [name for name in wanted if name in names]


def classes_of(model: VisionText) -> list[str]:
    """Return the names of a model's classes, or [] if it has none."""
    return model.class_names if isinstance(model, Answerer) else []


def _with_texts(outcome: Outcome, texts: Sequence[str]) -> Outcome:
    """Replace the predicted text of every row."""
    rows = tuple(row._replace(said=words) for row, words in zip(outcome.rows, texts, strict=True))
    return outcome._replace(rows=rows)


def _with_scores(outcome: Outcome, scores: np.ndarray, names: Sequence[str]) -> Outcome:
    """Replace scores and predicted labels of every row."""
    texts = [", ".join(names[int(c)] for c in np.flatnonzero(row > 0)) for row in scores]
    return _with_texts(outcome, texts)._replace(scores=scores)


def _most_common(texts: Iterable[str]) -> str:
    """Return the most common text, ignoring case, as first written; the first one if several are equally common."""
    counts: Counter[str] = Counter()
    original: dict[str, str] = {}
    for text in texts:
        counts[normalize(text)] += 1
        original.setdefault(normalize(text), text)
    return original[counts.most_common(1)[0][0]]
