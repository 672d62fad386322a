"""Evaluate a generator: what it draws from held-out texts, beside real pictures and the nearest caption's.

The held-out examples are split in two. Texts of the first half are drawn; distances are those from the real pictures of
the second. Real pictures of the first half, judged alike, are what can be hoped for; a drawing of another's text is
what a generator would reach that does not read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from vtx_keras.data import _examples as examples
from vtx_keras.evaluate._drawn import (
    SIDE,
    diversity,
    embedded,
    frechet,
    kernel_distance,
    nearest,
    perceptual_of,
    precision_recall,
    r_precision,
)
from vtx_keras.evaluate._measures import Measure, intervals, mean
from vtx_keras.evaluate._pages import Card
from vtx_keras.inputs import media, text
from vtx_keras.inputs.text import TEXT_FIELDS
from vtx_keras.models._base import VisionText
from vtx_keras.models._drawing import Generator
from vtx_keras.models._methods import Retriever
from vtx_keras.models.objectives import ssim

ENCODER = "mobilenet_v2"
MOST_TRAINED = 20_000  # training pictures that copies are searched among
LEAST = 4  # rows of each half: nearest neighbours are the third
PROMPTS, DRAWS = 24, 4  # texts, and pictures of each, on which variety is measured
SHOWN = 32  # cases on the page
Reader = Callable[[np.ndarray], Sequence[Any]]  # from pictures to labels
Judge = Reader | tuple[str, Reader] | Retriever


class Pairs(NamedTuple):
    """Pictures (n, h, w, 3) with their first texts, the fields that judges read, groups, and places in the data."""

    pictures: np.ndarray
    texts: list[str]
    fields: Sequence[Mapping[str, Any]]
    groups: list[str]
    places: list[int]


def judged(
    model: Generator,
    stream: Iterable[Mapping],
    train: Iterable[Mapping] | None,
    *,
    judges: Mapping[str, Judge],
    draws: int,
    seed: int,
    told: Callable[[int], object],
) -> tuple[dict[str, dict], list[str], list[Card], dict[int, str], int, int]:
    """Return figures by name (of the model and of baselines), notes, cases, errors by place, rows drawn and groups."""
    _check_judges(judges)
    held_out, left_out = _pairs(model, stream, told)
    names = np.random.default_rng(seed).permutation(sorted(set(held_out.groups)))
    drawn_groups = set(names[: -(-len(names) // 2)].tolist())
    inside = np.array([one in drawn_groups for one in held_out.groups], bool)
    first, second = (_some(held_out, np.flatnonzero(part)) for part in (inside, ~inside))
    first, unreadable = _readable(model, first)
    left_out |= unreadable
    if min(len(first.texts), len(second.texts)) < LEAST:
        raise ValueError(
            f"{len(first.texts)} texts to draw and {len(second.texts)} real pictures of other groups: expected at "
            f"least {LEAST} of each, better hundreds ({len(left_out)} rows are left out)"
        )
    second_points = embedded(second.pictures, ENCODER)
    trained = None if train is None else _pairs(model, train, lambda done: None, MOST_TRAINED)[0]
    trained = trained if trained is not None and trained.texts else None
    trained_points = None if trained is None else embedded(trained.pictures, ENCODER)
    drawn = model.draw(first.texts, seed=seed)
    sets = {"model": drawn, "real": first.pictures, "another_text": np.roll(drawn, 1, axis=0)}
    notes = [
        f"distances are on features of {ENCODER} ({SIDE} px), between {len(drawn):,d} drawn and "
        f"{len(second.texts):,d} real pictures, of other groups of rows; they are no FID",
    ]
    if trained is None:
        notes.append("without training rows there is no nearest_caption, and no distance from training pictures")
    else:
        sets["nearest_caption"] = trained.pictures[_nearest_texts(first.texts, trained.texts, seed)]
    figures: dict[str, dict] = {}
    measured: dict[str, dict[str, Measure]] = {}
    for name, pictures in sets.items():
        same = name == "another_text"  # the same set of pictures, in another order
        figures[name], measures = ({}, {}) if same else _distances(pictures, second_points, trained_points)
        if name != "real":
            pairs = np.arange(len(pictures))
            apart = perceptual_of(np.concatenate([pictures, first.pictures]))
            measures["perceptual_to_real"] = mean(apart(pairs, pairs + len(pairs)))
            measures["ssim_to_real"] = mean(_ssim(pictures, first.pictures))
        measured[name] = measures | _by_judges(judges, pictures, first, seed)
    counts = Counter(first.texts)
    several = [one for one, count in counts.items() if count > 1][:PROMPTS]
    prompts = several or list(counts)[:PROMPTS]  # those of which there are real pictures to compare with
    measured["model"]["diversity"] = _variety(model, prompts, seed)
    if several:
        rows = _some(first, np.flatnonzero(np.isin(first.texts, several)))
        measured["real"]["diversity"] = diversity(perceptual_of(rows.pictures), rows.texts, seed=seed)
    else:
        notes.append("no two real pictures have the same text, so there is no diversity of real ones")
    for name, measures in measured.items():
        for key, measure in measures.items():
            groups = first.groups if len(measure.rows) == len(first.groups) else range(len(measure.rows))
            value, low, high = intervals({key: measure}, groups, count=draws, seed=seed)[key]
            figures[name][key] = {"value": value, "low": low, "high": high}
    ordered = {name: {key: found[key] for key in figures["model"] if key in found} for name, found in figures.items()}
    cases = _cases(drawn, first, trained, trained_points)
    return ordered, notes, cases, left_out, len(drawn), len(set(first.groups))


def scores(model: Generator, rows: Iterable[Mapping]) -> dict[str, float]:
    """Return distances of drawings from the real pictures of the same rows, for the curves of a run."""
    pairs, _ = _pairs(model, rows, lambda done: None)
    pairs, _ = _readable(model, pairs)
    if len(pairs.texts) < LEAST:
        raise ValueError(f"{len(pairs.texts)} rows whose texts the model reads: scores need at least {LEAST}")
    drawn, real = (embedded(one, ENCODER) for one in (model.draw(pairs.texts), pairs.pictures))
    return {"frechet": frechet(drawn, real), "kernel": kernel_distance(drawn, real)}


def _pairs(
    model: Generator, stream: Iterable[Mapping], told: Callable[[int], object], most: int | None = None
) -> tuple[Pairs, dict[int, str]]:
    """Read pictures at the model's shape with their texts; return errors by place, too."""
    pictures, texts, fields, groups, places, left_out = [], [], [], [], [], {}
    for place, example in enumerate(stream):
        if most is not None and place >= most:
            break
        told(place + 1)
        try:
            said = examples.expected(example, TEXT_FIELDS)[:1]
            pixels = media.batch([examples.image_of(example)], model.image_shape, model.options["resize"])
        except ValueError as error:
            left_out[place] = str(error)
            continue
        if pixels[2] or not said or not text.tokens(said[0]):
            left_out[place] = pixels[2].get(0, "a text without words")
            continue
        pictures.append(np.rint(pixels[0][0]).astype("uint8"))
        texts.append(said[0])
        fields.append({key: value for key, value in example.items() if key not in ("image", "path", "alpha")})
        groups.append(examples.group_of(example))
        places.append(place)
    empty = np.zeros((0, *model.image_shape), "uint8")
    return Pairs(np.stack(pictures) if pictures else empty, texts, fields, groups, places), left_out


