"""Runs a .tflite on the arrays of one .npz and writes what comes out, and what it cost, to another.

    python run_litert.py MODEL.tflite INPUTS.npz OUTPUTS.npz

Needs NumPy and ai-edge-litert, nothing else. Of the form `split` it goes word by word, the likeliest at each place.
"""

import sys
import time

import numpy as np
from ai_edge_litert.interpreter import Interpreter

START, END = 2, 3


def main(model: str, given: str, made: str) -> None:
    inputs = dict(np.load(given))
    begin = time.perf_counter()
    interpreter = Interpreter(model_path=model, num_threads=1)
    interpreter.allocate_tensors()
    signatures = {name: interpreter.get_signature_runner(name) for name in interpreter.get_signature_list()}
    load_s = time.perf_counter() - begin
    run = written if "encode" in signatures else towers if "text" in signatures else whole
    rows = [{name: array[i : i + 1] for name, array in inputs.items()} for i in range(len(inputs["image"]))]
    run(signatures, rows[0])  # the first run is slower
    results, ms = [], []
    for row in rows:
        begin = time.perf_counter()
        results.append(run(signatures, row))
        ms.append(1000 * (time.perf_counter() - begin))
    outputs = {name: np.concatenate([result[name] for result in results]) for name in results[0]}
    np.savez(made, **outputs, load_s=load_s, ms=np.array(ms), peak_megabytes=peak_megabytes())


def whole(signatures: dict, row: dict) -> dict:
    return copied(signatures["serving_default"](**row))


def towers(signatures: dict, row: dict) -> dict:
    return copied({**signatures["image"](image=row["image"]), **signatures["text"](tokens=row["tokens"])})


def written(signatures: dict, row: dict) -> dict:
    """Greedy decoding by hand: ids, and the mean log-probability of what was written, the end included."""
    step, states = signatures["decode_step"], signatures["encode"](**row)
    details = step.get_input_details()
    caches = {name: np.zeros(one["shape"], one["dtype"]) for name, one in details.items() if name.startswith("cache_")}
    length = caches["cache_0"].shape[3]
    ids, score, written, newest = np.zeros((1, length), "int32"), 0.0, 0, START
    for index in range(length):
        token = np.array([[newest]], "int32")
        outputs = step(token=token, index=np.array(index, "int32"), **caches, **states)
        logits = outputs["logits"][0].astype("float64")
        newest, written = int(logits.argmax()), written + 1
        score += logits[newest] - logits.max() - np.log(np.exp(logits - logits.max()).sum())
        if newest == END:
            break
        ids[0, index] = newest
        caches = {name: outputs[f"next_{name}"] for name in caches}
    return {"ids": ids, "score": np.array([score / written], "float32")}


def peak_megabytes() -> float:
    """Of this process. `getrusage` would count its parent's too, on Linux."""
    if sys.platform == "linux":
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) / 1e3 for line in status if line.startswith("VmHWM"))
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def copied(outputs: dict) -> dict:
    return {name: np.array(value) for name, value in outputs.items()}


if __name__ == "__main__":
    main(*sys.argv[1:])
