"""Which fusion? Five of them on three tasks, on equal terms: the same kept features, data, CPU time and search.

    python -m zoo.fusions train    # trains and judges what is not in fusions.json yet (an hour or two on two cores)
    python -m zoo.fusions time     # then, on a quiet machine: the exported files of all, in turns
    python -m zoo.page             # tells it in zoo/README.md

Each run has the same budget of CPU time: the steps that fit into it are counted from a few that are timed, and the
schedule ends with them. The learning rate is searched on the validation split, once per fusion and task, with the first
seed; the test split sees only the runs with the chosen rate. `train vqa` does one task, so several processes can share
the work: pin each to a core of its own.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from vtx_keras import data, evaluate, export, train
from vtx_keras.inputs import media
from vtx_keras.checkpoints import _encoders as published, _folder as weights
from vtx_keras import zoo as models
from vtx_keras.data.sets import _builder as builders
from vtx_keras._files import write
from recipes import families, release as making
from zoo.cross_attn_vqa.emoji.recipe import questions

HERE = Path(__file__).parent
STORED, FILES = HERE / "fusions.json", Path("runs/fusions")
FUSIONS = ("concat_mlp", "gated", "cross_attn", "co_attn", "merged_attn")
RATES, SEEDS, BATCH, WARM, TIMED, TURNS = (1e-3, 2e-3), (0, 1, 2), 64, 4, 12, 30
CPU_SECONDS, JUDGED = 45, 1000  # training, and rows of validation and of test, of each run
SHARED = {**making.EMOJI_EYE, "dim": 128, "depth": 2, "max_length": 16, "dropout": 0.1}
TEST = "vendor"  # the concepts of training, drawn by an artist that no run has seen
TASKS: dict[str, dict[str, Any]] = {
    "captioner": {
        "examples": families.emoji_names,
        "metric": "word_f1",
        "options": {},
        "what": "captions: F1 of their words",
        "baseline": ("cross_attn_captioner/emoji", "nearest_neighbour"),
    },
    "vqa": {
        "examples": questions,
        "metric": "accuracy",
        "options": {"text_depth": 1},
        "what": "answers: accuracy",
        "baseline": ("cross_attn_vqa/emoji", "question_alone"),
    },
    "matcher": {
        "examples": families.emoji_names,
        "metric": "accuracy",
        "options": {"text_depth": 1},
        "what": "matches: accuracy",
        "baseline": ("cross_attn_matcher/emoji", "most_frequent"),
    },
}


def cells(tasks: Sequence[str] = ()) -> list[tuple[str, str]]:
    """Every task (or these) with every fusion that can do it."""
    return [(task, fusion) for task in tasks or TASKS for fusion in FUSIONS if f"{fusion}_{task}" in models.MODELS]


def known() -> dict[str, dict[str, Any]]:
    """What is stored, by "task fusion"."""
    return json.loads(STORED.read_text(encoding="utf-8")) if STORED.is_file() else {}


def remember(cell: str, found: Mapping[str, Any]) -> None:
    """Adds to what is stored, which is read anew, for another process may have added to it."""
    stored = known()
    stored[cell] = {**stored.get(cell, {}), **found}
    write(STORED, json.dumps(stored, indent=1) + "\n")


def trained(task: str, fusion: str) -> dict[str, Any]:
    """One fusion at one task: the search of its rate, all seeds, and its file."""
    searched = {rate: run(task, fusion, rate, SEEDS[0]) for rate in RATES}
    validation = {rate: score(model, task, "validation")["value"] for rate, (model, _) in searched.items()}
    rate = max(RATES, key=validation.get)
    runs = []
    for seed in SEEDS:
        model, found = searched[rate] if seed == SEEDS[0] else run(task, fusion, rate, seed)
        runs.append({**found, "test": score(model, task, TEST)})
    model = searched[rate][0]
    path = FILES / f"{task}-{fusion}.tflite"
    path.parent.mkdir(parents=True, exist_ok=True)
    few = list(examples(task, "validation").encoded.take(8).as_numpy_iterator())
    report = export.litert(model, path, verify_data=few, share=0.0)
    return {
        "encoder_sha256": encoder_hash(),
        "data": str(builders.Emoji.VERSION),
        "rate": rate,
        "validation": {f"{each:g}": value for each, value in validation.items()},
        "parameters": model.behind_encoder().count_params(),
        "litert_megabytes": round(report.megabytes, 2),
        "runs": runs,
    }


def encoder_hash() -> str:
    """Of the encoder whose features all fusions read."""
    return weights.file_hash(published.find(SHARED["image_encoder"]) / weights.WEIGHTS)


def run(task: str, fusion: str, rate: float, seed: int) -> tuple[Any, dict[str, Any]]:
    """A model trained for the budget, and what that took."""
    batches = data.batches(
        kept(task), fresh(task, fusion, seed).behind_encoder(), batch_size=BATCH, training=True, seed=seed
    )

    def fitted(model: Any, steps: int) -> list[float]:
        head, clock = model.behind_encoder(), Clock()
        head.compile(train.adamw(head, steps, learning_rate=rate), loss=model.loss)
        head.fit(batches.repeat(), steps_per_epoch=steps, verbose=0, callbacks=[clock])
        return clock.seconds

    steps = int(CPU_SECONDS / statistics.median(fitted(fresh(task, fusion, seed), WARM + TIMED)[WARM:]))
    model = fresh(task, fusion, seed)
    return model, {"seed": seed, "steps": steps, "cpu_seconds": round(sum(fitted(model, steps)), 1)}


def fresh(task: str, fusion: str, seed: int) -> Any:
    """An untrained model with the seed's weights, its eye frozen."""
    keras.utils.set_random_seed(seed)
    options = {**SHARED, **TASKS[task]["options"], **told(task)}
    model = models.build(f"{fusion}_{task}", weights="encoders", **options)
    model.freeze("image")
    return model


