"""Run an exported file on the examples of one .npz, and write its outputs and costs to another.

    python -P _runner.py savedmodel FOLDER       INPUTS.npz OUTPUTS.npz SIGNATURE ...
    python -P _runner.py litert     MODEL.tflite INPUTS.npz OUTPUTS.npz
    python -P _runner.py onnx       MODEL.onnx   INPUTS.npz OUTPUTS.npz
    python -P _runner.py keras      MODEL.keras  INPUTS.npz OUTPUTS.npz FOLDER_OF_THE_PACKAGE SETTINGS

This is a program of its own: it needs NumPy and the runtime of the format, and nothing of vtx_keras except for `keras`,
which runs the model that the others are compared with (SETTINGS are the exporter's, as a JSON object). Examples run one
at a time on one thread; the first runs twice, because a first run is slower. Files of form `split` are decoded here,
word by word.
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


def main(format: str, artifact: str, inputs_file: str, outputs_file: str, *options: str) -> None:
    """Run `artifact` and write its outputs with `load_s`, `ms` (per example) and `peak_megabytes`."""
    rows = examples(dict(np.load(inputs_file)))
    loaders: dict[str, Callable[..., tuple[float, dict[str, Run]]]]
    loaders = {"savedmodel": savedmodel, "litert": litert, "onnx": onnx, "keras": keras}
    load_s, runs = loaders[format](artifact, *options)
    outputs: dict = {}
    times = []
    for name, run in runs.items():
        results, ms = measured(run, rows)
        outputs |= {f"{name}.{key}" if name else key: value for key, value in results.items()}
        times.append(ms)
    # Of several signatures, the first one's times are reported.
    np.savez(outputs_file, **outputs, load_s=load_s, ms=times[0], peak_megabytes=peak_megabytes())


def examples(stored: dict) -> list[dict]:
    """Return the examples as batches of one.

    Strings are stored end to end in `name.bytes` and divided by `name.ends`; with `frames`, each clip is that many of
    them.
    """
    inputs = {name: array for name, array in stored.items() if not name.endswith((".bytes", ".ends")) and array.ndim}
    for key in [key.removesuffix(".ends") for key in stored if key.endswith(".ends")]:
        data, ends = stored[f"{key}.bytes"].tobytes(), stored[f"{key}.ends"]
        parts = [data[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]
        inputs[key] = np.array([*parts, None], object)[:-1]  # NumPy's byte strings would lose zeros at the end
    if "frames" in stored:
        inputs["image_bytes"] = inputs["image_bytes"].reshape(-1, int(stored["frames"]))
    count = max(map(len, inputs.values()))
    return [{name: array[i : i + 1] for name, array in inputs.items() if i < len(array)} for i in range(count)]


def measured(run: Run, rows: list[dict]) -> tuple[dict, np.ndarray]:
    """Return the outputs of all rows by name, and the milliseconds of each row."""
    results, ms = [], []
    for row in [rows[0], *rows]:
        start = time.perf_counter()
        results.append(run(row))
        ms.append(1000 * (time.perf_counter() - start))
    outputs = {name: np.concatenate([result[name] for result in results[1:]]) for name in results[0]}
    return {name: _storable(value) for name, value in outputs.items()}, np.array(ms[1:])


def _storable(array: np.ndarray) -> np.ndarray:
    """Return an array of byte objects as strings, which NumPy can store, or as bytes where they are no texts."""
    if array.dtype != object:
        return array
    try:
        return np.array([item.decode() for item in array], str)
    except UnicodeDecodeError:  # files of pictures, of which none ends in a zero, as NumPy demands
        return np.array(list(array), bytes)


def peak_megabytes() -> float:
    """Return the peak memory of this process. On Linux, `getrusage` would include the parent's."""
    if sys.platform == "linux":
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) / 1e3 for line in status if line.startswith("VmHWM"))
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def greedy(step: Callable[..., dict], states: dict, caches: dict) -> dict:
    """Decode greedily, a step at a time: ids, and the mean log-probability of the tokens, the end token included."""
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
    """Load a SavedModel with TensorFlow alone, without Keras. Outputs are named `signature.output`."""
    # tf-keras is rarely installed: TensorFlow then loads no Keras at all, and starts faster.
    os.environ["TF_USE_LEGACY_KERAS"] = "1"
    tf = one_thread()
    start = time.perf_counter()
    loaded = tf.saved_model.load(folder)
    load_s = time.perf_counter() - start
    foreign = {"vtx_keras", "keras", "keras_hub", "tensorflow_text"} & set(sys.modules)
    if foreign:
        raise RuntimeError(f"{', '.join(foreign)} was imported: expected TensorFlow alone")

    def runner(name: str) -> Run:
        signature = loaded.signatures[name]
        inputs = signature.structured_input_signature[1]

        def run(row: dict) -> dict:
            outputs = signature(**{key: tf.constant(row[key]) for key in inputs})
            return {key: value.numpy() for key, value in outputs.items()}

        return run

    return load_s, {name: runner(name) for name in signatures}


def litert(model: str) -> tuple[float, dict[str, Run]]:
    """Load a `.tflite` file with ai-edge-litert."""
    from ai_edge_litert.interpreter import Interpreter

    start = time.perf_counter()
    interpreter = Interpreter(model_path=model, num_threads=1)
    interpreter.allocate_tensors()
    signatures = {name: interpreter.get_signature_runner(name) for name in interpreter.get_signature_list()}
    load_s = time.perf_counter() - start

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
    """Load an `.onnx` file, or the two files of a model in two parts beside its name, with onnxruntime."""
    import onnxruntime

    path = Path(model)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    files = {"": path} if path.is_file() else {one.stem.split(".")[-1]: one for one in path.parent.glob("*.onnx")}
    start = time.perf_counter()
    sessions = {
        name: onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        for name, file in files.items()
    }
    load_s = time.perf_counter() - start

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
    """Load the model itself with the package in the folder `package`."""
    one_thread()
    sys.path.insert(0, package)
    from vtx_keras.checkpoints import load
    from vtx_keras.export import _verify

    start = time.perf_counter()
    network = load(model)
    load_s = time.perf_counter() - start

    def run(row: dict) -> dict:
        arrays = row.get("image", np.zeros(0)), None, row.get("tokens"), None, row.get("noise")
        example = _verify.Examples([], *arrays)
        return _verify.expected(network, example, **json.loads(settings))

    return load_s, {"": run}


def one_thread() -> Any:
    """Import TensorFlow and limit it to one thread."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    return tf


if __name__ == "__main__":
    main(*sys.argv[1:])
