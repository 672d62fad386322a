"""Evaluate a generator: what it draws from held-out texts, beside real pictures and the nearest caption's.

The held-out examples are split in two. Texts of the first half are drawn; distances are those from the real pictures of
the second. Real pictures of the first half, judged alike, are what can be hoped for; a drawing of another's text is
what a generator would reach that does not read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from vtx_keras.data import _examples as examples
from vtx_keras.evaluate import _drawn as judging
from vtx_keras.evaluate._measures import Measure, intervals, mean
from vtx_keras.evaluate._pages import Card
from vtx_keras.inputs import media, text
from vtx_keras.inputs.text import TEXT_FIELDS
from vtx_keras.models._drawing import Generator
from vtx_keras.models._methods import Retriever
from vtx_keras.models.objectives import ssim

ENCODER = "mobilenet_v2"
MOST_TRAINED = 20_000  # training pictures that copies are searched among
PROMPTS, DRAWS = 24, 4  # texts, and pictures of each, on which variety is measured
SHOWN = 32  # cases on the page
Reader = Callable[[np.ndarray], Sequence[Any]]  # from pictures to labels
Judge = Reader | tuple[str, Reader] | Retriever


class Half(NamedTuple):
    """Pictures (n, h, w, 3) with their first texts and the fields that judges read."""

    pictures: np.ndarray
    texts: list[str]
    fields: Sequence[Mapping[str, Any]]


def judged(
    model: Generator,
    stream: Iterable[Mapping],
    train: Iterable[Mapping] | None,
    *,
    judges: Mapping[str, Judge],
    draws: int,
    seed: int,
    told: Callable[[int], object],
) -> tuple[dict[str, dict], list[str], list[Card], dict[int, str], int]:
    """Return figures by name (of the model and of each baseline), notes, cases, errors by place, and rows drawn."""
    held_out, left_out = _half(model, stream, told)
    if len(held_out.texts) < 8:
        raise ValueError(f"{len(held_out.texts)} rows with a text and a picture: expected at least 8, better hundreds")
    order = np.random.default_rng(seed).permutation(len(held_out.texts))
    first, second = (_some(held_out, part) for part in np.array_split(order, 2))
    second_points = judging.embedded(second.pictures, ENCODER)
    trained = None if train is None else _half(model, train, lambda done: None, MOST_TRAINED)[0]
    trained_points = None if trained is None else judging.embedded(trained.pictures, ENCODER)
    known = [_known(model, one) for one in first.texts]
    left_out |= {int(order[place]): why for place, why in enumerate(known) if why}
    first = _some(first, np.array([place for place, why in enumerate(known) if not why], int))
    drawn = model.draw(first.texts, seed=seed)
    sets = {"model": drawn, "real": first.pictures, "another_text": np.roll(drawn, 1, axis=0)}
    notes = [
        f"distances are on features of {ENCODER} ({judging.SIDE} px), between {len(drawn):,d} drawn and "
        f"{len(second.texts):,d} real pictures of other texts; they are no FID",
    ]
    if trained is None:
        notes.append("without a training split there is no nearest_caption, and no distance from training pictures")
    else:
        sets["nearest_caption"] = trained.pictures[_nearest_texts(first.texts, trained.texts, seed)]
    figures, measured = {}, {}
    for name, pictures in sets.items():
        points = judging.embedded(pictures, ENCODER)
        figures[name] = {
            f"frechet_{ENCODER}": _alone(judging.frechet(points, second_points)),
            f"kernel_{ENCODER}": _alone(judging.kernel_distance(points, second_points)),
        }
        measures = judging.precision_recall(second_points, points)
        figures[name] |= {key: _alone(measures[key].value) for key in ("recall", "coverage")}
        measures = {key: measures[key] for key in ("precision", "density")}
        if trained_points is not None:
            measures["nearest_training"] = mean(judging.nearest(points, trained_points)[1])
        if name != "real":
            pairs = np.arange(len(pictures))
            apart = judging.perceptual_of(np.concatenate([pictures, first.pictures]))
            measures["perceptual_to_real"] = mean(apart(pairs, pairs + len(pairs)))
            measures["ssim_to_real"] = mean(_ssim(pictures, first.pictures))
        measured[name] = measures | _by_judges(judges, pictures, first, seed)
    measured["model"]["diversity"] = _variety(model, first.texts, seed)
    same = [text for text in first.texts if first.texts.count(text) > 1] if len(set(first.texts)) > 1 else []
    if same:
        rows = _some(first, np.array([place for place, one in enumerate(first.texts) if one in set(same)]))
        measured["real"]["diversity"] = judging.diversity(judging.perceptual_of(rows.pictures), rows.texts, seed=seed)
    else:
        notes.append("no two real pictures have the same text, so there is no diversity of real ones")
    for name, measures in measured.items():
        for key, measure in measures.items():
            groups = range(len(measure.rows))
            value, low, high = intervals({key: measure}, groups, count=draws, seed=seed)[key]
            figures[name][key] = {"value": value, "low": low, "high": high}
    ordered = {name: {key: found[key] for key in figures["model"] if key in found} for name, found in figures.items()}
    cases = _cases(drawn, first, trained, trained_points)
    return ordered, notes, cases, left_out, len(drawn)


def scores(model: Generator, rows: Iterable[Mapping]) -> dict[str, float]:
    """Return distances of drawings from the real pictures of the same rows, for the curves of a run."""
    half, _ = _half(model, rows, lambda done: None)
    kept = [place for place, one in enumerate(half.texts) if not _known(model, one)]
    half = _some(half, np.array(kept, int))
    drawn, real = (judging.embedded(one, ENCODER) for one in (model.draw(half.texts), half.pictures))
    return {"frechet": judging.frechet(drawn, real), "kernel": judging.kernel_distance(drawn, real)}


def _half(
    model: Generator, stream: Iterable[Mapping], told: Callable[[int], object], most: int | None = None
) -> tuple[Half, dict[int, str]]:
    """Read pictures at the model's shape with their texts; return errors by place, too."""
    pictures, texts, fields, left_out = [], [], [], {}
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
    empty = np.zeros((0, *model.image_shape), "uint8")
    return Half(np.stack(pictures) if pictures else empty, texts, fields), left_out


