"""What smaller photograph captioners cost: each way of `vtx_keras.compress` alone, and all together.

Alone, without training, on 1,000 pictures of Flickr8k's validation split, greedily; "cut at random" takes as many
channels as the row above it, chosen by a draw and without solving their readers anew. Together: `compress.search`,
which trains back by the whole model's words; the result is measured on the official test split, once, beside the whole
model. Files are exported and run on one thread.

    TFDS_DATA_DIR=... python benchmarks/compress.py alone       # 20 minutes, two cores
    TFDS_DATA_DIR=... python benchmarks/compress.py together    # 40 minutes
    TFDS_DATA_DIR=... python benchmarks/compress.py elsewhere   # 2 minutes: on photographs of other things
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
from common import RESULTS, processor, store

MODEL = "cross_attn_captioner"
WAYS: dict[str, dict[str, Any]] = {
    "a quarter of the channels": {"amount": 0.25, "by": "channels"},
    "half of the channels": {"amount": 0.5, "by": "channels"},
    "half of the channels, cut at random": {"amount": 0.5, "by": "channels", "random": True},
    "half of the neurons": {"amount": 0.5, "by": "neurons"},
    "a quarter of the heads": {"amount": 0.25, "by": "heads"},
    "half of the heads": {"amount": 0.5, "by": "heads"},
    "one of two blocks": {"amount": 0.5, "by": "blocks"},
    "matrices and concept head split, energy 0.98": {"energy": 0.98},
    "matrices and concept head split, energy 0.9": {"energy": 0.9},
    "concept head split, energy 0.98": {"energy": 0.98, "of": "concepts"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="+", choices=("alone", "together", "elsewhere"))
    parser.add_argument("--target", type=float, default=2.0)
    parser.add_argument("--keep", type=float, default=0.95)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--folder", type=Path, default=Path("runs/compress"))
    args = parser.parse_args()
    path = RESULTS / "compress.json"
    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    for part in args.parts:
        made = {"together": {"search", "test", "files"}}.get(part, {part})
        rows = [row for row in rows if row["part"] not in made]  # of an earlier run
        options = "" if part == "alone" else f" --target {args.target} --keep {args.keep} --epochs {args.epochs}"
        command = f"python benchmarks/compress.py {part}{options}"
        for row in {"alone": alone, "together": together, "elsewhere": elsewhere}[part](args):
            rows.append({**row, "command": command})
            store("compress", rows, hardware=f"{processor()}, two cores", command="see each row")


def alone(args: argparse.Namespace):
    """Yield a row for the whole model and for each way, measured as it leaves the model."""
    from vtx_keras import compress, data, zoo

    del args
    model = zoo.build(MODEL)
    batches = data.batches(data.load("flickr8k", "train").take(512), model, batch_size=32)
    yield {"part": "alone", "model": "whole", **measured(model, "validation", beams=1)}
    for name, how in WAYS.items():
        how, start = dict(how), time.process_time()
        random = how.pop("random", False)
        if "by" in how:
            smaller = compress.prune(model, how.pop("amount"), data=batches, **how)
            smaller = cut_at_random(model, smaller) if random else smaller
        else:
            smaller = compress.factor(model, data=batches, **how)
        minutes = round((time.process_time() - start) / 60, 2)
        yield {"part": "alone", "model": name, "cpu_minutes": minutes, **measured(smaller, "validation", beams=1)}


def cut_at_random(model: Any, smaller: Any) -> Any:
    """Give a pruned model random units of the whole one in place of those that were chosen."""
    from vtx_keras.compress._units import groups_of

    draws = np.random.default_rng(0)
    index: dict[int, tuple[int, np.ndarray]] = {}
    for one, other in zip(groups_of(model, "channels"), groups_of(smaller, "channels"), strict=True):
        kept = np.sort(draws.permutation(one.count)[: other.count])
        index |= {id(variable): (axis, kept) for variable, axis, _ in one.written}
        index[id(one.reader.kernel)] = (2, kept)
    for source, target in zip(model.weights, smaller.weights, strict=True):
        value = np.array(source)
        target.assign(np.take(value, index[id(source)][1], axis=index[id(source)][0]) if id(source) in index else value)
    return smaller


def together(args: argparse.Namespace):
    """Yield each step of the search on validation, then the whole and the smaller model on the test split."""
    from vtx_keras import compress, data, zoo

    keras.utils.set_random_seed(0)
    model = zoo.build(MODEL)
    smaller, steps = compress.search(
        model,
        photographs().examples("train"),
        data.load("flickr8k", "validation"),
        target=args.target,
        keep=args.keep,
        epochs=args.epochs,
        batch_size=64,
        limit=None,
        folder=place_of(args),
    )
    for number, step in enumerate(steps):
        yield {"part": "search", "model": f"{number}: {step.how}", "parameters": step.parameters,
               "gigaflops": step.gigaflops, "cider": step.value,
               "low": step.low, "high": step.high, "cpu_minutes": step.cpu_minutes, "kept": step.kept}  # fmt: skip
    for name, network in (("whole", model), ("smaller", smaller)):
        yield {"part": "test", "model": name, **measured(network, "test", beams=1)}
        yield {"part": "test", "model": f"{name}, 4 beams", **measured(network, "test", beams=4)}
    for name, network in (("whole", model), ("smaller", smaller)):
        yield from files(name, network)


def place_of(args: argparse.Namespace) -> Path:
    """Return where the search of these settings keeps its model."""
    return args.folder / f"{args.target}-{args.keep}-{args.epochs}"


def elsewhere(args: argparse.Namespace):
    """Yield what the whole and the smaller model say of photographs of other things, 942 of which both learned from."""
    from vtx_keras import zoo

    for name, model in (("whole", zoo.build(MODEL)), ("smaller", zoo.load(place_of(args) / "model"))):
        yield {"part": "elsewhere", "model": f"{name}, 4 beams", **measured(model, "coco_sample", beams=4)}


def photographs() -> Any:
    """Return the module with the photographs that the released captioner learned from."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from recipes.families import photos

    return photos


def measured(model: Any, split: str, beams: int) -> dict[str, Any]:
    from vtx_keras import data, evaluate

    examples = photographs().coco_sample("validation") if split == "coco_sample" else data.load("flickr8k", split)
    results = evaluate.run(model, examples, baselines=(), beams=beams)
    figure = results.metrics["cider"]
    return {"parameters": model.count_params(), "rows": results.rows,
            "cider": figure["value"], "low": figure["low"], "high": figure["high"]}  # fmt: skip


def files(name: str, model: Any):
    """Yield what exported files measure."""
    from vtx_keras import export

    with tempfile.TemporaryDirectory() as folder:
        for kind, exporter, end in (("LiteRT", export.litert, "tflite"), ("ONNX", export.onnx, "onnx")):
            for precision in (None, "int8"):
                try:
                    report = exporter(model, f"{folder}/{name}-{precision}.{end}", quantize=precision)
                except export.NotEqual as error:
                    report = error.report
                row = {"part": "files", "model": f"{name}, {kind} {precision or 'float32'}"}
                row |= {"megabytes": round(report.megabytes, 2), "ms": round(report.ms_p50, 2)}
                yield {**row, "identical": report.identical, "of": report.n}


if __name__ == "__main__":
    main()
