"""Learn classes from a few examples: nearest neighbour, prototypes, a linear probe and a model of the zoo with LoRA.

    vtx convert minilm_l6             # once
    python -m recipes.systems.few     # a quarter of an hour on two cores

Pictures and texts are encoded once by frozen encoders. Settings were fixed on validation; no epoch is picked, since who
has a few examples has no validation set. The draws are of the training split; fewer examples are among more.
"""

from __future__ import annotations

import functools
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from recipes import word_vectors
from recipes.systems import arrays, sentiment, trials
from vtx_keras import data, metrics, train, zoo
from vtx_keras.metrics import Measure

SHOTS, DRAWS = (1, 2, 5, 10), 5
TUNED = (5, 10)  # shots of the model with LoRA
RANK = 8
EPOCHS, LEAST_STEPS, BATCH, RATE = 12, 100, 32, 5e-3
RIDGE = 0.3
ARTIST = b"noto"  # whose emoji are learned from
LORA = "fusion with LoRA"
NAMES = ("accuracy", "recall_macro")
LEAST = 10, 3  # concepts of a sub-group of emoji: to learn from, to be tested with


class Points(NamedTuple):
    """Examples as vectors of length one, with class numbers, and what each is resampled with."""

    vectors: np.ndarray
    classes: np.ndarray
    groups: list[str]
    inputs: dict[str, np.ndarray]  # of what stands behind the encoders


def unit(vectors: np.ndarray) -> np.ndarray:
    """Scale vectors to length one."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9)


def drawn(classes: Sequence[int], count: int, seed: int = 0) -> np.ndarray:
    """Return the places of `count` examples of each class, drawn at random; more are the same and others.

    >>> drawn([0, 1, 0, 1, 1], 1, seed=1).tolist(), sorted(drawn([0, 1, 0, 1, 1], 2, seed=1).tolist())
    ([0, 4], [0, 1, 2, 4])
    """
    classes = np.asarray(classes)
    order = np.random.default_rng(seed).permutation(len(classes))
    found = []
    for number in np.unique(classes):
        places = order[classes[order] == number][:count]
        if len(places) < count:
            raise ValueError(f"class {number} has {len(places)} examples: expected at least {count}")
        found.append(places)
    return np.concatenate(found)


def prototypes(vectors: np.ndarray, classes: Sequence[int]) -> np.ndarray:
    """Return the mean of each class's vectors of length one, at length one: (classes, width).

    >>> prototypes(np.array([[2.0, 0.0], [0.0, 1.0], [0.0, 5.0]]), [0, 1, 1]).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    classes = np.asarray(classes)
    return unit(np.stack([unit(vectors[classes == number]).mean(axis=0) for number in np.unique(classes)]))


def nearest(vectors: np.ndarray, known: np.ndarray, classes: Sequence[int] | None = None) -> np.ndarray:
    """Return the class of the nearest of some known vectors, by cosine; without `classes` each is one of its own."""
    places = (unit(vectors) @ unit(known).T).argmax(axis=1)
    return places if classes is None else np.asarray(classes)[places]


def by_prototypes(learned: Points, tested: Points) -> np.ndarray:
    """Predict the class with the nearest prototype."""
    return nearest(tested.vectors, prototypes(learned.vectors, learned.classes))


def by_neighbour(learned: Points, tested: Points) -> np.ndarray:
    """Predict the class of the nearest example."""
    return nearest(tested.vectors, learned.vectors, learned.classes)


def by_probe(learned: Points, tested: Points) -> np.ndarray:
    """Fit a linear map from vectors to classes by ridge regression, and predict the class with the highest output."""
    mean, aims = learned.vectors.mean(axis=0), np.eye(int(learned.classes.max()) + 1)[learned.classes]
    x, middle = learned.vectors - mean, aims.mean(axis=0)
    weights = x.T @ np.linalg.solve(x @ x.T + RIDGE * np.eye(len(x)), aims - middle)
    return ((tested.vectors - mean) @ weights + middle).argmax(axis=1)


