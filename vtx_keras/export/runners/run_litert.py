"""Runs a .tflite on the arrays of one .npz and writes what comes out, and what it cost, to another.

    python run_litert.py MODEL.tflite INPUTS.npz OUTPUTS.npz

Needs NumPy and ai-edge-litert, nothing else. Of the form `split` it goes word by word, the likeliest at each place.
"""

import sys
import time

import measuring
import numpy as np
from ai_edge_litert.interpreter import Interpreter


def main(model: str, given: str, made: str) -> None:
    begin = time.perf_counter()
    interpreter = Interpreter(model_path=model, num_threads=1)
    interpreter.allocate_tensors()
    signatures = {name: interpreter.get_signature_runner(name) for name in interpreter.get_signature_list()}
    load_s = time.perf_counter() - begin
    run = written if "encode" in signatures else towers if "text" in signatures else whole
    outputs, ms = measuring.measured(lambda row: run(signatures, row), measuring.rows_of(given))
    np.savez(made, **outputs, load_s=load_s, ms=ms, peak_megabytes=measuring.peak_megabytes())


def whole(signatures: dict, row: dict) -> dict:
    return copied(signatures["serving_default"](**row))


def towers(signatures: dict, row: dict) -> dict:
    return copied({**signatures["image"](image=row["image"]), **signatures["text"](tokens=row["tokens"])})


def written(signatures: dict, row: dict) -> dict:
    step = signatures["decode_step"]
    details = step.get_input_details()
    caches = {name: np.zeros(one["shape"], one["dtype"]) for name, one in details.items() if name.startswith("cache_")}
    return measuring.written(step, signatures["encode"](**row), caches)


def copied(outputs: dict) -> dict:
    return {name: np.array(value) for name, value in outputs.items()}


if __name__ == "__main__":
    main(*sys.argv[1:])
