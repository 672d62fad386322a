"""Make a model smaller step by step, train it back, measure each step, and stop at a metric's bound."""

from __future__ import annotations

import gc
import json
import os
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import keras

from vtx_keras._files import write
from vtx_keras.checkpoints import save
from vtx_keras.compress._cost import flops
from vtx_keras.compress._distil import distil, taught_to_see, together
from vtx_keras.compress._prune import BY, checked, factor, finished, prune, rebuilt
from vtx_keras.compress._units import MOST_EXAMPLES, groups_of
from vtx_keras.evaluate._pages import LOWER_IS_BETTER
from vtx_keras.models._base import VisionText

__all__ = ["METRICS", "Step", "search"]
METRICS = ("cider", "vqa_accuracy", "word_f1", "text_to_image_recall_5", "f1_micro", "accuracy")  # what is kept
SEEING = 4  # of so many epochs, a published image encoder that lost channels learns to see as before in one
UNITS = tuple(kind for kind in BY if kind != "blocks")


@dataclass(frozen=True)
class Step:
    """A model on the way: how it was made, how large it is, its metric with its 95 % interval, what it took."""

    how: str
    parameters: int
    gigaflops: float  # of one picture and a text of full length
    metric: str
    value: float
    low: float | None
    high: float | None
    cpu_minutes: float
    kept: bool  # whether the metric held

    def __str__(self) -> str:
        interval = "" if self.low is None else f" [{self.low:.3f}, {self.high:.3f}]"
        held = "" if self.kept else ", below the bound"
        size = f"{self.parameters / 1e6:.2f} M parameters, {self.gigaflops:.2f} GFLOP"
        return f"{self.how}: {size}, {self.metric} {self.value:.3f}{interval}{held}, {self.cpu_minutes:.1f} CPU min"


