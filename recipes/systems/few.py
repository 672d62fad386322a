"""Learn classes from a few examples: nearest neighbour, prototypes, a linear probe and a model of the zoo with LoRA.

    vtx convert minilm_l6             # once
    python -m recipes.systems.few     # ten minutes on two cores

Pictures and texts are encoded once by frozen encoders. Nothing is chosen on the test split, and no epoch is picked:
settings are fixed, as they are where only a few examples exist. Each draw has other examples; those of fewer shots are
among those of more.
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
TUNED = (2, 5, 10)  # shots of the model with LoRA
RANK = 8
STEPS, BATCH, RATE = 200, 32, 1e-3
PROBED = 200  # steps of the linear probe
ARTIST = b"noto"  # whose emoji are learned from
LORA = "fusion with LoRA"
NAMES = ("accuracy", "recall_macro")
LEAST = 10, 3  # concepts of a sub-group of emoji: to learn from, to be tested with
ENCODER = {"image_encoder": "efficientnet_lite0", "image_shape": (160, 160, 3)}


class Points(NamedTuple):
    """Examples as vectors of length one, with class numbers, and what each is resampled with."""

    vectors: np.ndarray
    classes: np.ndarray
    groups: list[str]
    inputs: dict[str, np.ndarray]  # of what stands behind the encoders


def unit(vectors: np.ndarray) -> np.ndarray:
    """Scale vectors to length one.

    >>> unit(np.array([[3.0, 4.0]])).tolist()
    [[0.6, 0.8]]
    """
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9)


def drawn(classes: Sequence[int], count: int, seed: int = 0) -> np.ndarray:
    """Return the places of `count` examples of each class, drawn at random; more are the same and others.

    >>> drawn([0, 1, 0, 1, 1], 1, seed=1).tolist(), sorted(drawn([0, 1, 0, 1, 1], 2, seed=1).tolist())
    ([0, 3], [0, 1, 2, 3])
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
    """Return the class of the nearest of some known vectors, by cosine; without `classes` each is one of its own.

    >>> nearest(np.array([[1.0, 0.2]]), prototypes(np.eye(2), [0, 1])).tolist()
    [0]
    """
    places = (unit(vectors) @ unit(known).T).argmax(axis=1)
    return places if classes is None else np.asarray(classes)[places]


def by_prototypes(learned: Points, tested: Points) -> np.ndarray:
    """Predict the class with the nearest prototype."""
    return nearest(tested.vectors, prototypes(learned.vectors, learned.classes))


def by_neighbour(learned: Points, tested: Points) -> np.ndarray:
    """Predict the class of the nearest example."""
    return nearest(tested.vectors, learned.vectors, learned.classes)


def by_probe(learned: Points, tested: Points) -> np.ndarray:
    """Fit softmax regression on the vectors, without the mean of the examples, and with a weight decay."""
    keras.utils.set_random_seed(0)
    mean, scale = learned.vectors.mean(axis=0), learned.vectors.shape[1] ** 0.5
    model = keras.Sequential([keras.layers.Dense(int(learned.classes.max()) + 1, kernel_initializer="zeros")])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.AdamW(1e-3, weight_decay=1e-2), loss, jit_compile=False)
    batch = len(learned.classes)
    model.fit((learned.vectors - mean) * scale, learned.classes, epochs=PROBED, batch_size=batch, verbose=0)
    return model.predict((tested.vectors - mean) * scale, batch_size=1024, verbose=0).argmax(axis=1)


