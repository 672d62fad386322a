"""Predict without the model: baselines that a useful model must beat.

Each takes the model's outcome and returns one for the same rows with other predictions, so that both are measured
alike. Baselines use only the training split (`human` uses the references); the nearest neighbour is the training image
with the closest features.
"""

from __future__ import annotations

import functools
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np

from vtx_keras.checkpoints._folder import BadWeights
from vtx_keras.checkpoints.published import _encoders as published
from vtx_keras.data import _examples as examples
from vtx_keras.evaluate._captions import ORDERS, ngrams
from vtx_keras.evaluate._measures import chance
from vtx_keras.evaluate._outcomes import Outcome
from vtx_keras.inputs import media
from vtx_keras.inputs.text import normalize, tokens
from vtx_keras.models._base import VisionText
from vtx_keras.models._methods import Answerer
from vtx_keras.models.decode import run_in_batches

BASELINES = ("most_frequent", "question_alone", "nearest_neighbour", "chance", "without_history")  # by default
ON_REQUEST = ("consensus", "human")  # of captions
NEIGHBOURS = 60  # of an image, whose captions are the candidates of its consensus
SHARE = 0.5  # of the candidates, the most similar ones: a candidate's score is its mean similarity to them
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
    pairs = [examples.text_and_targets(model, example) for example in examples.turns_of(examples.as_numpy(ds))]
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
    nearest = np.zeros(len(outcome.rows), int)
    for rows, pool in _batches(outcome, train):
        nearest[rows] = pool[(row_points[rows] @ train_points[pool].T).argmax(axis=1)]
    if outcome.kind == "labels":
        targets = [train.targets[number] for number in nearest]
        scores = np.array([[1.0 if name in labels else -1.0 for name in names] for labels in targets])
        return _with_scores(outcome, scores, names)._replace(logits=False)
    return _with_texts(outcome, [_most_common(train.targets[number]) for number in nearest])


def consensus(
    outcome: Outcome,
    train: TrainingTexts,
    points: tuple[np.ndarray, np.ndarray],
    *,
    neighbours: int = NEIGHBOURS,
    share: float = SHARE,
) -> Outcome:
    """Predict the consensus caption (Devlin et al., 2015) of the nearest training images.

    Their captions are the candidates. Each scores its mean CIDEr similarity to the `share` of the other candidates that
    are most similar to it, and the best one is the prediction. `points` are those of `nearest_neighbour`. Training rows
    of one image are joined, so copies of a row count once.

    >>> from vtx_keras.evaluate._outcomes import Row
    >>> outcome = Outcome("captions", (Row(0, "0", "0", "", ("a cat",)),), {})
    >>> train = TrainingTexts(("",) * 3, (("a lion",), ("a dog runs", "one dog runs"), ("the dog runs", "a bus")))
    >>> points = np.eye(3), np.array([[0.8, 0.5, 0.33]])
    >>> consensus(outcome, train, points).rows[0].said
    'a dog runs'
    """
    train, train_points = _by_image(train, points[0])
    vectors = _cider_vectors(train.targets)
    predictions = [""] * len(outcome.rows)
    for rows, pool in _batches(outcome, train):
        near = points[1][rows] @ train_points[pool].T
        for row, order in zip(rows, np.argsort(-near, axis=1, kind="stable")[:, :neighbours], strict=True):
            texts = [text for number in pool[order] for text in train.targets[number]]
            if texts:
                grams, values = zip(*(vector for number in pool[order] for vector in vectors[number]), strict=True)
                predictions[row] = texts[_most_central(grams, values, share)]
    return _with_texts(outcome, predictions)


def without_history(outcome: Outcome, alone: Outcome) -> Outcome:
    """Predict what the model answers to a question of a conversation that is asked alone.

    >>> from vtx_keras.evaluate._outcomes import Row
    >>> outcome = Outcome("answers", (Row(3, "0", "0", "and the dog?", ("brown",), "brown", 1),), {})
    >>> without_history(outcome, Outcome("answers", (Row(3, "0", "0", "", (), "running"),), {})).rows[0].said
    'running'
    """
    said = {row.place: row.said for row in alone.rows}
    return _with_texts(outcome, [said.get(row.place, "") for row in outcome.rows])


def human(outcome: Outcome) -> Outcome:
    """Predict the first reference of every row, and expect its others: a person's caption, scored like a model's.

    >>> from vtx_keras.evaluate._outcomes import Row
    >>> row = human(Outcome("captions", (Row(0, "0", "0", "", ("a cat", "one cat"), "a dog"),), {})).rows[0]
    >>> row.said, row.expected
    ('a cat', ('one cat',))
    """
    rows = tuple(row._replace(said=row.expected[0], expected=row.expected[1:]) for row in outcome.rows)
    return outcome._replace(rows=rows)


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
        return outcome._replace(rows=rows, scores=scores, logits=False)
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
    if not model.has_layer("image_encoder"):
        return "the encoder, as kept", lambda kept: (_unit_means(np.asarray(kept, "float32")), list(range(len(kept))))
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
        return _unit_means(maps.reshape(len(good), -1, maps.shape[-1])), good

    return name, run


