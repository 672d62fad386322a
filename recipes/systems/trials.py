"""Trials of a system: models that differ in one thing, several seeds each, judged on the same rows; figures are stored.

A recipe names its trials, runs them, and stores one JSON file in `recipes/systems/results/`, from which
`python tools/readme.py` writes docs/systems.md.
"""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

from vtx_keras import data, metrics, train, zoo
from vtx_keras._files import write
from vtx_keras.evaluate._outcomes import Outcome
from vtx_keras.evaluate._pages import _as_json
from vtx_keras.metrics import Measure

RUNS, RESULTS = Path("runs/systems"), Path(__file__).with_name("results")
FEATURES = RUNS / "features"
SEEDS = (0, 1, 2)


class Trial(NamedTuple):
    """What is trained, and on what it is judged."""

    build: Callable[[], Any]  # a new model; the seed is set before
    train: data.Examples
    validation: data.Examples
    tests: Mapping[str, data.Examples]  # by name
    settings: Mapping[str, Any]  # of `train.run`


class Judged(NamedTuple):
    """Outcomes of one model for each seed, and what its training took."""

    outcomes: dict[str, list[Outcome]]  # by the name of the test
    parameters: int
    seconds: float  # of training, in the mean


def run(system: str, trials: Mapping[str, Trial], seeds: Sequence[int] = SEEDS) -> dict[str, Judged]:
    """Train each trial with each seed behind its frozen image encoder, and judge the best epoch on every test."""
    judged: dict[str, Judged] = {}
    for name, trial in trials.items():
        outcomes: dict[str, list[Outcome]] = {test: [] for test in trial.tests}
        seconds = []
        for seed in seeds:
            model, took = trained(trial, RUNS / f"{system}-{name.replace(' ', '-')}-{seed}", seed)
            seconds.append(took)
            for test, examples in trial.tests.items():
                outcomes[test].append(outcome_of(model, examples))
        parameters = sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)
        judged[name] = Judged(outcomes, parameters, statistics.mean(seconds))
        first = next(iter(trial.tests))
        print(f"{system}, {name}: {_line(outcomes[first])}", flush=True)
    return judged


def trained(trial: Trial, folder: Path, seed: int = 0) -> tuple[Any, float]:
    """Train one model in a folder, or take what an earlier call left there; return its best epoch, and the seconds."""
    keras.utils.set_random_seed(seed)
    model = trial.build()
    model.freeze("image")
    history = train.run(
        model, trial.train, folder, validation=trial.validation, seed=seed, samples=0, verbose=False, **trial.settings
    )
    model = zoo.load(history.folder / "best")
    model.freeze("image")
    return model, json.loads((history.folder / "run.json").read_text(encoding="utf-8"))["seconds"]


def outcome_of(model: Any, examples: data.Examples, **options: Any) -> Outcome:
    """Run a model on examples; each image is encoded once for all models of its encoder."""
    features = data.features(examples, model, FEATURES)
    return metrics.said_of(model.behind_encoder(), features, batch_size=64, **options)


def _line(outcomes: list[Outcome]) -> str:
    table = [metrics.measures_of(one) for one in outcomes]
    return ", ".join(f"{name} {statistics.mean(one[name].value for one in table):.3f}" for name in list(table[0])[:6])


def compared(
    rows: Mapping[str, Sequence[Mapping[str, Measure]]],
    names: Sequence[str],
    groups: Sequence[str],
    differences: Sequence[tuple[str, str]] = (),
) -> dict[str, Any]:
    """Return figures of models for `names` of metrics, and their `differences`; each has a mapping for each seed.

    A value is the mean of the seeds. Intervals are those of the mean, by bootstrap over `groups` of rows; the spread of
    the seeds stands beside it.

    >>> one = {"accuracy": metrics.mean([1.0, 0.0] * 50)}
    >>> compared({"model": [one, one]}, ["accuracy"], [str(i) for i in range(100)])["figures"]["model"]
    {'accuracy': {'value': 0.5, 'low': 0.4, 'high': 0.6, 'seeds': [0.5, 0.5]}}
    """
    table: dict[Any, Measure] = {}
    for model, seeds in rows.items():
        for name in names:
            if all(name in one for one in seeds):
                table[model, name] = _mean_of([one[name] for one in seeds])
    for one, other in differences:
        for name in names:
            if (one, name) in table and (other, name) in table:
                table[f"{one} minus {other}", name] = _difference(table[one, name], table[other, name])
    found = metrics.intervals(table, groups)
    figures: dict[str, dict[str, dict[str, Any]]] = {}
    for (model, name), (value, low, high) in found.items():
        figure: dict[str, Any] = dict(
            zip(("value", "low", "high"), (round(x, 4) for x in (value, low, high)), strict=True)
        )
        if model in rows and len(rows[model]) > 1:
            figure["seeds"] = [round(one[name].value, 4) for one in rows[model]]
        figures.setdefault(model, {})[name] = figure
    both = {f"{one} minus {other}" for one, other in differences}
    return {
        "figures": {model: named for model, named in figures.items() if model not in both},
        "differences": {model: named for model, named in figures.items() if model in both},
    }


