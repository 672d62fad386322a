"""Runs a .keras file on the arrays of one .npz and writes what comes out, and what it cost, to another.

    python run_keras.py MODEL.keras INPUTS.npz OUTPUTS.npz FOLDER_OF_THE_PACKAGE SETTINGS

What the runners beside this one are compared with: the model itself, in a process of its own. SETTINGS is a JSON object
with those of the exporters.
"""

import json
import os
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import measuring
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

    def run(row: dict) -> dict:
        one = verify.Examples([], row["image"], None, row.get("tokens"), None)
        return verify.expected(network, one, **json.loads(settings))

    outputs, ms = measuring.measured(run, measuring.rows_of(given))
    np.savez(made, **outputs, load_s=load_s, ms=ms, peak_megabytes=measuring.peak_megabytes())


if __name__ == "__main__":
    main(*sys.argv[1:])
