"""Which fusion? Five fusions on three tasks, on equal terms: the same cached features, data, CPU time and search.

    python -m recipes.ablation train    # trains and evaluates what zoo/fusions.json lacks (an hour or two on two cores)
    python -m recipes.ablation time     # then, on an idle machine: times all exported files in turns
    python -m recipes.page              # writes the results into zoo/README.md

Every run has the same budget of CPU time: the number of steps that fit into it is estimated from a few timed steps, and
the learning rate schedule ends with the last one. The learning rate is searched on the validation split, once per
fusion and task, with the first seed. Only runs with the chosen rate are evaluated on the test split. `train vqa` does
one task, so that several processes can share the work: pin each to a core of its own.
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

from recipes.families import drawings, emoji_questions
from recipes.steps import EMOJI_ENCODER, build_model
from vtx_keras import data, evaluate, export, media, train, zoo
from vtx_keras._files import file_hash, write
from vtx_keras.checkpoints._folder import WEIGHTS
from vtx_keras.checkpoints.published import _encoders as published
from vtx_keras.data.sets._emoji import Emoji

ZOO = Path(__file__).parents[1] / "zoo"
STORED, FILES = ZOO / "fusions.json", Path("runs/fusions")
FUSIONS = ("concat_mlp", "gated", "cross_attn", "co_attn", "merged_attn")
RATES, SEEDS, BATCH = (1e-3, 2e-3), (0, 1, 2), 64
CPU_SECONDS, EVAL_ROWS = 45, 1000  # of training, and of validation and test, in each run
WARM_UP, TIMED, TURNS = 4, 12, 30  # steps before and while a step is timed; turns in which the files are timed
SHARED = {**EMOJI_ENCODER, "dim": 128, "depth": 2, "max_length": 16, "dropout": 0.1}
TEST = "vendor"  # the concepts of the training split, drawn by an artist that no run was trained on
TASKS: dict[str, dict[str, Any]] = {
    "captioner": {
        "examples": drawings.emoji_names,
        "metric": "word_f1",
        "options": {},
        "what": "captions: F1 of their words",
        "baseline": ("cross_attn_captioner/emoji", "nearest_neighbour"),
    },
    "vqa": {
        "examples": emoji_questions.questions,
        "metric": "accuracy",
        "options": {"text_depth": 1},
        "what": "answers: accuracy",
        "baseline": ("cross_attn_vqa/emoji", "question_alone"),
    },
    "matcher": {
        "examples": drawings.emoji_names,
        "metric": "accuracy",
        "options": {"text_depth": 1},
        "what": "matches: accuracy",
        "baseline": ("cross_attn_matcher/emoji", "most_frequent"),
    },
}


def cells(tasks: Sequence[str] = ()) -> list[tuple[str, str]]:
    """Return every task, or each of `tasks`, with every fusion that it can have."""
    return [(task, fusion) for task in tasks or TASKS for fusion in FUSIONS if f"{fusion}_{task}" in zoo.MODELS]


def read_stored() -> dict[str, dict[str, Any]]:
    """Read the stored results, by "task fusion"."""
    return json.loads(STORED.read_text(encoding="utf-8")) if STORED.is_file() else {}


def store(cell: str, results: Mapping[str, Any]) -> None:
    """Add to the stored results, which are read again because another process may have added to them."""
    stored = read_stored()
    stored[cell] = {**stored.get(cell, {}), **results}
    write(STORED, json.dumps(stored, indent=1) + "\n")


def train_cell(task: str, fusion: str) -> dict[str, Any]:
    """Search the learning rate of one fusion at one task, train all seeds, and export a file."""
    searched = {rate: run(task, fusion, rate, SEEDS[0]) for rate in RATES}
    validation = {rate: score(model, task, "validation")["value"] for rate, (model, _) in searched.items()}
    rate = max(RATES, key=validation.get)
    runs = []
    for seed in SEEDS:
        model, cost = searched[rate] if seed == SEEDS[0] else run(task, fusion, rate, seed)
        runs.append({**cost, "test": score(model, task, TEST)})
    model = searched[rate][0]
    path = FILES / f"{task}-{fusion}.tflite"
    path.parent.mkdir(parents=True, exist_ok=True)
    few = list(examples(task, "validation").encoded.take(8).as_numpy_iterator())
    report = export.litert(model, path, verify_data=few, share=0.0)
    return {
        "encoder_sha256": encoder_hash(),
        "data": str(Emoji.VERSION),
        "rate": rate,
        "validation": {f"{rate:g}": value for rate, value in validation.items()},
        "parameters": model.behind_encoder().count_params(),
        "litert_megabytes": round(report.megabytes, 2),
        "runs": runs,
    }


def encoder_hash() -> str:
    """Return the hash of the encoder whose features all fusions read."""
    return file_hash(published.find(SHARED["image_encoder"]) / WEIGHTS)


def run(task: str, fusion: str, rate: float, seed: int) -> tuple[Any, dict[str, Any]]:
    """Return a model trained for the budget, and how many steps and CPU seconds that took."""
    batches = data.batches(
        features(task), new_model(task, fusion, seed).behind_encoder(), batch_size=BATCH, training=True, seed=seed
    )

    def fit(model: Any, steps: int) -> list[float]:
        head, clock = model.behind_encoder(), Clock()
        head.compile(train.adamw(head, steps, learning_rate=rate), loss=model.loss)
        head.fit(batches.repeat(), steps_per_epoch=steps, verbose=0, callbacks=[clock])
        return clock.seconds

    step = statistics.median(fit(new_model(task, fusion, seed), WARM_UP + TIMED)[WARM_UP:])
    steps, model = int(CPU_SECONDS / step), new_model(task, fusion, seed)
    return model, {"seed": seed, "steps": steps, "cpu_seconds": round(sum(fit(model, steps)), 1)}


def new_model(task: str, fusion: str, seed: int) -> Any:
    """Build an untrained model with the seed's weights, its image encoder frozen."""
    keras.utils.set_random_seed(seed)
    options = {**SHARED, **TASKS[task]["options"], **text_options(task)}
    model = zoo.build(f"{fusion}_{task}", weights="encoders", **options)
    model.freeze("image")
    return model