def _some(pairs: Pairs, rows: np.ndarray) -> Pairs:
    return Pairs(pairs.pictures[rows], *([one[i] for i in rows] for one in pairs[1:]))


def _readable(model: Generator, pairs: Pairs) -> tuple[Pairs, dict[int, str]]:
    """Return the pairs whose texts the model reads, and why it does not read the others, by place in the data."""
    unreadable = model.unreadable(pairs.texts)
    kept = np.array([row for row in range(len(pairs.texts)) if row not in unreadable], int)
    return _some(pairs, kept), {pairs.places[row]: why for row, why in unreadable.items()}


def _distances(
    pictures: np.ndarray, real_points: np.ndarray, trained_points: np.ndarray | None
) -> tuple[dict[str, dict], dict[str, Measure]]:
    """Return what the features of pictures say: figures of the set, and measures that are means over its pictures."""
    points = embedded(pictures, ENCODER)
    manifolds = precision_recall(real_points, points)
    figures = {
        f"frechet_{ENCODER}": _alone(frechet(points, real_points)),
        f"kernel_{ENCODER}": _alone(kernel_distance(points, real_points)),
        **{key: _alone(manifolds[key].value) for key in ("recall", "coverage")},
    }
    measures = {key: manifolds[key] for key in ("precision", "density")}
    if trained_points is not None:
        measures["nearest_training"] = mean(nearest(points, trained_points)[1])
    return figures, measures


