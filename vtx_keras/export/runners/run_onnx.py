"""Runs an .onnx on the arrays of one .npz and writes what comes out, and what it cost, to another.

    python run_onnx.py MODEL.onnx INPUTS.npz OUTPUTS.npz

Needs NumPy and onnxruntime, nothing else. A model in two files is found by the name that both begin with. Of the form
`split` it goes word by word, the likeliest at each place.
"""

import sys
import time
from pathlib import Path

import measuring
import numpy as np
import onnxruntime


def main(model: str, given: str, made: str) -> None:
    path = Path(model)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    files = {"": path} if path.is_file() else {one.stem.split(".")[-1]: one for one in path.parent.glob("*.onnx")}
    begin = time.perf_counter()
    sessions = {
        name: onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        for name, file in files.items()
    }
    load_s = time.perf_counter() - begin
    run = written if "encode" in sessions else towers if "text" in sessions else whole
    outputs, ms = measuring.measured(lambda row: run(sessions, row), measuring.rows_of(given))
    np.savez(made, **outputs, load_s=load_s, ms=ms, peak_megabytes=measuring.peak_megabytes())


def named(session: onnxruntime.InferenceSession, inputs: dict) -> dict:
    return dict(zip([one.name for one in session.get_outputs()], session.run(None, inputs), strict=True))


def whole(sessions: dict, row: dict) -> dict:
    return named(sessions[""], row)


def towers(sessions: dict, row: dict) -> dict:
    return {**named(sessions["image"], {"image": row["image"]}), **named(sessions["text"], {"tokens": row["tokens"]})}


def written(sessions: dict, row: dict) -> dict:
    step = sessions["decode_step"]
    shapes = {one.name: (1, *one.shape[1:]) for one in step.get_inputs() if one.name.startswith("cache_")}
    caches = {name: np.zeros(shape, "float32") for name, shape in shapes.items()}
    return measuring.written(lambda **inputs: named(step, inputs), named(sessions["encode"], row), caches)


if __name__ == "__main__":
    main(*sys.argv[1:])
