"""Search among products with two towers: by words, by a picture ("more like this"), by a picture "but blue".

    python -m recipes.systems.search     # a quarter of an hour on two cores

A picture and a text of the same product lie close, so words can be added to a picture, and the difference of two texts
is a direction among pictures as well: `like(picture, words, instead)`. Products of the same title are near copies: none
is a result of another.
"""

from __future__ import annotations

import functools
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from recipes.systems import trials
from recipes.systems.few import unit
from vtx_keras import data, metrics, text, zoo
from vtx_keras.metrics import Measure

OPTIONS = {
    "image_encoder": "efficientnet_lite0", "image_shape": (160, 160, 3), "dim": 192, "text_depth": 2, "max_length": 28,
    "dropout": 0.2,
}  # fmt: skip
SETTINGS = {"epochs": 15, "batch_size": 128, "learning_rate": 1e-3, "jit_compile": False, "save_every": 1000}
PIECES = 2000
TOP = 10  # results that are judged
WEIGHTS = (0.5, 0.75, 1.0, 1.5, 2.0, 4.0, 8.0)  # of words beside a picture; chosen on validation by CHOSEN_BY
ATTRIBUTES = ("type", "colour", "gender", "usage")
BOTH, CHOSEN_BY = "type and colour", "all four"
SHOWN = 'picture + "blue"'  # whose results are stored
KINDS = {"results by picture": "pictures", "results by picture and title": "pairs"}


class Catalogue(NamedTuple):
    """Products: embeddings of length one, titles, and the values of each attribute and of the "concept" (the title)."""

    pictures: np.ndarray  # (products, dim)
    titles: np.ndarray  # the same
    frozen: np.ndarray  # mean features of the image encoder
    said: list[str]
    of: dict[str, np.ndarray]

    @property
    def pairs(self) -> np.ndarray:
        """Pictures and titles together."""
        return unit(self.pictures + self.titles)


def like(picture: np.ndarray, words: np.ndarray, instead: np.ndarray | float = 0.0, weight: float = 1.0) -> np.ndarray:
    """Return the query "like this picture, but with these words", perhaps `instead` of others, from embeddings.

    >>> picture, blue, red = np.array([[0.6, 0.8, 0.0]]), np.array([[0.0, 0.0, 1.0]]), np.array([[0.6, 0.0, 0.0]])
    >>> like(picture, blue, red).round(2).tolist()
    [[0.0, 0.62, 0.78]]
    """
    return unit(picture + weight * (words - instead))


def products(split: str) -> data.Examples:
    """Load products; in the training split each has a second caption by rule, as "blue jeans men"."""

    def captioned(row: dict) -> dict:
        rule = tf.strings.reduce_join([row["colour"], row["type"], row["gender"]], separator=" ")
        return {**{key: row[key] for key in ("id", "image", "concept")}, "captions": [row["caption"], rule]}

    rows = data.load("fashion", split).encoded
    return data.Examples(rows.map(captioned) if split == "train" else rows)


def model() -> Any:
    """Build two towers, the image side behind a frozen encoder; the vocabulary is that of the training captions."""
    captions = [one.decode() for row in products("train").encoded.as_numpy_iterator() for one in row["captions"]]
    vocabulary = text.vocabulary(captions, size=PIECES)
    built = zoo.build("retriever", weights="encoders", vocabulary=vocabulary, **OPTIONS)
    built.freeze("image")
    return built


def trial() -> trials.Trial:
    """Return how a model is trained; it is judged here."""
    return trials.Trial(model, products("train"), products("validation"), {}, SETTINGS)


def catalogue(trained: Any, split: str) -> Catalogue:
    """Embed the products of a split."""
    rows, features = kept(split)
    said = [row["caption"].decode() for row in rows]
    of = {key: np.array([row[key].decode() for row in rows]) for key in (*ATTRIBUTES, "concept")}
    behind = trained.behind_encoder()
    pictures = behind.in_batches(behind.tower("image"), {"image": features}, 256)
    frozen = unit(features.mean(axis=(1, 2), dtype="float32"))
    return Catalogue(pictures, embedded(trained, said), frozen, said, of)