def search(
    model: VisionText,
    data: Any,
    validation: Any,
    *,
    target: float = 2.0,
    keep: float = 0.99,
    rounds: int = 3,
    epochs: int = 5,
    metric: str | None = None,
    limit: int | None = 500,
    beams: int = 1,
    batch_size: int = 32,
    learning_rate: float = 3e-4,
    seed: int = 0,
    folder: str | os.PathLike | None = None,
    say: Callable[[str], object] = print,
) -> tuple[VisionText, list[Step]]:
    """Return a model with 1/`target` of the parameters, or as near as `keep` times its metric allows, and all steps.

    In `rounds` equal steps, neurons, heads and channels go (`prune`), and the rest learns from the whole model on the
    examples `data` for some `epochs` (`distil`); a step that fails is tried once more, half as far. A concept head is
    split first, and where pruning ends above the target, the matrices of blocks are split last (`factor`). Each step is
    measured on `limit` examples of `validation` by `metric` (by default the first of `METRICS` that the task has). The
    last step above the bound is returned; a target that the bound forbids is not reached, and the steps say so. A
    published image encoder that lost channels learns to give what it gave before, and is frozen then.

    With `folder`, `model` (weights, if a smaller one held) and `compress.json` (the steps) are written there after
    each step.
    """
    _check(target, keep, rounds, epochs, folder)
    whole = checked(model)
    took = time.process_time()
    steps = [_measured(whole, "the model", validation, metric, limit, beams, took, bound=None)]
    say(str(steps[0]))
    if folder is not None:
        _keep(folder, None, steps)
    bound, goal = keep * steps[0].value, whole.count_params() / target
    best, teacher = whole, _copy(whole)
    if published_encoder(teacher):
        teacher.freeze("image")
    with tempfile.TemporaryDirectory() as cache:

        def trained_back(smaller: VisionText, seed: int) -> VisionText:
            if published_encoder(smaller):
                if _encoder_size(smaller) < _encoder_size(best):
                    pairs = _seen_by_both(teacher, smaller, data, Path(cache), batch_size, seed)
                    taught_to_see(smaller, pairs, epochs=-(-epochs // SEEING), learning_rate=learning_rate * 2 / 3)
                smaller.freeze("image")
            how = {"batch_size": batch_size, "seed": seed, "training": True, "unknown": "drop"}
            pair, batches = _behind(teacher, smaller, data, Path(cache), how)
            distil(*pair, batches, epochs=epochs, learning_rate=learning_rate, verbose=0)
            return smaller

        def tried(smaller: VisionText, how: str) -> bool:
            took = time.process_time()
            keras.utils.set_random_seed(seed + len(steps))
            trained_back(smaller, seed + len(steps))
            steps.append(_measured(smaller, how, validation, metric, limit, beams, took, bound))
            say(str(steps[-1]))
            gc.collect()  # graphs of the step's batches and training are cycles, and hold its pictures
            if folder is not None:
                _keep(folder, smaller if steps[-1].kept else None, steps)
            return steps[-1].kept

        ratio, failed = target ** (1 / rounds), False
        while best.count_params() > goal * 1.02:
            want = max(goal, best.count_params() / ratio)
            smaller, done = _pruned(best, want, lambda model: _some(data, model, batch_size))
            if smaller.count_params() >= best.count_params():
                break
            if tried(smaller, f"pruned ({done})"):
                best, failed = smaller, False
            elif failed:
                break
            else:
                failed, ratio = True, ratio**0.5
        if best.count_params() > goal * 1.02:
            batches = _some(data, best, batch_size)
            smaller = factor(best, energy=0.95, data=batches)
            if smaller.count_params() < best.count_params() and tried(smaller, "matrices split"):
                best = smaller
    if best.count_params() > goal * 1.02:
        reached = whole.count_params() / best.count_params()
        say(f"the target of {target:g} x was not reached: {reached:.2f} x holds {keep:.0%} of {steps[0].metric}")
    return best, steps


def _check(target: float, keep: float, rounds: int, epochs: int, folder: str | os.PathLike | None) -> None:
    if folder is not None and (Path(folder) / "compress.json").exists():
        raise ValueError(f"{folder} holds another search: choose another folder")
    for what, fine, value, expected in (
        ("target", target > 1, target, "a number above 1, such as 2 for half of the parameters"),
        ("keep", 0 < keep <= 1, keep, "a share of the metric, such as 0.99"),
        ("rounds", rounds >= 1, rounds, "at least 1"),
        ("epochs", epochs >= 1, epochs, "at least 1"),
    ):
        if not fine:
            raise ValueError(f"{what}={value!r}: expected {expected}")


def _measured(
    model: VisionText,
    how: str,
    validation: Any,
    metric: str | None,
    limit: int | None,
    beams: int,
    took: float,
    bound: float | None,
) -> Step:
    """Evaluate a model; of what happened since `took`, the CPU time is told."""
    from vtx_keras import evaluate

    figures = evaluate.run(model, validation, baselines=(), limit=limit, beams=beams).metrics
    name = metric or next((name for name in METRICS if name in figures), "")
    fit = [name for name in figures if not name.endswith(LOWER_IS_BETTER)]
    if name not in fit:
        raise ValueError(f"metric={metric!r}: expected one of {', '.join(fit)}, of which more is better")
    figure, minutes = figures[name], (time.process_time() - took) / 60
    value = float(figure["value"] or 0.0)
    if bound is None and not value > 0:
        raise ValueError(f"the model's {name} is {figure['value']} on these examples: nothing is there to keep")
    held = bound is None or value >= bound
    counts = flops(model)
    size = {"parameters": model.count_params(), "gigaflops": round((counts["encode"] + counts["text"]) / 1e9, 4)}
    interval = {"low": figure["low"], "high": figure["high"]}
    return Step(how, **size, metric=name, value=value, **interval, cpu_minutes=round(minutes, 2), kept=held)


def _pruned(model: VisionText, want: float, some: Callable[[VisionText], Any]) -> tuple[VisionText, str]:
    """Return a model of about `want` parameters, or as near as units that can go allow, and what went."""
    gone = []
    if model.has_layer("concepts") and not model.get_layer("concepts").rank:
        model = factor(model, energy=0.98, of="concepts", data=some(model))
        gone.append("concept head split")
    groups = {kind: groups_of(model, kind) for kind in UNITS}
    kinds = [kind for kind, found in groups.items() if found]
    units = sum(group.cost * group.count for found in groups.values() for group in found)
    share = min((model.count_params() - want) / max(1, units), 0.8)
    if share > 0 and kinds:
        model = prune(model, share, by=kinds, data=some(model))
        gone.append(f"{share:.0%} of {', '.join(kinds)}")
    return model, "; ".join(gone)


def _some(data: Any, model: VisionText, batch_size: int) -> Any:
    """Return batches of a few examples from all over the data, as the model meets them in use."""
    from vtx_keras.data import Examples, batches
    from vtx_keras.data._examples import encoded_of

    rows = encoded_of(data)
    every = max(1, int(rows.cardinality()) // MOST_EXAMPLES)  # rows may be sorted, by label for instance
    with warnings.catch_warnings(action="ignore"):  # of texts that are cut, which training says
        return batches(Examples(rows.shard(every, 0).take(MOST_EXAMPLES)), model, batch_size=batch_size, unknown="drop")


def published_encoder(model: VisionText) -> bool:
    """Return whether the image encoder has a published name: it learned from more than the examples at hand."""
    return isinstance(model.options["image_encoder"], str) and model.options["image_encoder"] != "vit"


def _encoder_size(model: VisionText) -> int:
    return model.get_layer("image_encoder").count_params()


def _seen_by_both(teacher: VisionText, student: VisionText, data: Any, folder: Path, batch_size: int, seed: int) -> Any:
    """Return batches of pictures with what the teacher's encoder gives beside them, in an order drawn once."""
    from vtx_keras.data import Examples, batches, features
    from vtx_keras.data._examples import encoded_of

    rows = encoded_of(data)
    order = {"seed": seed, "reshuffle_each_iteration": False}
    rows = Examples(rows.shuffle(max(1, int(rows.cardinality())), **order))
    how = {"batch_size": batch_size, "unknown": "drop"}
    seen = batches(features(rows, teacher, folder), teacher.behind_encoder(), **how)
    return together(batches(rows, student, **how), seen)


def _copy(model: VisionText) -> VisionText:
    """Return a model like this one, so that what happens to it leaves this one alone."""
    other = rebuilt(model, model.options)
    for source, target in zip(model.weights, other.weights, strict=True):
        target.assign(source)
    return finished(model, other)


def _behind(
    teacher: VisionText, student: VisionText, data: Any, folder: Path, how: dict
) -> tuple[tuple[VisionText, VisionText], Any]:
    """Return the pair and its batches: behind the image encoders where the student's is frozen."""
    from vtx_keras.data import batches, features

    if student.get_layer("image_encoder").trainable:
        return (teacher, student), batches(data, student, **how)
    pair = teacher.behind_encoder(), student.behind_encoder()
    seen = [
        batches(features(data, whole, folder), part, **how)
        for whole, part in zip((teacher, student), pair, strict=True)
    ]
    return pair, together(*reversed(seen))


def _keep(folder: str | os.PathLike, model: VisionText | None, steps: list[Step]) -> None:
    """Write the steps, and the model if it held."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    if model is not None:
        save(model, Path(folder) / "model")
    record = {"steps": [asdict(step) for step in steps]}
    write(Path(folder) / "compress.json", json.dumps(record, indent=1) + "\n")