def _unit_means(maps: np.ndarray) -> np.ndarray:
    """Return the mean feature of each map (rows, ..., width) as a unit vector."""
    means = maps.reshape(len(maps), -1, maps.shape[-1]).mean(axis=1)
    return means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-9)


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


def check_baselines(names: Sequence[str]) -> None:
    """Raise `ValueError` for an unknown baseline.

    >>> check_baselines(["humane"])
    Traceback (most recent call last):
    ValueError: there is no baseline 'humane': choose among most_frequent, question_alone, nearest_neighbour, chance, \
without_history, consensus, human
    """
    every = (*BASELINES, *ON_REQUEST)
    unknown = [name for name in names if name not in every]
    if unknown:
        raise ValueError(f"there is no baseline {unknown[0]!r}: choose among {', '.join(every)}")


def applicable(outcome: Outcome, wanted: Sequence[str]) -> list[str]:
    """Return which of the wanted baselines apply to this kind of outcome.

    >>> applicable(Outcome("captions", (), {}), BASELINES)
    ['most_frequent', 'nearest_neighbour']
    """
    texts = ("most_frequent", "nearest_neighbour")
    names = {
        "captions": (*texts, *ON_REQUEST),
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


def _batches(outcome: Outcome, train: TrainingTexts) -> Iterator[tuple[list[int], np.ndarray]]:
    """Yield batches of rows that read the same text, with the training rows that read it, or all if none does."""
    train_rows_of = defaultdict(list)
    for number, text in enumerate(train.inputs):
        train_rows_of[normalize(text)].append(number)
    rows_of = defaultdict(list)
    for number, row in enumerate(outcome.rows):
        rows_of[normalize(row.read)].append(number)
    for text, rows in rows_of.items():
        pool = np.array(train_rows_of.get(text) or range(len(train.inputs)), int)
        for start in range(0, len(rows), 512):
            yield rows[start : start + 512], pool


def _by_image(train: TrainingTexts, points: np.ndarray) -> tuple[TrainingTexts, np.ndarray]:
    """Join training rows of one input text and image (by its features); leave out images without features or texts."""
    texts_of: dict[tuple[str, int], dict[str, str]] = {}
    first: list[int] = []
    for number, (read, targets) in enumerate(zip(train.inputs, train.targets, strict=True)):
        if targets and points[number].any():
            key = normalize(read), hash(points[number].tobytes())
            if key not in texts_of:
                texts_of[key] = {}
                first.append(number)
            for text in targets:
                texts_of[key].setdefault(normalize(text), text)
    inputs = tuple(train.inputs[number] for number in first)
    return TrainingTexts(inputs, tuple(tuple(texts.values()) for texts in texts_of.values())), points[first]


def _cider_vectors(targets: Sequence[Sequence[str]]) -> list[list[tuple[np.ndarray, np.ndarray]]]:
    """Return n-gram numbers and tf-idf values of every caption by image; a product of two is their CIDEr / 10."""
    number_of: dict[tuple[str, ...], int] = {}
    images = []
    for texts in targets:
        counts = [ngrams(tokens(text)) for text in texts]
        numbers = [np.array([number_of.setdefault(gram, len(number_of)) for gram in count], int) for count in counts]
        images.append([(gram, np.array([*count.values()], float)) for gram, count in zip(numbers, counts, strict=True)])
    order_of = np.array([len(gram) - 1 for gram in number_of], int)
    frequency = np.zeros(len(number_of))
    for image in images:
        frequency[np.unique(np.concatenate([gram for gram, _ in image]))] += 1
    rarity = math.log(max(len(targets), 1)) - np.log(frequency)

    def vector(gram: np.ndarray, count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        values, order = count * rarity[gram], order_of[gram]
        sizes = np.sqrt(ORDERS * np.bincount(order, values**2, ORDERS))
        return gram.astype("int32"), (values / np.maximum(sizes[order], 1e-9)).astype("float32")

    return [[vector(*caption) for caption in image] for image in images]


def _most_central(grams: Sequence[np.ndarray], values: Sequence[np.ndarray], share: float) -> int:
    """Return the index of the vector with the highest mean product with the `share` of others that are closest to it.

    >>> _most_central([np.array([0]), np.array([1, 2]), np.array([1])], [np.ones(1), np.ones(2), np.ones(1)], 0.5)
    1
    """
    count = len(grams)
    most = min(max(1, round(share * count)), count - 1)
    if not most:
        return 0
    rows = np.repeat(np.arange(count), [len(gram) for gram in grams])
    _, columns, uses = np.unique(np.concatenate(grams), return_inverse=True, return_counts=True)
    shared = uses > 1  # other n-grams are in no product
    keep = shared[columns]
    dense = np.zeros((count, int(shared.sum())), "float32")
    dense[rows[keep], (np.cumsum(shared) - 1)[columns[keep]]] = np.concatenate(values)[keep]
    products = dense @ dense.T
    np.fill_diagonal(products, -np.inf)
    return int(np.partition(products, count - most, axis=1)[:, count - most :].mean(axis=1).argmax())


def _with_texts(outcome: Outcome, texts: Sequence[str]) -> Outcome:
    """Replace the predicted text of every row; the model's scores are not those of the texts."""
    rows = tuple(row._replace(said=words) for row, words in zip(outcome.rows, texts, strict=True))
    return outcome._replace(rows=rows, scores=None)


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
