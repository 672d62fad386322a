"""Runs a SavedModel on the examples of one .npz and writes what comes out, and what it cost, to another.

    python run_savedmodel.py FOLDER INPUTS.npz OUTPUTS.npz SIGNATURE ...

Needs TensorFlow, nothing else, not even Keras. Every signature runs on one example at a time; the first one is timed.
Outputs are named `signature.output`.
"""

import os
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["TF_USE_LEGACY_KERAS"] = "1"  # few have the old Keras: then TensorFlow starts without any, and sooner

import measuring
import numpy as np
import tensorflow as tf


def main(folder: str, given: str, made: str, *names: str) -> None:
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    begin = time.perf_counter()
    loaded = tf.saved_model.load(folder)
    load_s = time.perf_counter() - begin
    inputs, ms = examples(dict(np.load(given))), []
    outputs: dict = {}
    for name in names:
        signature = loaded.signatures[name]
        wanted = signature.structured_input_signature[1]
        results = []
        for i in [0, *range(len(inputs[next(iter(wanted))]))]:  # the first run is slower
            begin = time.perf_counter()
            result = signature(**{key: tf.constant(inputs[key][i : i + 1]) for key in wanted})
            results.append({key: value.numpy() for key, value in result.items()})
            if name == names[0]:
                ms.append(1000 * (time.perf_counter() - begin))
        for key in results[0]:
            outputs[f"{name}.{key}"] = plain(np.concatenate([result[key] for result in results[1:]]))
    foreign = {"vtx_keras", "keras", "keras_hub", "tensorflow_text"} & set(sys.modules)
    if foreign:
        raise RuntimeError(f"{', '.join(foreign)} was imported: expected TensorFlow alone")
    np.savez(made, **outputs, load_s=load_s, ms=np.array(ms[1:]), peak_megabytes=measuring.peak_megabytes())


def examples(stored: dict) -> dict:
    """Inputs by name. Strings lie end to end in `name.bytes`; the pictures of a clip come one after another."""
    inputs = {}
    for key in [key.removesuffix(".ends") for key in stored if key.endswith(".ends")]:
        data, ends = stored[f"{key}.bytes"].tobytes(), stored[f"{key}.ends"]
        parts = [data[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]
        inputs[key] = np.array([*parts, None], object)[:-1]  # NumPy's own strings would lose zeros at their ends
    if "frames" in stored:
        inputs["image_bytes"] = inputs["image_bytes"].reshape(-1, int(stored["frames"]))
    return inputs


def plain(array: np.ndarray) -> np.ndarray:
    """Strings as NumPy can store them."""
    return np.array([one.decode() for one in array], str) if array.dtype == object else array


if __name__ == "__main__":
    main(*sys.argv[1:])