def _check_judges(judges: Mapping[str, Judge]) -> None:
    """Raise TypeError for a judge of another kind, before anything is drawn."""
    for name, judge in judges.items():
        read = judge[1] if isinstance(judge, tuple) and len(judge) == 2 else judge
        if not isinstance(judge, Retriever) and (isinstance(read, VisionText) or not callable(read)):
            raise TypeError(
                f"judges: {name!r} is a {type(read).__name__}: expected a retriever, a function from pictures to "
                "labels, or a pair of a field and such a function"
            )


def _nearest_texts(texts: Sequence[str], trained: Sequence[str], seed: int) -> np.ndarray:
    """Return, for each text, the place of the training text that shares the most words; one of several at random.

    >>> _nearest_texts(["a red cat"], ["a dog", "one red cat", "the sea"], 0).tolist()
    [1]
    """
    words = sorted({word for line in (*texts, *trained) for word in text.tokens(line)})
    number = {word: place for place, word in enumerate(words)}

    def bags(lines: Sequence[str]) -> np.ndarray:
        table = np.zeros((len(lines), len(words)), "float32")
        for row, line in enumerate(lines):
            table[row, [number[word] for word in text.tokens(line)]] = 1
        return table / np.sqrt(np.maximum(table.sum(axis=1, keepdims=True), 1))

    near = bags(texts) @ bags(trained).T
    draws = np.random.default_rng(seed).random(near.shape, "float32")
    return (near + 1e-4 * draws).argmax(axis=1)


def _by_judges(judges: Mapping[str, Judge], pictures: np.ndarray, pairs: Pairs, seed: int) -> dict[str, Measure]:
    """Return what independent judges say: labels that are right, and whether a search finds the text of a picture."""
    found = {}
    for name, judge in judges.items():
        if isinstance(judge, Retriever):
            candidates = min(100, len(set(pairs.texts)))
            if candidates < 2:
                continue  # there is nothing to choose from
            similarity = judge.similarity(list(pictures), pairs.texts)
            own = np.arange(len(pairs.texts))
            key = f"r_precision_{name}_of_{candidates}"
            found[key] = r_precision(similarity, own, candidates, seed, texts=pairs.texts)
            continue
        field, read = judge if isinstance(judge, tuple) else (name, judge)
        if any(field not in one for one in pairs.fields):
            raise ValueError(f"judges: examples have no {field!r} that a judge's labels are compared with")
        expected = [examples.as_text(one[field]) for one in pairs.fields]
        labels = list(read(pictures))
        if len(labels) != len(pictures):
            raise ValueError(f"judges: {name!r} gives {len(labels)} labels for {len(pictures)} pictures")
        found[f"{name}_right"] = mean([one == other for one, other in zip(labels, expected, strict=True)])
    return found


def _variety(model: Generator, texts: Sequence[str], seed: int) -> Measure:
    """Return the perceptual distance between pictures of one text, over a few texts."""
    repeated = [one for one in texts for _ in range(DRAWS)]
    return diversity(perceptual_of(model.draw(repeated, seed=seed)), repeated, seed=seed)


def _ssim(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the structural similarity of each pair; of clips, the mean over frames."""
    frames = first.shape[1] if first.ndim == 5 else 1
    first, second = (one.reshape(-1, *one.shape[-3:]) for one in (first, second))
    parts = [np.asarray(ssim(first[i : i + 64], second[i : i + 64])) for i in range(0, len(first), 64)]
    return np.concatenate(parts).reshape(-1, frames).mean(axis=1)


def _alone(value: float) -> dict[str, float | None]:
    return {"value": value, "low": None, "high": None}


def _cases(drawn: np.ndarray, pairs: Pairs, trained: Pairs | None, trained_points: np.ndarray | None) -> list[Card]:
    """Return cards: the drawing, the real picture, and the nearest training picture, so that copying shows."""
    drawn, cards = drawn[:SHOWN], []
    near = None if trained_points is None else nearest(embedded(drawn, ENCODER), trained_points)
    for place, picture in enumerate(drawn):
        shown = [picture, pairs.pictures[place]]
        lines = [("words", pairs.texts[place])]
        if near is not None and trained is not None:
            shown.append(trained.pictures[near[0][place]])
            lines.append(("its nearest training picture", trained.texts[near[0][place]]))
        frames = [one[0] for one in shown] if picture.ndim == 4 else shown
        order = ", ".join(("drawn", "real", "nearest of training")[: len(shown)])
        cards.append(Card(frames, [*lines, ("pictures", order)]))
    return cards
