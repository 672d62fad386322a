"""Memory that an export takes, as a multiple of the float32 weights: each format in a process of its own.

    python benchmarks/memory.py                 # a captioner of 180 million parameters

The process holds TensorFlow (0.7 GB) and the model beside what the export needs; the file is tried in another one.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import processor, store

FORMATS = ("litert", "litert int8", "onnx", "onnx int8", "saved_model")
SUFFIX = {"litert": "tflite", "onnx": "onnx", "saved_model": "folder"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("formats", nargs="*", default=list(FORMATS))
    parser.add_argument("--dim", type=int, default=1024)
    parser.add_argument("--depth", type=int, default=8)
    parser.add_argument("--one", action="store_true", help="measure in this process, and print the figures")
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measured(args.formats[0], args.dim, args.depth)))
        return
    rows = []
    for name in args.formats:
        command = [sys.executable, __file__, name, "--dim", str(args.dim), "--depth", str(args.depth), "--one"]
        done = subprocess.run(command, capture_output=True, text=True)
        rows.append(
            json.loads(done.stdout.splitlines()[-1]) if not done.returncode else {"format": name, "failed": True}
        )
        print(rows[-1] if not done.returncode else done.stderr[-800:], flush=True)
    if list(args.formats) == list(FORMATS):
        store("memory", rows, hardware=processor())


def measured(name: str, dim: int, depth: int) -> dict[str, float | str]:
    """Export a captioner with random weights, and return the peak of memory."""
    from vtx_keras import data, export, text, zoo

    words = text.vocabulary([f"w{number}" for number in range(20_000)])
    options = {"dim": dim, "depth": depth, "heads": dim // 64, "vision_depth": 2, "image_shape": (64, 64, 3)}
    model = zoo.build("cross_attn_captioner", weights=None, vocabulary=words, max_length=8, **options)
    weights = 4 * model.count_params() / 1e9
    before = peak()
    kind, _, quantize = name.partition(" ")
    start, few = time.process_time(), [{"image": data.sample("photos/cat.jpg")}]
    with tempfile.TemporaryDirectory() as folder:
        write = getattr(export, kind)
        settings = {"quantize": quantize} if quantize else {}
        report = write(model, Path(folder) / f"model.{SUFFIX[kind]}", verify_data=few, share=0.0, **settings)
    gigabytes = peak()
    return {
        "format": name,
        "weights_gb": round(weights, 2),
        "before_gb": round(before, 2),
        "peak_gb": round(gigabytes, 2),
        "times_the_weights": round(gigabytes / weights, 1),
        "file_mb": round(report.megabytes, 1),
        "cpu_s": round(time.process_time() - start, 1),
    }


def peak() -> float:
    """Return the largest memory of this process so far, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e9 if sys.platform == "darwin" else 1e6)


if __name__ == "__main__":
    main()