def _mean_of(measures: Sequence[Measure]) -> Measure:
    rows = np.mean([one.rows for one in measures], axis=0)
    whole = statistics.mean(one.value for one in measures)
    return Measure(lambda weights: statistics.mean(one.of(weights) for one in measures), rows, whole)


def _difference(one: Measure, other: Measure) -> Measure:
    return Measure(lambda weights: one.of(weights) - other.of(weights), one.rows - other.rows, one.value - other.value)


def saying(like: Outcome, said: Sequence[str]) -> Outcome:
    """Return an outcome with the same rows and other predictions, one for each example of the data."""
    rows = tuple(row._replace(said=said[row.place]) for row in like.rows)
    return Outcome(like.kind, rows, like.left_out)


def groups_of(outcome: Outcome) -> list[str]:
    """Return what each row is resampled with: its picture, patient or title."""
    return [row.group for row in outcome.rows]


def measures(outcomes: Iterable[Outcome], **options: Any) -> list[dict[str, Measure]]:
    """Return the measures of each seed's outcome."""
    return [metrics.measures_of(outcome, **options) for outcome in outcomes]


def linear(
    train_rows: tuple[np.ndarray, np.ndarray],
    validation: tuple[np.ndarray, np.ndarray],
    test: np.ndarray,
    decays: Sequence[float] = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1),
) -> np.ndarray:
    """Fit softmax regression on vectors and class numbers; return logits of `test`.

    Vectors are standardized, but for what is the same in all of them. The weight decay is the one that is most accurate
    on validation.
    """
    (x, y), (x_val, y_val) = train_rows, validation
    mean, scale = x.mean(axis=0), x.std(axis=0)
    scale = np.where(scale < 1e-3, 1.0, scale)
    count = int(y.max()) + 1
    best, logits = -1.0, np.zeros((len(test), count))
    for decay in decays:
        keras.utils.set_random_seed(0)
        model = keras.Sequential(
            [keras.layers.Dense(int(y.max()) + 1, kernel_regularizer=keras.regularizers.L2(decay))]
        )
        model.compile(keras.optimizers.Adam(3e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        model.fit((x - mean) / scale, y, epochs=max(60, 300 // -(-len(x) // 256)), batch_size=256, verbose=0)
        accuracy = float((model.predict((x_val - mean) / scale, verbose=0).argmax(axis=1) == y_val).mean())
        if accuracy > best:
            best, logits = accuracy, model.predict((test - mean) / scale, verbose=0)
    return logits


def bag_of_words(train_texts: Sequence[str], *others: Sequence[str], least: int = 2) -> list[np.ndarray]:
    """Return which words each text has, of those that `least` training texts have, at length one.

    >>> bag_of_words(["a cat", "a dog"], ["a bird"])[1].tolist()
    [[1.0]]
    """
    split = [[set(metrics.tokens(text)) for text in texts] for texts in (train_texts, *others)]
    counts: dict[str, int] = {}
    for words in split[0]:
        for word in words:
            counts[word] = counts.get(word, 0) + 1
    place = {word: at for at, word in enumerate(sorted(word for word, count in counts.items() if count >= least))}
    tables = []
    for texts in split:
        table = np.zeros((len(texts), len(place)), "float32")
        for row, words in zip(table, texts, strict=True):
            row[[place[word] for word in words if word in place]] = 1.0
        tables.append(table / np.maximum(np.linalg.norm(table, axis=1, keepdims=True), 1e-6))
    return tables


def store(system: str, command: str = "", **found: Any) -> Path:
    """Write what a recipe measured to `results/<system>.json`; `command` is what follows the package's name.

    `examples` hold texts that may not be handed on: they are written beside the runs, to be looked at.
    """
    if "examples" in found:
        write(RUNS / f"{system}-examples.json", json.dumps(found.pop("examples"), indent=1, ensure_ascii=False) + "\n")
    path = RESULTS / f"{system}.json"
    path.parent.mkdir(exist_ok=True)
    about = {
        "system": system,
        "command": f"python -m recipes.systems.{command or system}",
        "measured": time.strftime("%Y-%m-%d"),
        "machine": f"{platform.machine()}, {keras.backend.backend()}, Keras {keras.__version__}",
    }
    write(path, json.dumps(_as_json({**about, **found}), indent=1, ensure_ascii=False) + "\n")
    return path