def by_lora(built: Any, learned: Points, tested: Points) -> np.ndarray:
    """Train a model of the zoo behind its encoders, whose fusion block gets additions of low rank."""
    built.enable_lora(RANK)
    part, count = arrays.behind(built), len(learned.classes)
    part.compile(train.adamw(part, STEPS, learning_rate=RATE), loss=part.loss, jit_compile=False)
    rounds = -(-STEPS * BATCH // count)  # as many steps for any number of examples
    rows = np.concatenate([np.random.default_rng(at).permutation(count) for at in range(rounds)])[: STEPS * BATCH]
    part.fit(chosen(learned, rows).inputs, learned.classes[rows], batch_size=BATCH, shuffle=False, verbose=0)
    return part.predict(tested.inputs, batch_size=256, verbose=0).argmax(axis=1)


def chosen(points: Points, rows: np.ndarray) -> Points:
    """Return some of the examples."""
    inputs = {name: values[rows] for name, values in points.inputs.items()}
    return Points(points.vectors[rows], points.classes[rows], [points.groups[row] for row in rows], inputs)


METHODS = {"nearest neighbour": by_neighbour, "prototypes": by_prototypes, "linear probe": by_probe}


# --- data sets


def flowers(split: str) -> data.Examples:
    """Load photographs of 102 kinds of flowers."""
    rows = data.load("flowers102", split).encoded
    kept = {"image": "image", "image_id": "id", "label": "name"}
    return data.Examples(rows.map(lambda row: {**{key: row[name] for key, name in kept.items()}, "text": ""}))


def drawings(split: str) -> data.Examples:
    """Load emoji of the sub-groups with enough concepts, one of each concept and artist.

    Learned from are those of the first artist; tested are other concepts, by four artists.
    """
    ids = tf.constant([id for id, *_ in drawn_once(split)])
    rows = data.load("emoji", split).encoded.filter(lambda row: tf.reduce_any(row["id"] == ids))
    kept = {"image": "image", "image_id": "concept", "label": "subgroup"}
    return data.Examples(rows.map(lambda row: {**{key: row[name] for key, name in kept.items()}, "text": ""}))


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
    counts = []
    for split in ("train", "test"):
        counts.append(Counter(row[3].decode() for row in drawn_once(split, False) if row[1] == ARTIST))
    learned, tested = counts
    return tuple(sorted(name for name in learned if learned[name] >= LEAST[0] and tested[name] >= LEAST[1]))


SETS = {"flowers102": flowers, "emoji": drawings, "posts": sentiment.posts}


def model(name: str) -> Any:
    """Build a classifier of a set's classes between two frozen encoders; pictures alone have an empty text."""
    options = {**sentiment.OPTIONS, "classes": classes(name), "max_length": 40 if name == "posts" else 4}
    built = zoo.build("cross_attn_classifier", weights="encoders", **options)
    built.freeze("image", "text")
    return built


@functools.cache
def classes(name: str) -> list[str]:
    """Return the classes of a set, by name."""
    rows = SETS[name]("train").encoded.map(lambda row: row["label"])
    return sorted({label.decode() for label in rows.as_numpy_iterator()})


def points(name: str, split: str) -> Points:
    """Return the vectors of a split: the mean features of the picture and, if there is a text, MiniLM's vector of it."""
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
            methods: dict[str, Callable[[Points, Points], np.ndarray]] = dict(METHODS)
            if shots in TUNED:
                keras.utils.set_random_seed(draw)
                methods[LORA] = functools.partial(by_lora, model(name))
            for method, predict in methods.items():
                start, key = time.monotonic(), label(method, shots)
                measured = metrics.one_label(predict(learned, tested), tested.classes)
                rows[key].append({one: measured[one] for one in NAMES})
                seconds[key].append(time.monotonic() - start)
        said = {key: statistics.mean(one["accuracy"].value for one in rows[key]) for key in list(rows)[-len(methods) :]}
        print(name, ", ".join(f"{key} {value:.3f}" for key, value in said.items()), flush=True)
    frequent = np.full(len(tested.classes), np.bincount(pool.classes).argmax())
    measured = metrics.one_label(frequent, tested.classes)
    rows["most frequent class"] = [{one: measured[one] for one in NAMES}]
    return dict(rows), tested, {key: round(statistics.mean(value), 2) for key, value in seconds.items()}


def label(method: str, shots: int) -> str:
    """Name a method with a number of examples.

    >>> label("prototypes", 1), label("prototypes", 5)
    ('prototypes, 1 example', 'prototypes, 5 examples')
    """
    return f"{method}, {shots} example{'s' if shots > 1 else ''}"


def main() -> None:
    """Run all sets and store the figures; the spread over draws stands beside each interval."""
    sets = {}
    for name in SETS:
        rows, tested, seconds = judged(name)
        first = "nearest neighbour"
        pairs = [
            (label(method, shots), label(first, shots))
            for shots in SHOTS for method in ("prototypes", "linear probe", LORA) if label(method, shots) in rows
        ]  # fmt: skip
        found = trials.compared(rows, NAMES, tested.groups, pairs)
        for pair, named in found["differences"].items():
            one, other = pair.split(" minus ")
            for metric, figure in named.items():
                draws = zip(*(found["figures"][key][metric]["seeds"] for key in (one, other)), strict=True)
                figure["seeds"] = [round(x - y, 4) for x, y in draws]
        sets[name] = {"classes": len(classes(name)), "rows": len(tested.classes), "seconds": seconds, **found}
    trials.store("few", draws=DRAWS, sets=sets)


if __name__ == "__main__":
    main()
