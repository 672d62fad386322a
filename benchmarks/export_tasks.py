"""Export a trained model of each task in every format and precision, and compare each file with the model.

The captioner is the released one, compared on the bundled sample. The others are small models, trained here for a
minute or two each so that their answers are not random, and compared on examples they were not trained on. A file with
fewer identical results than `export` requires is in the table too, with `ok` false.

    TFDS_DATA_DIR=... python benchmarks/export_tasks.py [--tasks captioner,vqa] [--epochs 4]

It reads easy_vqa, emoji and emoji_video, which tfds builds if they are missing. Every row has the identical results of
n, the task's metric for model and file, megabytes and their ratio to the float32 weights, seconds to load, milliseconds
for a picture on one thread, and peak megabytes, in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from common import RESULTS, store

SMALL = {"weights": None, "dim": 128, "heads": 4, "vision_depth": 3, "image_shape": (64, 64, 3), "patch": 8}
FILES = [
    ("savedmodel", None),
    *(("litert", quantize) for quantize in (None, "float16", "int8")),
    *(("onnx", quantize) for quantize in (None, "float16", "int8")),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", default=",".join(TASKS), help="names of tasks, separated by commas")
    parser.add_argument("--epochs", type=int, default=4)
    args = parser.parse_args()
    tasks, stored = args.tasks.split(","), RESULTS / "export_tasks.json"
    before = json.loads(stored.read_text())["rows"] if stored.is_file() else []
    rows = [row for row in before if row["task"] not in tasks]
    for task in tasks:
        model, verify_data = TASKS[task](args.epochs)
        for format, quantize in FILES:
            with tempfile.TemporaryDirectory() as folder:
                rows.append({"task": task, **figures(exported(model, format, quantize, Path(folder), verify_data))})
            print(rows[-1], flush=True)
    store("export_tasks", sorted(rows, key=lambda row: list(TASKS).index(row["task"])))


def exported(model: Any, format: str, quantize: str | None, folder: Path, verify_data: Any) -> Any:
    """Export one file and return its report, whether or not it is equal to its model."""
    from vtx_keras import export

    try:
        if format == "savedmodel":
            return export.saved_model(model, folder / "1", verify_data=verify_data)
        if format == "litert":
            return export.litert(model, folder / "model.tflite", quantize=quantize, verify_data=verify_data)
        return export.onnx(model, folder / "model.onnx", quantize=quantize, verify_data=verify_data)
    except export.NotEqual as error:
        return error.report


def figures(report: Any) -> dict:
    """Return a report as a row of the table."""
    rounded = lambda value: None if value is None else round(value, 4)  # noqa: E731
    return {
        "model": report.model,
        "format": report.format,
        "quantize": report.quantize or "float32",
        "identical": f"{report.identical}/{report.n}",
        "ok": report.ok,
        "metric": report.metric,
        "metric_model": rounded(report.metric_model),
        "metric_artifact": rounded(report.metric_artifact),
        "difference": float(f"{report.difference:.2g}"),
        "megabytes": round(report.megabytes, 2),
        "of_weights": round(report.megabytes / report.weights_megabytes, 2),
        "load_s": round(report.load_s, 3),
        "ms_p50": round(report.ms_p50, 1),
        "peak_megabytes": round(report.peak_megabytes),
    }


# --- a model of each task, and the examples on which it is compared


def captioner(_epochs: int) -> tuple[Any, Any]:
    """Return the released model, compared on the bundled sample."""
    from vtx_keras import zoo

    return zoo.build("cross_attn_captioner", weights="emoji"), None


def vqa(epochs: int) -> tuple[Any, Any]:
    """Train on questions about one coloured shape."""
    from vtx_keras import data, zoo
    from vtx_keras.data.sets._easy_vqa import EasyVqa

    classes = EasyVqa.FEATURES["answer"].names
    model = zoo.build("cross_attn_vqa", depth=2, text_depth=1, classes=classes, **SMALL)
    return trained(model, data.load("easy_vqa", "train[:4000]"), epochs), data.load("easy_vqa", "test[:200]")


def classifier(epochs: int) -> tuple[Any, Any]:
    """Train on the group of an emoji, from its picture and its keywords."""
    from vtx_keras import data, zoo
    from vtx_keras.data.sets._emoji import GROUPS

    model = zoo.build("gated_classifier", depth=2, text_depth=1, max_length=48, classes=list(GROUPS), **SMALL)
    columns = {"text": "keywords", "label": "group"}
    load = lambda split: data.load("emoji", split, columns=columns)  # noqa: E731
    return trained(model, load("train[:2000]"), epochs), load("test[:200]")


def matcher(epochs: int) -> tuple[Any, Any]:
    """Train on whether a name is that of an emoji; compare on an artist it was not trained on."""
    from vtx_keras import data, zoo

    model = zoo.build("merged_attn_matcher", depth=2, text_depth=1, **SMALL)
    return trained(model, data.load("emoji", "train[:2000]"), epochs), data.load("emoji", "vendor[:200]")


def retriever(epochs: int) -> tuple[Any, Any]:
    """Train on emoji and their names; compare on an artist it was not trained on."""
    from vtx_keras import data, zoo

    model = zoo.build("retriever", text_depth=1, **SMALL)
    return trained(model, data.load("emoji", "train[:2000]"), epochs, batch_size=64), data.load("emoji", "vendor[:200]")


def video(epochs: int) -> tuple[Any, Any]:
    """Train on the names of animated emoji."""
    from vtx_keras import data, zoo

    shape = {**SMALL, "image_shape": (4, 64, 64, 3)}
    model = zoo.build("cross_attn_video_captioner", depth=2, max_length=16, **shape)
    return trained(model, data.load("emoji_video", "train"), epochs), data.load("emoji_video", "test[:60]")


def trained(model: Any, examples: Any, epochs: int, batch_size: int = 32) -> Any:
    """Train the model for a short run, and return it."""
    from vtx_keras import train

    with tempfile.TemporaryDirectory() as folder:
        settings = {"epochs": epochs, "batch_size": batch_size, "samples": 0, "verbose": False, "unknown": "drop"}
        history = train.run(model, examples, Path(folder) / "run", learning_rate=1e-3, **settings)
    print(f"{model.spec['name']}: loss {history.history['loss'][-1]:.3f} after {epochs} epochs", flush=True)
    return model


TASKS = {task.__name__: task for task in (captioner, vqa, classifier, matcher, retriever, video)}

if __name__ == "__main__":
    main()
