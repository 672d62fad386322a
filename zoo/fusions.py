"""Which fusion? Five of them on three tasks, on equal terms: the same kept features, data, CPU time and search.

    python -m zoo.fusions      # trains and judges what is not in fusions.json yet (an hour or two on two cores)
    python -m zoo.page         # tells it in zoo/README.md

Each run has the same budget of CPU time: the steps that fit into it are counted from a few that are timed, and the
schedule ends with them. The learning rate is searched on the validation split, once per fusion and task, with the first
seed; then every seed is judged on the test split. Latency is that of the LiteRT file, one thread.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import keras

from vtx_keras import data, evaluate, export, train
from vtx_keras import zoo as models
from zoo import families, making, shapes

HERE = Path(__file__).parent
STORED = HERE / "fusions.json"
FUSIONS = ("concat_mlp", "gated", "cross_attn", "co_attn", "merged_attn")
RATES, SEEDS, BATCH, WARM, TIMED = (5e-4, 2e-3), (0, 1, 2), 64, 4, 12
SIZES = {"dim": 128, "depth": 2, "max_length": 16, "dropout": 0.1}
TASKS: dict[str, dict[str, Any]] = {
    "captioner": {
        "examples": families.emoji_names,
        "test": "vendor",
        "metric": "word_f1",
        "options": making.EMOJI_EYE,
        "what": "captions: words (F1) of names of `emoji`, unseen artist",
    },
    "vqa": {
        "examples": shapes.questions,
        "test": "test",
        "metric": "accuracy",
        "options": {"image_encoder": "mobilenet_v2", "image_shape": (65, 65, 3), "text_depth": 1},
        "what": "answers: accuracy on `easy_vqa`, test",
    },
    "matcher": {
        "examples": families.emoji_names,
        "test": "vendor",
        "metric": "accuracy",
        "options": {**making.EMOJI_EYE, "text_depth": 1},
        "what": "matches: accuracy on pairs of `emoji`, unseen artist",
    },
}


def runs() -> list[tuple[str, str]]:
    """Every task with every fusion that can do it."""
    return [(task, fusion) for task in TASKS for fusion in FUSIONS if f"{fusion}_{task}" in models.MODELS]


def run(budget: float, judged: int) -> None:
    """All runs that are not stored yet."""
    stored = json.loads(STORED.read_text()) if STORED.is_file() else {"settings": settings(budget, judged), "rows": []}
    assert stored["settings"] == settings(budget, judged), f"{STORED} has other settings: move it away"
    known = {(row["task"], row["fusion"], row["rate"], row["seed"]) for row in stored["rows"]}
    for task, fusion in runs():
        for seed in SEEDS:
            rates = RATES if seed == SEEDS[0] else [best_rate(stored["rows"], task, fusion)]
            for rate in rates:
                if (task, fusion, rate, seed) not in known:
                    row = one(task, fusion, rate, seed, budget, judged)
                    stored["rows"].append(row)
                    part = STORED.with_name(".fusions.json")
                    part.write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")
                    part.replace(STORED)
                    print(json.dumps(row), flush=True)


def settings(budget: float, judged: int) -> dict[str, Any]:
    """What all runs share."""
    return {"cpu_seconds": budget, "judged_rows": judged, "batch_size": BATCH, **SIZES}


def best_rate(rows: list[dict], task: str, fusion: str) -> float:
    """The learning rate whose run with the first seed did best on validation."""
    tried = [row for row in rows if (row["task"], row["fusion"], row["seed"]) == (task, fusion, SEEDS[0])]
    return max(tried, key=lambda row: row["validation"])["rate"]


def one(task: str, fusion: str, rate: float, seed: int, budget: float, judged: int) -> dict[str, Any]:
    """One run: trained for the budget, judged on validation and, with what it costs, on test."""
    how, name = TASKS[task], f"{fusion}_{task}"
    examples = how["examples"]("train")

    def fresh() -> tuple[keras.Model, keras.Model]:
        model = making.built(name, examples, {**SIZES, **how["options"]}, seed=seed)
        model.freeze("image")
        return model, model.behind_encoder()

    model, head = fresh()
    kept = data.features(examples, model, "runs/features")
    batches = data.batches(kept, head, batch_size=BATCH, training=True, seed=seed).repeat()
    head.compile(train.adamw(head, WARM + TIMED), loss=model.loss)
    clock = Clock()
    head.fit(batches, steps_per_epoch=WARM + TIMED, verbose=0, callbacks=[clock])
    steps = int(budget / statistics.median(clock.seconds[WARM:]))

    model, head = fresh()  # its weights are those of the seed again
    head.compile(train.adamw(head, steps, learning_rate=rate), loss=model.loss)
    clock = Clock()
    head.fit(batches, steps_per_epoch=steps, verbose=0, callbacks=[clock])
    figures = [
        evaluate.run(model, how["examples"](split), baselines=(), limit=judged, draws=200).metrics[how["metric"]]
        for split in ("validation", how["test"])
    ]
    row = {"task": task, "fusion": fusion, "rate": rate, "seed": seed, "steps": steps}
    row |= {"cpu_seconds": round(sum(clock.seconds), 1), "parameters": head.count_params()}
    row |= {"validation": round(figures[0]["value"], 4), "test": figures[1]}
    if seed == SEEDS[0]:
        few = list(how["examples"]("validation").encoded.take(8).as_numpy_iterator())
        with tempfile.TemporaryDirectory() as folder:
            report = export.litert(model, f"{folder}/model.tflite", verify_data=few, share=0.0)
        row |= {"litert_ms": report.ms_p50, "litert_megabytes": report.megabytes}
    return row


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
    """Runs what is not stored yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", type=float, default=60, help="CPU seconds of training, each run")
    parser.add_argument("--judged", type=int, default=1000, help="rows of validation and test, each run")
    given = parser.parse_args()
    run(given.budget, given.judged)


if __name__ == "__main__":
    main()
