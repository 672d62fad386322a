"""Run one evaluation: predict with the model and the baselines, measure both alike, and write the results."""

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
from vtx_keras.data._examples import as_numpy, encoded_of, turns_of
from vtx_keras.evaluate import _baselines as baseline
from vtx_keras.evaluate import _consistency as consistent
from vtx_keras.evaluate import _judging as judging
from vtx_keras.evaluate._captions import check_scorers
from vtx_keras.evaluate._measures import Measure, intervals
from vtx_keras.evaluate._outcomes import Outcome, cases_of, measures_of, said_of
from vtx_keras.evaluate._pages import KINDS, Results, keep
from vtx_keras.models._base import VisionText
from vtx_keras.models._drawing import Generator
from vtx_keras.models._methods import Captioner

MOST_TRAINED = 20_000  # training rows that the nearest neighbour is searched among
HUMAN = "human: the first reference, scored against the others; the model is scored against all, which are one more"
PACKAGES = ("vtx_keras", "keras", "tensorflow", "jax", "numpy", "pillow", "pycocoevalcap")


def run(
    model: VisionText,
    ds: Any,
    *,
    train: Any = None,
    baselines: Sequence[str] = baseline.BASELINES,
    limit: int | None = None,
    folder: str | os.PathLike | None = None,
    seed: int = 0,
    beams: int = 1,
    batch_size: int = 32,
    scorers: Sequence[str] | None = None,
    tokenizer: str = "plain",
    draws: int = 1000,
    consistency: bool = False,
    judges: Mapping[str, judging.Judge] | None = None,
    about: Mapping[str, Any] | None = None,
) -> Results:
    """Evaluate `model` on the examples `ds`, with 95 % intervals, beside baselines computed from `train`.

    `ds` and `train` are `Examples` of `data.load` or `data.from_csv`, or lists of such examples; they are read more
    than once, a few examples at a time. `baselines` are `BASELINES` or some of them; of captions also "consensus" (what
    the captions of similar training images agree on) and "human" (the first of several references, scored against the
    others). `limit` draws that many rows at random (the first ones if the length of `ds` is unknown). Intervals are
    bootstrapped over concepts or images, not over rows. With `folder`, `results.json` and `results.html` are written
    there. `scorers` and `tokenizer` are those of `metrics.caption_scores`; `about` is stored with the results.
    `consistency` also asks the model everything in other ways, and measures how often it agrees with itself: see
    `metrics.consistency`.

    Of conversations ("questions", "answers"), each turn is a row, asked after the true turns before it. The baseline
    "without_history" is the model itself, asked each question alone.

    A generator draws the texts of half of the examples, and the real pictures of the other half are what its pictures
    are compared with; "real" are those of the first half, "another_text" is the drawing of another text, as if the
    generator did not read, and "nearest_caption" a training picture of the nearest text.
    `judges` read pictures by themselves: a retriever, which searches the text of a picture, or a function from
    pictures to labels, whose name is the field of the examples that says the right ones (or a pair of field and
    function).

    >>> from vtx_keras import zoo
    >>> model = zoo.build("gated_vqa", weights=None, dim=32, image_shape=(32, 32, 3), classes=["no", "yes"])
    >>> example = {"image": np.zeros((32, 32, 3), "uint8"), "question": "is it a cat?", "answer": "no"}
    >>> results = run(model, [example] * 3, train=[example], baselines=["most_frequent"])
    >>> results.rows, results.baselines["most_frequent"]["accuracy"]["value"]
    (3, 1.0)
    """
    start = time.monotonic()
    if isinstance(model, Generator):
        if beams != 1 or scorers or tokenizer != "plain" or consistency:
            raise ValueError("a generator writes no sentences: leave out beams, scorers, tokenizer and consistency")
        baseline.check_baselines(baselines)
        return _drawings(model, ds, train, limit, folder, seed, draws, judges or {}, about)
    if judges:
        raise ValueError(f"judges= look at pictures that a generator draws, and a {model.name} draws none")
    if not isinstance(model, Captioner) and (beams != 1 or scorers or tokenizer != "plain"):
        raise ValueError(f"a {model.name} writes no sentences: leave out beams, scorers and tokenizer")
    check_scorers(scorers or ())
    baseline.check_baselines(baselines)
    if folder is not None:
        Path(folder).mkdir(parents=True, exist_ok=True)  # fail now if it cannot be written
    stream, count = _stream(ds, limit, seed)
    kinds = consistent.kinds_for(model, next(stream(), {})) if consistency else ()
    with progress("evaluated", count) as update:
        outcome = said_of(model, stream(), beams=beams, batch_size=batch_size, told=update)
    others, fixed_figures, notes = _baselines(model, outcome, stream, train, baselines, seed)
    if "without_history" in baselines and any(row.turn for row in outcome.rows):
        alone = ({**example, "before": ()} for example in stream())
        others["without_history"] = baseline.without_history(outcome, said_of(model, alone, batch_size=batch_size))

    def measure(result: Outcome) -> dict[str, Measure]:
        return measures_of(result, scorers=scorers, tokenizer=tokenizer)

    measures = measure(outcome)
    if kinds:
        with progress("variants") as update:
            measures |= consistent.agreement(
                model, outcome, stream(), kinds, beams=beams, batch_size=batch_size, seed=seed, told=update
            )
        notes.append(consistent.counts(measures))
    groups = [row.group for row in outcome.rows]
    figures = _figures(measures, {name: measure(other) for name, other in others.items()}, groups, draws, seed)
    results = Results(
        model=model.spec["name"],
        kind=outcome.kind,
        rows=len(outcome.rows),
        groups=len(set(groups)),
        left_out={str(place): why for place, why in sorted(outcome.left_out.items())},
        metrics=figures["model"],
        baselines={**{name: figures[name] for name in others}, **fixed_figures},
        differences={name: figures["model minus", name] for name in others},
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


def _drawings(
    model: Generator,
    ds: Any,
    train: Any,
    limit: int | None,
    folder: str | os.PathLike | None,
    seed: int,
    draws: int,
    judges: Mapping[str, judging.Judge],
    about: Mapping[str, Any] | None,
) -> Results:
    """Evaluate a generator; see `run`."""
    start = time.monotonic()
    if folder is not None:
        Path(folder).mkdir(parents=True, exist_ok=True)  # fail now if it cannot be written
    stream, count = _stream(ds, limit, seed)
    trained = None if train is None else _stream(train, judging.MOST_TRAINED, seed)[0]()
    with progress("pictures", count) as update:
        figures, notes, cases, left_out, rows, groups = judging.judged(
            model, stream(), trained, judges=judges, draws=draws, seed=seed, told=update
        )
    results = Results(
        model=model.spec["name"],
        kind="drawings",
        rows=rows,
        groups=groups,
        left_out={str(place): why for place, why in sorted(left_out.items())},
        metrics=figures.pop("model"),
        baselines=figures,
        notes=notes,
        settings={"limit": limit, "seed": seed, "draws": draws},
        weights_sha256=_weights_hash(model),
        versions={name: version for name in PACKAGES if (version := version_of(name))},
        about=dict(about or {}),
        seconds=round(time.monotonic() - start, 1),
    )
    if folder is not None:
        keep(results, Path(folder), [("Drawn from held-out texts", cases)])
    return results


def _stream(ds: Any, limit: int | None, seed: int) -> tuple[Callable[[], Iterator[dict]], int | None]:
    """Return a function that reads the chosen examples from the start, and their number if it is known."""
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        raise ValueError(f"limit={limit!r}: expected a whole number of at least 1, or None for all")
    source = encoded_of(ds)

    def turns(examples: Iterable) -> Iterator[dict]:
        yield from map(dict, turns_of(examples))

    if iter(source) is source:
        raise TypeError("examples are read more than once: pass a list or a tf.data.Dataset, not an iterator")
    total = len(source) if hasattr(source, "__len__") and not hasattr(source, "cardinality") else None
    if hasattr(source, "cardinality"):
        cardinality = int(source.cardinality())
        total = cardinality if cardinality >= 0 else None
    if limit is None or (total is not None and limit >= total):
        return lambda: turns(as_numpy(source)), total
    if total is None:
        return lambda: turns(islice(as_numpy(source), limit)), limit
    chosen = set(np.random.default_rng(seed).choice(total, limit, replace=False).tolist())
    return lambda: turns(example for index, example in enumerate(as_numpy(source)) if index in chosen), limit


def _baselines(
    model: VisionText, outcome: Outcome, stream: Callable, train: Any, wanted: Sequence[str], seed: int
) -> tuple[dict[str, Outcome], dict[str, dict], list[str]]:
    """Return outcomes of baselines to measure, figures of those computed directly, and notes for the report."""
    others: dict[str, Outcome] = {}
    figures: dict[str, dict] = {}
    notes: list[str] = []
    names = baseline.classes_of(model)
    asked = [name for name in wanted if name in baseline.ON_REQUEST]
    wanted = baseline.applicable(outcome, wanted)
    if asked and outcome.kind != "captions":
        notes.append(f"there is no {', no '.join(asked)} of {KINDS[outcome.kind]}, but of captions")
    if "human" in wanted:
        single = sum(len(row.expected) < 2 for row in outcome.rows)
        if single:
            notes.append(f"there is no human: {single:,d} of {len(outcome.rows):,d} rows have a single reference")
        else:
            others["human"] = baseline.human(outcome)
            notes.append(HUMAN)
        wanted.remove("human")
    if "chance" in wanted:
        predicted = baseline.chance_level(outcome)
        if isinstance(predicted, Outcome):
            others["most_frequent"] = predicted
        else:
            figures["chance"] = {name: {"value": value, "low": None, "high": None} for name, value in predicted.items()}
        wanted.remove("chance")
    if not wanted:
        return others, figures, notes
    if train is None:
        return others, figures, [*notes, f"without a training split there is no {', no '.join(wanted)}"]
    read, count = _stream(train, MOST_TRAINED, seed)
    train_texts = baseline.training_texts(model, train)
    if not train_texts.targets:
        return others, figures, [*notes, "the training split is empty: no baseline learns from it"]
    if "most_frequent" in wanted:
        others["most_frequent"] = baseline.most_frequent(outcome, train_texts, names)
    if "question_alone" in wanted and any(train_texts.inputs):
        others["question_alone"] = baseline.question_alone(outcome, train_texts)
    near = [name for name in ("nearest_neighbour", "consensus") if name in wanted]
    if near:
        encoder, encode = baseline.encoder_of(model)
        cache = baseline.feature_cache(encoder, model.image_shape[:-3]) if encoder == baseline.ENCODER else {}
        neighbours = baseline.training_texts(model, list(_without_images(read())))
        with progress("training pictures", count) as update:
            train_points = baseline.features(encode, read(), update, cache)
        places = {row.place for row in outcome.rows}
        evaluated = (example for place, example in enumerate(stream()) if place in places)
        with progress("pictures", len(places)) as update:
            points = baseline.features(encode, evaluated, update, cache)
        index_of = {place: number for number, place in enumerate(sorted(places))}
        eval_points = points[[index_of[row.place] for row in outcome.rows]]
        both = (train_points, eval_points)
        if "nearest_neighbour" in near:
            others["nearest_neighbour"] = baseline.nearest_neighbour(outcome, neighbours, names, both)
        if "consensus" in near:
            others["consensus"] = baseline.consensus(outcome, neighbours, both)
        notes.append(
            f"{', '.join(near)}: by the features of {encoder}, among {len(neighbours.targets):,d} training rows"
        )
    return others, figures, notes


def _without_images(stream: Iterator[dict]) -> Iterator[dict]:
    """Drop the images of examples."""
    for example in stream:
        yield {key: value for key, value in example.items() if key not in ("image", "path", "alpha")}


def _figures(
    measures: dict[str, Measure], others: dict[str, dict[str, Measure]], groups: Sequence[str], draws: int, seed: int
) -> dict[Any, dict[str, dict]]:
    """Compute figures of the model, of each baseline and of their differences with the same bootstrap draws.

    A baseline lacks what only a model has, such as calibration, and so does the difference.
    """
    table: dict[Any, dict[str, Measure]] = {"model": measures, **others}
    for name, other_measures in others.items():
        table["model minus", name] = {
            metric: _difference(measures[metric], other) for metric, other in other_measures.items()
        }
    flat = {(key, metric): measure for key, row in table.items() for metric, measure in row.items()}
    figures: dict[Any, dict[str, dict]] = {key: {} for key in table}
    for (key, metric), (value, low, high) in intervals(flat, groups, count=draws, seed=seed).items():
        figures[key][metric] = {"value": value, "low": low, "high": high}
    return figures


def _difference(one: Measure, other: Measure) -> Measure:
    return Measure(lambda weights: one.of(weights) - other.of(weights), one.rows - other.rows, one.value - other.value)


def _weights_hash(model: VisionText) -> str:
    sha = hashlib.sha256()
    for weight in model.get_weights():
        sha.update(repr((weight.shape, weight.dtype.name)).encode() + np.ascontiguousarray(weight).tobytes())
    return sha.hexdigest()


class Scores(keras.callbacks.Callback):
    """Evaluate the model on validation examples at the end of an epoch, and add the scores to `logs`.

        scores = metrics.Scores(data.load("emoji", "validation"), limit=200)
        model.fit(..., callbacks=[scores, keras.callbacks.EarlyStopping("val_cider", mode="max")])

    Put it before callbacks that read the scores: `val_cider`, `val_exact_match`, `val_word_f1`, ... of a captioner. A
    score whose name the model's own metrics use is renamed, as in `val_said_accuracy`. The first `limit` examples are
    evaluated after the first epoch and then after every `every` epochs; in between, `logs` gets the last scores.
    `names` selects scores. `whole` is the model to evaluate if the trained one is a part of it (`behind_encoder`).

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
        """Evaluate the model as it is now."""
        examples = turns_of(islice(as_numpy(self.examples), self.limit))
        model: Any = self.whole or self.model
        if isinstance(model, Generator):
            scores = judging.scores(model, islice(as_numpy(self.examples), self.limit))
            return self.chosen(scores, model)
        outcome = said_of(model, examples, beams=self.beams, batch_size=self.batch_size)
        scores = {name: measure.value for name, measure in measures_of(outcome, scorers=self.scorers).items()}
        return self.chosen(scores, model)

    def chosen(self, scores: dict[str, float], model: VisionText) -> dict[str, float]:
        """Return the scores that were asked for."""
        unknown = [name for name in self.names or () if name not in scores]
        if unknown:
            raise ValueError(f"names: there is no {unknown[0]!r} of a {model.name}, but {', '.join(scores)}")
        return {name: scores[name] for name in self.names or scores}