def _some(half: Half, places: np.ndarray) -> Half:
    return Half(half.pictures[places], [half.texts[i] for i in places], [half.fields[i] for i in places])


def _known(model: Generator, words: str) -> str:
    """Return why a text cannot be drawn, or ""."""
    try:
        model.checked_tokens([words])
    except ValueError as error:
        return str(error)
    return ""


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


def _by_judges(judges: Mapping[str, Judge], pictures: np.ndarray, half: Half, seed: int) -> dict[str, Measure]:
    """Return what independent judges say: labels that are right, and whether a search finds the text of a picture."""
    found = {}
    for name, judge in judges.items():
        if isinstance(judge, Retriever):
            candidates = min(100, len(set(half.texts)))
            similarity = judge.similarity(list(pictures), half.texts)
            own = np.arange(len(half.texts))
            key = f"r_precision_{name}_of_{candidates}"
            found[key] = judging.r_precision(similarity, own, candidates, seed, texts=half.texts)
            continue
        field, read = judge if isinstance(judge, tuple) else (name, judge)
        if any(field not in one for one in half.fields):
            raise ValueError(f"judges: examples have no {field!r} that a judge's labels are compared with")
        expected = [examples.as_text(one[field]) for one in half.fields]
        labels = read(pictures)
        found[f"{name}_right"] = mean([one == other for one, other in zip(labels, expected, strict=True)])
    return found


def _variety(model: Generator, texts: Sequence[str], seed: int) -> Measure:
    """Return the perceptual distance between pictures of one text, over a few texts."""
    chosen = list(dict.fromkeys(texts))[:PROMPTS]
    repeated = [one for one in chosen for _ in range(DRAWS)]
    return judging.diversity(judging.perceptual_of(model.draw(repeated, seed=seed)), repeated, seed=seed)


def _ssim(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the structural similarity of each pair; of clips, the mean over frames."""
    frames = first.shape[1] if first.ndim == 5 else 1
    first, second = (one.reshape(-1, *one.shape[-3:]) for one in (first, second))
    return np.asarray(ssim(first, second)).reshape(-1, frames).mean(axis=1)


def _alone(value: float) -> dict[str, float | None]:
    return {"value": value, "low": None, "high": None}


def _cases(drawn: np.ndarray, half: Half, trained: Half | None, trained_points: np.ndarray | None) -> list[Card]:
    """Return cards: the drawing, the real picture, and the nearest training picture, so that copying shows."""
    drawn, cards = drawn[:SHOWN], []
    near = None if trained_points is None else judging.nearest(judging.embedded(drawn, ENCODER), trained_points)
    for place, picture in enumerate(drawn):
        shown = [picture, half.pictures[place]]
        lines = [("words", half.texts[place])]
        if near is not None and trained is not None:
            shown.append(trained.pictures[near[0][place]])
            lines.append(("its nearest training picture", trained.texts[near[0][place]]))
        frames = [one[0] for one in shown] if picture.ndim == 4 else shown
        order = ", ".join(("drawn", "real", "nearest of training")[: len(shown)])
        cards.append(Card(frames, [*lines, ("pictures", order)]))
    return cards
