"""Export a model to a file that runs without this package: `saved_model` for servers, `litert` for phones, or `onnx`.

    report = export.saved_model(model, "out/serving")
    report = export.litert(model, "out/model.tflite", quantize="int8")
    report = export.onnx(model, "out/model.onnx")

Each function runs the file that it wrote in that format's own runtime, in a fresh process, and compares its results
with the model's. A file that disagrees does not get its name, and `NotEqual` is raised.
"""

import importlib
import os
from typing import Any

# onnxruntime reads this when it is imported, here or in a child process; it would store a device id in the home folder.
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


def __dir__() -> list[str]:
    return __all__
