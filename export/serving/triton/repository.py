"""Lay out an exported .onnx for Triton's onnxruntime backend: its inputs and outputs become a config.pbtxt.

    python repository.py model.onnx models/captions     # writes models/captions/config.pbtxt and 1/model.onnx
    tritonserver --model-repository=models

Needs the package onnxruntime. Of a retriever, lay out both files, each under a name of its own.
"""

import os
import shutil
import sys
from pathlib import Path

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read on import; otherwise it stores a device id in the home
import onnxruntime

TYPES = {
    "tensor(uint8)": "TYPE_UINT8",
    "tensor(int32)": "TYPE_INT32",
    "tensor(int64)": "TYPE_INT64",
    "tensor(float)": "TYPE_FP32",
}
SETTINGS = """
# Requests that wait are joined; one that is alone waits 2 ms for others. On a CPU batches above four save little.
dynamic_batching { preferred_batch_size: [ 4 ], max_queue_delay_microseconds: 2000 }

# One instance for each core. On a GPU: count: 1, kind: KIND_GPU, a larger preferred_batch_size, no parameters.
instance_group [ { count: 2, kind: KIND_CPU } ]
parameters { key: "intra_op_thread_count", value: { string_value: "1" } }
"""


def config(file: Path, name: str, largest: int = 16) -> str:
    """Return the config.pbtxt of a model."""
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    lines = [f'name: "{name}"', 'backend: "onnxruntime"', 'default_model_filename: "model.onnx"']
    lines += [f"max_batch_size: {largest}"]
    for kind, tensors in (("input", session.get_inputs()), ("output", session.get_outputs())):
        for one in tensors:
            if not one.shape or one.shape[0] != "batch":
                raise SystemExit(f"{file}: {one.name} has no batches; lay out a file of form one, not of form split")
            sizes = [size if isinstance(size, int) else -1 for size in one.shape[1:]]
            shape = f"dims: {sizes}" if sizes else "dims: [ 1 ], reshape: { shape: [ ] }"  # Triton wants a dimension
            lines.append(f'{kind} [ {{ name: "{one.name}", data_type: {TYPES[one.type]}, {shape} }} ]')
    return "\n".join(lines) + "\n" + SETTINGS


def main(arguments: list[str]) -> None:
    if len(arguments) != 2:
        raise SystemExit(__doc__)
    file, folder = map(Path, arguments)
    if not file.is_file():
        raise SystemExit(f"{file} is no file: expected one that export.onnx wrote")
    text = config(file, folder.name)
    (folder / "1").mkdir(parents=True, exist_ok=True)
    shutil.copyfile(file, folder / "1" / "model.onnx")
    weights = file.with_name(f"{file.name}.data")  # of more than 2 GB; the file tells its name
    if weights.is_file():
        shutil.copyfile(weights, folder / "1" / weights.name)
    (folder / "config.pbtxt").write_text(text, encoding="utf-8")
    print(folder / "config.pbtxt")


if __name__ == "__main__":
    main(sys.argv[1:])
