"""What the runners share: example by example in turns, greedy decoding by hand, memory. Needs NumPy, nothing else."""

import sys
import time
from collections.abc import Callable

import numpy as np

START, END = 2, 3


def rows_of(given: str) -> list[dict]:
    """The examples of an .npz, one by one, as batches of one."""
    inputs = dict(np.load(given))
    return [{name: array[i : i + 1] for name, array in inputs.items()} for i in range(len(inputs["image"]))]


def measured(run: Callable[[dict], dict], rows: list[dict]) -> tuple[dict, np.ndarray]:
    """Outputs of all rows by name, and milliseconds for each. The first row runs twice, for a first run is slower."""
    results, ms = [], []
    for row in [rows[0], *rows]:
        begin = time.perf_counter()
        results.append(run(row))
        ms.append(1000 * (time.perf_counter() - begin))
    outputs = {name: np.concatenate([result[name] for result in results[1:]]) for name in results[0]}
    return outputs, np.array(ms[1:])


def written(step: Callable[..., dict], states: dict, caches: dict) -> dict:
    """Greedy decoding by hand: ids, and the mean log-probability of what was written, the end included."""
    length = caches["cache_0"].shape[3]
    ids, score, count, newest = np.zeros((1, length), "int32"), 0.0, 0, START
    for index in range(length):
        outputs = step(token=np.array([[newest]], "int32"), index=np.array(index, "int32"), **caches, **states)
        logits = outputs["logits"][0].astype("float64")
        newest, count = int(logits.argmax()), count + 1
        score += logits[newest] - logits.max() - np.log(np.exp(logits - logits.max()).sum())
        if newest == END:
            break
        ids[0, index] = newest
        caches = {name: outputs[f"next_{name}"] for name in caches}
    return {"ids": ids, "score": np.array([score / count], "float32")}


def peak_megabytes() -> float:
    """Of this process. `getrusage` would count its parent's too, on Linux."""
    if sys.platform == "linux":
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) / 1e3 for line in status if line.startswith("VmHWM"))
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)