@functools.cache
def text_options(task: str) -> dict[str, Any]:
    """Return the vocabulary of the training examples and, for questions, the answers."""
    model = build_model(f"{FUSIONS[0]}_{task}", examples(task, "train"), {**SHARED, **TASKS[task]["options"]})
    return {"vocabulary": model.vocabulary, **({"classes": model.class_names} if task == "vqa" else {})}


@functools.cache
def features(task: str) -> tf.data.Dataset:
    """Return the training examples with the features of their pictures, which are the same for every fusion."""
    return data.features(examples(task, "train"), new_model(task, FUSIONS[0], SEEDS[0]), "runs/features")


def score(model: Any, task: str, split: str) -> dict[str, float]:
    """Return the task's metric with its interval."""
    report = evaluate.run(model, examples(task, split), baselines=(), limit=EVAL_ROWS, draws=200)
    return report.metrics[TASKS[task]["metric"]]


@functools.cache
def examples(task: str, split: str) -> data.Examples:
    """Return the task's examples."""
    return TASKS[task]["examples"](split)


def time_files(turns: int) -> dict[str, dict[str, float]]:
    """Return each file's CPU milliseconds for a row on one thread: the files in turns, the median of all turns.

    A captioner writes a caption of its own length, so its mean number of tokens is returned too.
    """
    from ai_edge_litert.interpreter import Interpreter

    files = {}
    for task, fusion in cells():
        interpreter = Interpreter(str(FILES / f"{task}-{fusion}.tflite"), num_threads=1)
        files[f"{task} {fusion}"] = interpreter.get_signature_runner("serving_default"), inputs(task)
    times: dict[str, list[float]] = {cell: [] for cell in files}
    for turn in range(-2, turns):  # two turns to warm up
        for cell, (runner, rows) in files.items():
            start = time.process_time()
            for row in rows:
                runner(**row)
            if turn >= 0:
                times[cell].append(1000 * (time.process_time() - start) / len(rows))
    results = {cell: {"litert_ms": round(statistics.median(values), 2)} for cell, values in times.items()}
    for cell, (runner, rows) in files.items():
        if cell.startswith("captioner"):
            tokens = [int(np.count_nonzero(runner(**row)["ids"])) for row in rows]
            results[cell]["litert_tokens"] = round(statistics.mean(tokens), 1)
    return results


def inputs(task: str, count: int = 8) -> list[dict[str, np.ndarray]]:
    """Return validation pictures as a file takes them, with a text of full length where it reads one."""
    rows = examples(task, "validation").encoded.take(count).as_numpy_iterator()
    pictures = [media.resize(media.read(row["image"]), SHARED["image_shape"][:2])[None] for row in rows]
    words = {} if task == "captioner" else {"tokens": np.full((1, SHARED["max_length"]), 10, "int32")}
    return [{"image": np.asarray(picture, "uint8"), **words} for picture in pictures]


class Clock(keras.callbacks.Callback):
    """Measures the CPU seconds of each step."""

    def __init__(self):
        super().__init__()
        self.seconds: list[float] = []

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self.start = time.process_time()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.seconds.append(time.process_time() - self.start)


def main() -> None:
    """Train what is not stored yet, or time the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=["train", "time"])
    parser.add_argument("tasks", nargs="*", choices=[*TASKS, []], help="for train: all by default")
    args = parser.parse_args()
    if args.step == "time":
        for cell, results in time_files(TURNS).items():
            store(cell, results)
        return
    for task, fusion in cells(args.tasks):
        if "runs" not in read_stored().get(f"{task} {fusion}", {}):
            results = train_cell(task, fusion)
            store(f"{task} {fusion}", results)
            print(task, fusion, json.dumps(results), flush=True)


if __name__ == "__main__":
    main()
