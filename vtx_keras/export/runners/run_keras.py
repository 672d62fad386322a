"""Runs a .keras file on the arrays of one .npz and writes what comes out, and what it cost, to another.

    python run_keras.py MODEL.keras INPUTS.npz OUTPUTS.npz FOLDER_OF_THE_PACKAGE SETTINGS

What the runners beside this one are compared with: the model itself, in a process of its own. SETTINGS is a JSON object
with those of `generate_ids`.
"""

import json
import os
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf


def main(model: str, given: str, made: str, package: str, settings: str) -> None:
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    sys.path.insert(0, package)
    from vtx_keras import zoo
    from vtx_keras.export import verify

    begin = time.perf_counter()
    network = zoo.load(model)
    load_s = time.perf_counter() - begin
    inputs = dict(np.load(given))
    results, ms = [], []
    for i in [0, *range(len(inputs["image"]))]:  # the first run is slower
        row = {name: array[i : i + 1] for name, array in inputs.items()}
        one = verify.Examples([], row["image"], None, row.get("tokens"), None)
        begin = time.perf_counter()
        results.append(verify.expected(network, one, **json.loads(settings)))
        ms.append(1000 * (time.perf_counter() - begin))
    outputs = {name: np.concatenate([result[name] for result in results[1:]]) for name in results[0]}
    np.savez(made, **outputs, load_s=load_s, ms=np.array(ms[1:]), peak_megabytes=peak_megabytes())


def peak_megabytes() -> float:
    """Of this process. `getrusage` would count its parent's too, on Linux."""
    if sys.platform == "linux":
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) / 1e3 for line in status if line.startswith("VmHWM"))
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


if __name__ == "__main__":
    main(*sys.argv[1:])