def by_lora(built: Any, learned: Points, tested: Points) -> np.ndarray:
    """Train a new model of the zoo behind its encoders; the fusion block gets additions of low rank."""
    built.enable_lora(RANK)
    part, batches = arrays.behind(built), -(-len(learned.classes) // BATCH)
    epochs = max(EPOCHS, LEAST_STEPS // batches)
    part.compile(train.adamw(part, epochs * batches, learning_rate=RATE), loss=part.loss, jit_compile=False)
    part.fit(learned.inputs, learned.classes, batch_size=BATCH, epochs=epochs, verbose=0)
    return part.predict(tested.inputs, batch_size=256, verbose=0).argmax(axis=1)


def chosen(points: Points, rows: np.ndarray) -> Points:
    """Return some of the examples."""
    inputs = {name: values[rows] for name, values in points.inputs.items()}
    return Points(points.vectors[rows], points.classes[rows], [points.groups[row] for row in rows], inputs)


METHODS: dict[str, Callable[[Points, Points], np.ndarray]] = {
    "nearest neighbour": by_neighbour, "prototypes": by_prototypes, "linear probe": by_probe,
}  # fmt: skip


# --- data sets


def flowers(split: str) -> data.Examples:
    """Load photographs of 102 kinds of flowers."""
    return named(data.load("flowers102", split).encoded, "id", "name")


def drawings(split: str) -> data.Examples:
    """Load emoji of the sub-groups with enough concepts, one of each concept and artist.

    Learned from are those of the first artist; tested are other concepts, by four artists.
    """
    ids = tf.constant([id for id, *_ in drawn_once(split)])
    rows = data.load("emoji", split).encoded.filter(lambda row: tf.reduce_any(row["id"] == ids))
    return named(rows, "concept", "subgroup")


def named(rows: tf.data.Dataset, group: str, label: str) -> data.Examples:
    """Return rows as a classifier of pictures alone reads them."""
    fields = {"image": "image", "image_id": group, "label": label}
    return data.Examples(rows.map(lambda row: {**{key: row[name] for key, name in fields.items()}, "text": ""}))


@functools.cache
def drawn_once(split: str, chosen: bool = True) -> list[tuple[bytes, bytes, bytes, bytes]]:
    """Return the first row of each concept and artist: id, artist, concept and sub-group; perhaps of all sub-groups."""
    keys = ("id", "vendor", "concept", "subgroup")
    rows = data.load("emoji", split).encoded.map(lambda row: {key: row[key] for key in keys}).as_numpy_iterator()
    first: dict[tuple, tuple] = {}
    for row in rows:
        if split == "test" or row["vendor"] == ARTIST:
            first.setdefault((row["vendor"], row["concept"]), tuple(row[key] for key in keys))
    names = subgroups() if chosen else ()
    return [row for row in first.values() if not chosen or row[3].decode() in names]


@functools.cache
def subgroups() -> tuple[str, ...]:
    """Return the sub-groups with at least LEAST concepts by the first artist, in the training and the test split."""
    learned, tested = (
        Counter(row[3].decode() for row in drawn_once(split, False) if row[1] == ARTIST) for split in ("train", "test")
    )
    return tuple(sorted(name for name in learned if learned[name] >= LEAST[0] and tested[name] >= LEAST[1]))


SETS = {"flowers102": flowers, "emoji": drawings, "posts": sentiment.posts}


def model(name: str) -> Any:
    """Build a classifier of a set's classes between two frozen encoders; pictures alone have an empty text."""
    length = 40 if name == "posts" else 4
    options = {**sentiment.OPTIONS, "classes": classes(name), "dropout": 0.1, "max_length": length}
    built = zoo.build("cross_attn_classifier", weights="encoders", **options)
    built.freeze("image", "text")
    return built


@functools.cache
def classes(name: str) -> list[str]:
    """Return the classes of a set, by name."""
    rows = SETS[name]("train").encoded.map(lambda row: row["label"])
    return sorted({label.decode() for label in rows.as_numpy_iterator()})


def points(name: str, split: str) -> Points:
    """Return a split as vectors: the mean features of each picture, for posts beside MiniLM's vector of the text."""
    kept = arrays.kept(model(name), SETS[name](split))
    vectors = unit(kept.inputs["image"].mean(axis=(1, 2), dtype="float32"))
    if name == "posts":
        vectors = unit(np.concatenate([vectors, unit(word_vectors.of([row.read for row in kept.rows]))], axis=1))
    return Points(vectors, kept.classes, [row.group for row in kept.rows], kept.inputs)


# --- trials


def judged(name: str) -> tuple[dict[str, list[dict[str, Measure]]], Points, dict[str, float]]:
    """Predict the test split from each draw of examples by each method; return the measures, by method and shots."""
    pool, tested = points(name, "train"), points(name, "test")
    rows: dict[str, list[dict[str, Measure]]] = defaultdict(list)
    seconds: dict[str, list[float]] = defaultdict(list)
    for shots in SHOTS:
        for draw in range(DRAWS):
            learned = chosen(pool, drawn(pool.classes, shots, draw))
            keras.backend.clear_session()  # of earlier draws
            keras.utils.set_random_seed(draw)
            tuned = {LORA: functools.partial(by_lora, model(name))} if shots in TUNED else {}
            for method, predict in {**METHODS, **tuned}.items():
                start, key = time.monotonic(), label(method, shots)
                measured = metrics.one_label(predict(learned, tested), tested.classes)
                rows[key].append({one: measured[one] for one in NAMES})
                seconds[key].append(time.monotonic() - start)
        for key in [key for key in rows if key.endswith(label("", shots))]:
            print(f"{name}: {key} {statistics.mean(one['accuracy'].value for one in rows[key]):.3f}", flush=True)
    frequent = np.full(len(tested.classes), np.bincount(pool.classes).argmax())
    measured = metrics.one_label(frequent, tested.classes)
    rows["most frequent class"] = [{one: measured[one] for one in NAMES}]
    return dict(rows), tested, {key: round(statistics.mean(value), 2) for key, value in seconds.items()}


def label(method: str, shots: int) -> str:
    """Name a method with a number of examples, as "prototypes, 5 examples"."""
    return f"{method}, {shots} example{'s' if shots > 1 else ''}"


def main() -> None:
    """Run all sets and store the figures; the spread over draws stands beside each interval."""
    sets = {}
    for name in SETS:
        rows, tested, seconds = judged(name)
        others = [(label(method, n), label("nearest neighbour", n)) for n in SHOTS for method in METHODS]
        others += [(label(LORA, n), label("nearest neighbour", n)) for n in TUNED]
        found = trials.compared(rows, NAMES, tested.groups, [pair for pair in others if pair[0] != pair[1]])
        for pair, by_metric in found["differences"].items():
            for metric, figure in by_metric.items():
                draws = zip(*(found["figures"][key][metric]["seeds"] for key in pair.split(" minus ")), strict=True)
                figure["seeds"] = [round(x - y, 4) for x, y in draws]
        sets[name] = {"classes": len(classes(name)), "rows": len(tested.classes), "seconds": seconds, **found}
    trials.store("few", draws=DRAWS, sets=sets)


if __name__ == "__main__":
    main()
