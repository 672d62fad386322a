"""One evaluation: the model speaks, the baselines speak, all is measured alike and kept."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import keras
import numpy as np

from vtx_keras._files import progress, version_of
from vtx_keras.data import _examples as examples
from vtx_keras.data._examples import plain
from vtx_keras.evaluate import _baselines as without
from vtx_keras.evaluate._captions import check_scorers
from vtx_keras.evaluate._measures import Measure, intervals
from vtx_keras.evaluate._outcomes import Outcome, measures_of, said_of
from vtx_keras.evaluate._report import Results, cases_of, keep
from vtx_keras.models._base import VisionText
from vtx_keras.models._captioner import Captioner

MOST_TRAINED = 20_000  # rows of the training split in which a nearest neighbour is looked for
PACKAGES = ("vtx_keras", "keras", "tensorflow", "jax", "numpy", "pillow", "pycocoevalcap")


def run(
    model: VisionText,
    ds: Any,
    *,
    train: Any = None,
    baselines: Sequence[str] = without.BASELINES,
    limit: int | None = None,
    folder: str | os.PathLike | None = None,
    seed: int = 0,
    beams: int = 1,
    batch_size: int = 32,
    scorers: Sequence[str] | None = None,
    tokenizer: str = "plain",
    draws: int = 1000,
    about: Mapping[str, Any] | None = None,
) -> Results:
    """Figures of `model` on the examples `ds`, with 95 % intervals, beside baselines learned from `train`.

    `ds` and `train` are what `data.load` and `data.from_csv` give, or lists of such examples; they are read more than
    once, a few examples at a time. `limit` takes that many rows at random (the first ones where the length of `ds` is
    not known). Intervals are bootstrapped over concepts or pictures, not over rows. With `folder`, `results.json` and
    `results.html` are written there. `scorers` and `tokenizer` are those of `metrics.caption_scores`; `about` is kept
    with the results.

    >>> from vtx_keras import zoo
    >>> model = zoo.build("gated_vqa", weights=None, dim=32, image_shape=(32, 32, 3), classes=["no", "yes"])
    >>> example = {"image": np.zeros((32, 32, 3), "uint8"), "question": "is it a cat?", "answer": "no"}
    >>> results = run(model, [example] * 3, train=[example], baselines=["most_frequent"])
    >>> results.rows, results.baselines["most_frequent"]["accuracy"]["value"]
    (3, 1.0)
    """
    start = time.monotonic()
    if not isinstance(model, Captioner) and (beams != 1 or scorers or tokenizer != "plain"):
        raise ValueError(f"a {model.name} writes no sentences: leave out beams, scorers and tokenizer")
    check_scorers(scorers or ())
    if folder is not None:
        Path(folder).mkdir(parents=True, exist_ok=True)  # what cannot be written fails at once
    stream, chosen = _stream(ds, limit, seed)
    with progress("judged", chosen) as told:
        outcome = said_of(model, stream(), beams=beams, batch_size=batch_size, told=told)
    others, figures, notes = _baselines(model, outcome, stream, train, baselines, seed)

    def measured(one: Outcome) -> dict[str, Measure]:
        return measures_of(one, scorers=scorers, tokenizer=tokenizer)

    measures = measured(outcome)
    groups = [row.group for row in outcome.rows]
    found = _figures(measures, {name: measured(other) for name, other in others.items()}, groups, draws, seed)
    results = Results(
        model=model.spec["name"],
        kind=outcome.kind,
        rows=len(outcome.rows),
        groups=len(set(groups)),
        left_out={str(place): why for place, why in sorted(outcome.left_out.items())},
        metrics=found["model"],
        baselines={**{name: found[name] for name in others}, **figures},
        differences={name: found["model minus", name] for name in others},
        notes=notes,
        settings={"beams": beams, "limit": limit, "seed": seed, "draws": draws, "tokenizer": tokenizer},
        weights_sha256=_weights_hash(model),
        versions={name: version for name in PACKAGES if (version := version_of(name))},
        about=dict(about or {}),
        seconds=round(time.monotonic() - start, 1),
    )
    if folder is not None:
        keep(results, Path(folder), cases_of(outcome, measures, others, stream, model.image_shape, seed))
    return results


def _stream(ds: Any, limit: int | None, seed: int) -> tuple[Callable[[], Iterator[dict]], int | None]:
    """A function that reads the chosen examples from the start, and how many they are where that is known."""
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        raise ValueError(f"limit={limit!r}: expected a whole number of at least 1, or None for all")
    source = getattr(ds, "encoded", ds)
    if iter(source) is source:
        raise TypeError("examples are read more than once: pass a list or a tf.data.Dataset, not an iterator")
    total = len(source) if hasattr(source, "__len__") and not hasattr(source, "cardinality") else None
    if hasattr(source, "cardinality"):
        found = int(source.cardinality())
        total = found if found >= 0 else None
    if limit is None or (total is not None and limit >= total):
        return lambda: examples.plain(source), total
    if total is None:
        return lambda: islice(examples.plain(source), limit), limit
    places = set(np.random.default_rng(seed).choice(total, limit, replace=False).tolist())
    return lambda: (one for place, one in enumerate(examples.plain(source)) if place in places), limit


def _baselines(
    model: VisionText, outcome: Outcome, stream: Callable, train: Any, wanted: Sequence[str], seed: int
) -> tuple[dict[str, Outcome], dict[str, dict], list[str]]:
    """Outcomes to measure, figures that are known already, and what is to be told."""
    others: dict[str, Outcome] = {}
    figures: dict[str, dict] = {}
    notes: list[str] = []
    names = without.classes_of(model)
    wanted = without.suited(outcome, wanted)
    if "chance" in wanted:
        guess = without.blind(outcome)
        if isinstance(guess, Outcome):
            others["most_frequent"] = guess
        else:
            figures["chance"] = {name: {"value": value, "low": None, "high": None} for name, value in guess.items()}
        wanted.remove("chance")
    if not wanted:
        return others, figures, notes
    if train is None:
        return others, figures, [f"without a training split there is no {', no '.join(wanted)}"]
    read, trained = _stream(train, MOST_TRAINED, seed)
    known = without.learned(model, train)
    if not known.right:
        return others, figures, ["the training split is empty: no baseline learns from it"]
    if "most_frequent" in wanted:
        others["most_frequent"] = without.most_frequent(outcome, known, names)
    if "question_alone" in wanted and any(known.read):
        others["question_alone"] = without.question_alone(outcome, known)
    if "nearest_neighbour" in wanted:
        encoder, see = without.encoder_of(model)
        known_pictures = without.seen(encoder, model.image_shape[:-3]) if encoder == without.ENCODER else {}
        part = without.learned(model, list(_bare(read())))
        with progress("training pictures", trained) as told:
            theirs = without.features(see, read(), told, known_pictures)
        places = {row.place for row in outcome.rows}
        judged = (one for place, one in enumerate(stream()) if place in places)
        with progress("pictures", len(places)) as told:
            found = without.features(see, judged, told, known_pictures)
        at = {place: number for number, place in enumerate(sorted(places))}
        ours = found[[at[row.place] for row in outcome.rows]]
        others["nearest_neighbour"] = without.nearest_neighbour(outcome, part, names, (theirs, ours))
        notes.append(f"nearest_neighbour: by the features of {encoder}, among {len(part.right):,d} training rows")
    return others, figures, notes


def _bare(stream: Iterator[dict]) -> Iterator[dict]:
    """Examples without their pictures."""
    for example in stream:
        yield {key: value for key, value in example.items() if key not in ("image", "path", "alpha")}


def _figures(
    ours: dict[str, Measure], others: dict[str, dict[str, Measure]], groups: Sequence[str], draws: int, seed: int
) -> dict[Any, dict[str, dict]]:
    """Figures of the model, of each baseline and of their differences, all by the same draws: who, name, figure."""
    table: dict[Any, dict[str, Measure]] = {"model": ours, **others}
    for other, theirs in others.items():
        table["model minus", other] = {name: _difference(ours[name], theirs[name]) for name in ours}
    flat = {(who, name): measure for who, measures in table.items() for name, measure in measures.items()}
    found: dict[Any, dict[str, dict]] = {who: {} for who in table}
    for (who, name), (value, low, high) in intervals(flat, groups, count=draws, seed=seed).items():
        found[who][name] = {"value": value, "low": low, "high": high}
    return found


def _difference(one: Measure, other: Measure) -> Measure:
    return Measure(lambda weights: one.of(weights) - other.of(weights), one.rows - other.rows, one.value - other.value)


def _weights_hash(model: VisionText) -> str:
    told = hashlib.sha256()
    for weight in model.get_weights():
        told.update(repr((weight.shape, weight.dtype.name)).encode() + np.ascontiguousarray(weight).tobytes())
    return told.hexdigest()


class Scores(keras.callbacks.Callback):
    """Lets the model speak about validation examples at the end of an epoch, and writes the scores into `logs`.

        scores = metrics.Scores(data.load("emoji", "validation"), limit=200)
        model.fit(..., callbacks=[scores, keras.callbacks.EarlyStopping("val_cider", mode="max")])

    It stands before the callbacks that read them: `val_cider`, `val_exact_match`, `val_word_f1`, ... of a captioner,
    `val_accuracy` replaced by `val_said_accuracy` where the model has one of its own. The first `limit` examples are
    judged, after the first epoch and then after each `every`-th; in between, the last scores stand. `names` keeps only
    some. `whole` is the model to score where the one that trains is a part of it (`behind_encoder`).

    >>> from vtx_keras import data, zoo
    >>> model = zoo.build("gated_captioner", weights=None, dim=32, depth=1, vision_depth=1, image_shape=(32, 32, 3))
    >>> examples = [{"image": np.zeros((32, 32, 3), "uint8"), "caption": caption} for caption in ("a cat", "a dog")]
    >>> batches = data.arrays(model, np.zeros((2, 32, 32, 3)), ["a cat", "a dog"])
    >>> history = model.fit(batches, verbose=0, callbacks=[Scores(examples, names=["exact_match"])])
    >>> sorted(history.history)
    ['accuracy', 'loss', 'val_exact_match']
    """

    def __init__(
        self,
        examples: Iterable,
        *,
        limit: int = 200,
        every: int = 1,
        beams: int = 1,
        batch_size: int = 32,
        names: Sequence[str] | None = None,
        scorers: Sequence[str] | None = None,
        whole: VisionText | None = None,
    ):
        super().__init__()
        for what, value in (("limit", limit), ("every", every)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{what}={value!r}: expected a whole number of at least 1")
        self.examples, self.limit, self.every = examples, limit, every
        self.beams, self.batch_size, self.names, self.scorers = beams, batch_size, names, scorers
        self.whole = whole
        self.last: dict[str, float] = {}

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if epoch % self.every == 0 or not self.last:
            self.last = self.scores()
        if logs is not None:
            for name, value in self.last.items():
                logs[f"val_said_{name}" if f"val_{name}" in logs else f"val_{name}"] = value

    def scores(self) -> dict[str, float]:
        """The scores as the model is now."""
        examples = islice(plain(self.examples), self.limit)
        model: Any = self.whole or self.model
        outcome = said_of(model, examples, beams=self.beams, batch_size=self.batch_size)
        found = {name: measure.value for name, measure in measures_of(outcome, scorers=self.scorers).items()}
        unknown = [name for name in self.names or () if name not in found]
        if unknown:
            raise ValueError(f"names: there is no {unknown[0]!r} of a {model.name}, but {', '.join(found)}")
        return {name: found[name] for name in self.names or found}