@functools.cache
def kept(split: str) -> tuple[list[dict], np.ndarray]:
    """Return the products of a split without pictures, and the features of their pictures."""
    rows = list(data.features(data.load("fashion", split), model(), trials.FEATURES).as_numpy_iterator())
    return rows, np.stack([row.pop("image") for row in rows])


def embedded(trained: Any, texts: Sequence[str]) -> np.ndarray:
    """Return the embeddings of texts."""
    return trained.in_batches(trained.tower("text"), {"tokens": trained.tokens_of(texts)}, 256)


def joined(one: Catalogue, other: Catalogue) -> Catalogue:
    """Return the products of two catalogues."""
    arrays = [np.concatenate(both) for both in zip(one[:3], other[:3], strict=True)]
    of = {key: np.concatenate([one.of[key], other.of[key]]) for key in one.of}
    return Catalogue(*arrays, one.said + other.said, of)


def found(queries: np.ndarray, candidates: np.ndarray, asked: np.ndarray, titles: np.ndarray) -> np.ndarray:
    """Return the places of the TOP nearest candidates of each query, without those of the query's own title."""
    near = np.where(asked[:, None] == titles[None, :], -np.inf, queries @ candidates.T)
    count = min(TOP, int(np.isfinite(near).sum(axis=1).min()))
    places = np.sort(np.argpartition(-near, count - 1, axis=1)[:, :count], axis=1)
    order = np.argsort(-np.take_along_axis(near, places, axis=1), axis=1, kind="stable")
    return np.take_along_axis(places, order, axis=1)


def by_words(near: Catalogue) -> tuple[dict[str, Measure], list[str]]:
    """Measure the search of pictures by titles and of titles by pictures, and return their groups."""
    names = list(dict.fromkeys(near.of["concept"]))
    first = [int(np.argmax(near.of["concept"] == name)) for name in names]
    place = {name: at for at, name in enumerate(names)}
    of = [place[name] for name in near.of["concept"]]
    measured = metrics.retrieval(near.pictures, near.titles[first], of, list(range(len(of))))
    return measured, [*near.of["concept"].tolist(), *names]


def judged(everything: Catalogue, results: np.ndarray, wanted: Mapping[str, np.ndarray]) -> dict[str, Measure]:
    """Return the share of each query's results that have the wanted type, colour, gender and usage, and several."""
    right = {key: everything.of[key][results] == wanted[key][:, None] for key in ATTRIBUTES}
    right |= {BOTH: right["type"] & right["colour"], CHOSEN_BY: np.all([*right.values()], axis=0)}
    return {name: metrics.mean(one.mean(axis=1)) for name, one in right.items()}


def more_like_this(asked: Catalogue, everything: Catalogue) -> dict[str, dict[str, Measure]]:
    """Judge the nearest products by each kind of vector, and a random order: they should share the query's values."""
    kinds = {"picture": "pictures", "title": "titles", "picture and title": "pairs", "frozen encoder": "frozen"}
    vectors = {name: (getattr(asked, kind), getattr(everything, kind)) for name, kind in kinds.items()}
    random = np.random.default_rng(0).random((len(asked.said), len(everything.said)), "float32")
    vectors["chance"] = random, np.eye(random.shape[1], dtype="float32")
    titles = asked.of["concept"], everything.of["concept"]
    return {name: judged(everything, found(*both, *titles), asked.of) for name, both in vectors.items()}


class Wish(NamedTuple):
    """Queries "like this but in that colour": places of products, and colours."""

    places: np.ndarray
    colours: np.ndarray


def wishes(asked: Catalogue, everything: Catalogue, seed: int = 0) -> Wish:
    """Draw another colour for each product, of those that TOP or more products of its type and gender have."""
    keys = ("type", "gender", "colour")
    counts = Counter(zip(*(everything.of[key] for key in keys), strict=True))
    random, places, colours = np.random.default_rng(seed), [], []
    for at, (*kind, own) in enumerate(zip(*(asked.of[key] for key in keys), strict=True)):
        others = sorted(one[2] for one, n in counts.items() if [*one[:2]] == kind and n >= TOP and one[2] != own)
        if others:
            places.append(at)
            colours.append(others[random.integers(len(others))])
    return Wish(np.array(places), np.array(colours))


