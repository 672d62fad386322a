"""Runs an exported file on the examples of one .npz, and writes what comes out, and what it cost, to another.

    python -P _runner.py savedmodel FOLDER       INPUTS.npz OUTPUTS.npz SIGNATURE ...
    python -P _runner.py litert     MODEL.tflite INPUTS.npz OUTPUTS.npz
    python -P _runner.py onnx       MODEL.onnx   INPUTS.npz OUTPUTS.npz
    python -P _runner.py keras      MODEL.keras  INPUTS.npz OUTPUTS.npz FOLDER_OF_THE_PACKAGE SETTINGS

A program of its own: it needs NumPy and the runtime of the format, nothing of vtx_keras (but for `keras`, the model
itself, with which the others are compared; SETTINGS is a JSON object with those of the exporters). Examples run one by
one on one thread; the first runs twice, for a first run is slower. Of the form `split` it goes word by word.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

START, END = 2, 3

Run = Callable[[dict], dict]  # an example as a batch of one to outputs by name


def main(format: str, artifact: str, given: str, made: str, *options: str) -> None:
    """Run `artifact` and write its outputs with `load_s`, `ms` (per example) and `peak_megabytes`."""
    inputs = examples(dict(np.load(given)))
    load_s, runs = {"savedmodel": savedmodel, "litert": litert, "onnx": onnx, "keras": keras}[format](
        artifact, *options
    )
    outputs: dict = {}
    times = []
    for name, run in runs.items():
        found, ms = measured(run, inputs)
        outputs |= {f"{name}.{key}" if name else key: value for key, value in found.items()}
        times.append(ms)  # of several signatures, the first counts
    np.savez(made, **outputs, load_s=load_s, ms=times[0], peak_megabytes=peak_megabytes())


def examples(stored: dict) -> list[dict]:
    """Examples one by one as batches of one. Strings lie end to end in `name.bytes`, a clip's pictures in a row."""
    inputs = {name: array for name, array in stored.items() if not name.endswith((".bytes", ".ends")) and array.ndim}
    for key in [key.removesuffix(".ends") for key in stored if key.endswith(".ends")]:
        data, ends = stored[f"{key}.bytes"].tobytes(), stored[f"{key}.ends"]
        parts = [data[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]
        inputs[key] = np.array([*parts, None], object)[:-1]  # NumPy's own strings would lose zeros at their ends
    if "frames" in stored:
        inputs["image_bytes"] = inputs["image_bytes"].reshape(-1, int(stored["frames"]))
    count = max(map(len, inputs.values()))
    return [{name: array[i : i + 1] for name, array in inputs.items() if i < len(array)} for i in range(count)]


def measured(run: Run, rows: list[dict]) -> tuple[dict, np.ndarray]:
    """Outputs of all rows by name, and milliseconds for each."""
    results, ms = [], []
    for row in [rows[0], *rows]:
        begin = time.perf_counter()
        results.append(run(row))
        ms.append(1000 * (time.perf_counter() - begin))
    outputs = {name: np.concatenate([result[name] for result in results[1:]]) for name in results[0]}
    return {name: _storable(value) for name, value in outputs.items()}, np.array(ms[1:])


def _storable(array: np.ndarray) -> np.ndarray:
    """Strings as NumPy can store them."""
    return np.array([one.decode() for one in array], str) if array.dtype == object else array


def peak_megabytes() -> float:
    """Of this process. `getrusage` would count its parent's too, on Linux."""
    if sys.platform == "linux":
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) / 1e3 for line in status if line.startswith("VmHWM"))
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def greedy(step: Callable[..., dict], states: dict, caches: dict) -> dict:
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


def savedmodel(folder: str, *signatures: str) -> tuple[float, dict[str, Run]]:
    """Needs TensorFlow, nothing else, not even Keras. Outputs are named `signature.output`."""
    os.environ["TF_USE_LEGACY_KERAS"] = "1"  # few have the old Keras: then TensorFlow starts without any, and sooner
    tf = one_thread()
    begin = time.perf_counter()
    loaded = tf.saved_model.load(folder)
    load_s = time.perf_counter() - begin
    foreign = {"vtx_keras", "keras", "keras_hub", "tensorflow_text"} & set(sys.modules)
    if foreign:
        raise RuntimeError(f"{', '.join(foreign)} was imported: expected TensorFlow alone")

    def runner(name: str) -> Run:
        signature = loaded.signatures[name]
        wanted = signature.structured_input_signature[1]

        def run(row: dict) -> dict:
            result = signature(**{key: tf.constant(row[key]) for key in wanted})
            return {key: value.numpy() for key, value in result.items()}

        return run

    return load_s, {name: runner(name) for name in signatures}


def litert(model: str) -> tuple[float, dict[str, Run]]:
    """Needs ai-edge-litert."""
    from ai_edge_litert.interpreter import Interpreter

    begin = time.perf_counter()
    interpreter = Interpreter(model_path=model, num_threads=1)
    interpreter.allocate_tensors()
    signatures = {name: interpreter.get_signature_runner(name) for name in interpreter.get_signature_list()}
    load_s = time.perf_counter() - begin

    def copied(outputs: dict) -> dict:
        return {name: np.array(value) for name, value in outputs.items()}

    def whole(row: dict) -> dict:
        return copied(signatures["serving_default"](**row))

    def towers(row: dict) -> dict:
        return copied({**signatures["image"](image=row["image"]), **signatures["text"](tokens=row["tokens"])})

    def split(row: dict) -> dict:
        step = signatures["decode_step"]
        details = {name: one for name, one in step.get_input_details().items() if name.startswith("cache_")}
        caches = {name: np.zeros(one["shape"], one["dtype"]) for name, one in details.items()}
        return greedy(step, signatures["encode"](**row), caches)

    return load_s, {"": split if "encode" in signatures else towers if "text" in signatures else whole}


def onnx(model: str) -> tuple[float, dict[str, Run]]:
    """Needs onnxruntime. A model in two files is found by the name that both begin with."""
    import onnxruntime

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

    def named(name: str, inputs: dict) -> dict:
        outputs = sessions[name].run(None, inputs)
        return dict(zip([one.name for one in sessions[name].get_outputs()], outputs, strict=True))

    def whole(row: dict) -> dict:
        return named("", row)

    def towers(row: dict) -> dict:
        return {**named("image", {"image": row["image"]}), **named("text", {"tokens": row["tokens"]})}

    def split(row: dict) -> dict:
        inputs = sessions["decode_step"].get_inputs()
        caches = {one.name: np.zeros((1, *one.shape[1:]), "float32") for one in inputs if one.name.startswith("cache_")}
        return greedy(lambda **inputs: named("decode_step", inputs), named("encode", row), caches)

    return load_s, {"": split if "encode" in sessions else towers if "text" in sessions else whole}


def keras(model: str, package: str, settings: str) -> tuple[float, dict[str, Run]]:
    """The model itself, by the package in that folder."""
    one_thread()
    sys.path.insert(0, package)
    from vtx_keras.checkpoints import load
    from vtx_keras.export import _verify as verify

    begin = time.perf_counter()
    network = load(model)
    load_s = time.perf_counter() - begin

    def run(row: dict) -> dict:
        one = verify.Examples([], row["image"], None, row.get("tokens"), None)
        return verify.expected(network, one, **json.loads(settings))

    return load_s, {"": run}


def one_thread() -> Any:
    """TensorFlow, on one thread."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    return tf


if __name__ == "__main__":
    main(*sys.argv[1:])
