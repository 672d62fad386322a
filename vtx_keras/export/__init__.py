"""A model as a file that runs without us: `saved_model` for servers, `litert` for phones, `onnx` for the rest.

    report = export.saved_model(model, "out/serving")
    report = export.litert(model, "out/model.tflite", quantize="int8")
    report = export.onnx(model, "out/model.onnx")

Each has run what it wrote in that format's own runtime, in a fresh process, and compared it with the model: see
`verify`. What does not agree does not get its name, and raises `NotEqual`.
"""

import importlib
import os
from typing import Any

# Read when onnxruntime is imported, here or in a process of ours: it would keep a number of the device in the home.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

_MODULE_OF = {
    "saved_model": "_saved_model",
    "litert": "_litert",
    "onnx": "_onnx",
    "NotEqual": "_verify",
    "Report": "_verify",
}
__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        return getattr(importlib.import_module(f"vtx_keras.export.{_MODULE_OF[name]}"), name)
    raise AttributeError(f"module 'vtx_keras.export' has no attribute {name!r}")