def queries(trained: Any, asked: Catalogue, wish: Wish) -> dict[str, Callable[[float], np.ndarray]]:
    """Return how each way to ask makes queries, given the weight of the words."""
    picture, own, kinds = asked.pictures[wish.places], asked.of["colour"][wish.places], asked.of["type"][wish.places]
    colour, before = (embedded(trained, [one.lower() for one in colours]) for colours in (wish.colours, own))
    named, named_before = (
        embedded(trained, [f"{one} {kind}".lower() for one, kind in zip(colours, kinds, strict=True)])
        for colours in (wish.colours, own)
    )
    return {
        "picture": lambda weight: picture,
        '"blue"': lambda weight: colour,
        '"blue jeans"': lambda weight: named,
        'picture + "blue"': lambda weight: like(picture, colour, weight=weight),
        'picture + "blue" - "white"': lambda weight: like(picture, colour, before, weight),
        'picture + "blue jeans"': lambda weight: like(picture, named, weight=weight),
        'picture + "blue jeans" - "white jeans"': lambda weight: like(picture, named, named_before, weight),
    }


def like_this_but(
    trained: Any, asked: Catalogue, everything: Catalogue, kind: str, weights: Mapping[str, float] | None = None
) -> dict[str, tuple[float, dict[str, Measure], np.ndarray]]:
    """Judge each way to ask among one kind of vectors: the weight, if none is given the best, measures and results."""
    wish = wishes(asked, everything)
    wanted = {**{key: asked.of[key][wish.places] for key in ATTRIBUTES}, "colour": wish.colours}
    titles = asked.of["concept"][wish.places], everything.of["concept"]
    table = {}
    for name, query in queries(trained, asked, wish).items():
        tried = []
        for weight in [weights[name]] if weights else WEIGHTS if " + " in name else [0.0]:
            results = found(query(weight), getattr(everything, kind), *titles)
            tried.append((weight, judged(everything, results, wanted), results))
        table[name] = max(tried, key=lambda one: one[1][CHOSEN_BY].value)
    return table


def main() -> None:
    """Train with each seed, judge all searches and store the figures."""
    rows: dict[str, dict[str, list]] = defaultdict(lambda: defaultdict(list))
    weights: dict[str, dict[str, list]] = defaultdict(lambda: defaultdict(list))
    seconds: list[float] = []
    for seed in trials.SEEDS:
        trained, took = trials.trained(trial(), trials.RUNS / f"search-{seed}", seed)
        seconds.append(took)
        learned, validation, test = (catalogue(trained, split) for split in ("train", "validation", "test"))
        everything, before = joined(test, learned), joined(validation, learned)
        measured, groups = by_words(test)
        rows["by words"]["retriever"].append(measured)
        drawn = np.random.default_rng(seed).normal(size=(2, len(test.said), 8))  # the same vector for the same title
        rows["by words"]["chance"].append(by_words(test._replace(pictures=drawn[0], titles=drawn[1]))[0])
        for name, one in more_like_this(test, everything).items():
            rows["more like this"][name].append(one)
        for title, kind in KINDS.items():
            best = {name: one[0] for name, one in like_this_but(trained, validation, before, kind).items()}
            shown = like_this_but(trained, test, everything, kind, best)
            for name, one in shown.items():
                rows[f"like this but blue, {title}"][name].append(one[1])
                weights[title][name].append(best[name])
        print(f"search, seed {seed}: {took:.0f} s", flush=True)
    places, colours = wishes(test, everything)
    of = {"by words": groups, "more like this": test.of["concept"].tolist()}
    pairs = {"by words": [("retriever", "chance")], "more like this": [("picture", "frozen encoder")]}
    composed = [(name, other) for name in shown if " + " in name for other in shown if " + " not in other]
    stored = {}
    for part, table in rows.items():
        resampled = of.get(part, test.of["concept"][places].tolist())
        names = list(next(iter(table.values()))[0])
        compared = trials.compared(table, names, resampled, pairs.get(part, composed))
        stored[part] = {"rows": len(resampled), **compared}
    results = shown[SHOWN][2][:, :5]
    examples = [
        {"query": test.said[places[at]], "but": str(colours[at]), "results": [everything.said[i] for i in results[at]]}
        for at in range(0, len(places), len(places) // 12)
    ]
    trials.store("search", seconds=round(np.mean(seconds)), weights=weights, **stored, examples={SHOWN: examples})


if __name__ == "__main__":
    main()
