"""Runs an .onnx on the arrays of one .npz and writes what comes out, and what it cost, to another.

    python run_onnx.py MODEL.onnx INPUTS.npz OUTPUTS.npz

Needs NumPy and onnxruntime, nothing else. A model in two files is found by the name that both begin with. Of the form
`split` it goes word by word, the likeliest at each place.
"""

import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime

START, END = 2, 3


def main(model: str, given: str, made: str) -> None:
    inputs = dict(np.load(given))
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
    rows = [{name: array[i : i + 1] for name, array in inputs.items()} for i in range(len(inputs["image"]))]
    run(sessions, rows[0])  # the first run is slower
    results, ms = [], []
    for row in rows:
        begin = time.perf_counter()
        results.append(run(sessions, row))
        ms.append(1000 * (time.perf_counter() - begin))
    outputs = {name: np.concatenate([result[name] for result in results]) for name in results[0]}
    np.savez(made, **outputs, load_s=load_s, ms=np.array(ms), peak_megabytes=peak_megabytes())


def named(session: onnxruntime.InferenceSession, inputs: dict) -> dict:
    return dict(zip([one.name for one in session.get_outputs()], session.run(None, inputs), strict=True))


def whole(sessions: dict, row: dict) -> dict:
    return named(sessions[""], row)


def towers(sessions: dict, row: dict) -> dict:
    return {**named(sessions["image"], {"image": row["image"]}), **named(sessions["text"], {"tokens": row["tokens"]})}


def written(sessions: dict, row: dict) -> dict:
    """Greedy decoding by hand: ids, and the mean log-probability of what was written, the end included."""
    step, states = sessions["decode_step"], named(sessions["encode"], row)
    shapes = {one.name: (1, *one.shape[1:]) for one in step.get_inputs() if one.name.startswith("cache_")}
    caches = {name: np.zeros(shape, "float32") for name, shape in shapes.items()}
    length = shapes["cache_0"][3]
    ids, score, written, newest = np.zeros((1, length), "int32"), 0.0, 0, START
    for index in range(length):
        token = np.array([[newest]], "int32")
        outputs = named(step, {"token": token, "index": np.array(index, "int32"), **caches, **states})
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


if __name__ == "__main__":
    main(*sys.argv[1:])