@functools.cache
def told(task: str) -> dict[str, Any]:
    """The words of the training examples, and for questions the answers."""
    model = making.built(f"{FUSIONS[0]}_{task}", examples(task, "train"), {**SHARED, **TASKS[task]["options"]})
    return {"vocabulary": model.vocabulary, **({"classes": model.class_names} if task == "vqa" else {})}


@functools.cache
def kept(task: str) -> tf.data.Dataset:
    """The training examples with the features of their pictures, which are the same for every fusion."""
    return data.features(examples(task, "train"), fresh(task, FUSIONS[0], SEEDS[0]), "runs/features")


def score(model: Any, task: str, split: str) -> dict[str, float]:
    """The task's metric with its interval."""
    found = evaluate.run(model, examples(task, split), baselines=(), limit=JUDGED, draws=200)
    return found.metrics[TASKS[task]["metric"]]


@functools.cache
def examples(task: str, split: str) -> tf.data.Dataset:
    """What the task is trained and judged on."""
    return TASKS[task]["examples"](split)


def timed(turns: int) -> dict[str, dict[str, float]]:
    """CPU milliseconds of each file for a row, one thread: the files in turns, the median of all turns.

    A captioner writes its own caption, so the mean number of its tokens stands beside.
    """
    from ai_edge_litert.interpreter import Interpreter

    sides = {}
    for task, fusion in cells():
        interpreter = Interpreter(str(FILES / f"{task}-{fusion}.tflite"), num_threads=1)
        sides[f"{task} {fusion}"] = interpreter.get_signature_runner("serving_default"), inputs(task)
    times: dict[str, list[float]] = {side: [] for side in sides}
    for turn in range(-2, turns):  # two to warm up
        for side, (see, rows) in sides.items():
            start = time.process_time()
            for row in rows:
                see(**row)
            if turn >= 0:
                times[side].append(1000 * (time.process_time() - start) / len(rows))
    found = {side: {"litert_ms": round(statistics.median(each), 2)} for side, each in times.items()}
    for side, (see, rows) in sides.items():
        if side.startswith("captioner"):
            written = [int(np.count_nonzero(see(**row)["ids"])) for row in rows]
            found[side]["litert_tokens"] = round(statistics.mean(written), 1)
    return found


def inputs(task: str, count: int = 8) -> list[dict[str, np.ndarray]]:
    """Validation pictures as a file takes them, with a text of full length where it reads one."""
    rows = examples(task, "validation").encoded.take(count).as_numpy_iterator()
    pictures = [media.resize(media.read(row["image"]), SHARED["image_shape"][:2])[None] for row in rows]
    words = {} if task == "captioner" else {"tokens": np.full((1, SHARED["max_length"]), 10, "int32")}
    return [{"image": np.asarray(picture, "uint8"), **words} for picture in pictures]


class Clock(keras.callbacks.Callback):
    """CPU seconds of each step."""

    def __init__(self):
        super().__init__()
        self.seconds: list[float] = []

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self.start = time.process_time()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.seconds.append(time.process_time() - self.start)


def main() -> None:
    """Trains what is not stored yet, or times the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=["train", "time"])
    parser.add_argument("tasks", nargs="*", choices=[*TASKS, []], help="to train: all by default")
    given = parser.parse_args()
    if given.step == "time":
        for cell, found in timed(TURNS).items():
            remember(cell, found)
        return
    for task, fusion in cells(given.tasks):
        if "runs" not in known().get(f"{task} {fusion}", {}):
            found = trained(task, fusion)
            remember(f"{task} {fusion}", found)
            print(task, fusion, json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
