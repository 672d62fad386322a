"""Make batches `(inputs, labels, sample_weight)` for `fit` from tfds, files or memory.

ds = data.load("emoji", split="train")              # examples {"image", "caption", ...}
model.fit(data.batches(ds, model, batch_size=64, training=True), epochs=10)

model.fit(data.arrays(model, images, texts))        # without TensorFlow
"""

import importlib
from typing import Any

_MODULE_OF = {
    "Examples": "_source",
    "arrays": "_memory",
    "Batches": "_memory",
    "targets": "_memory",
    "load": "_load",
    "sample": "_load",
    "batches": "_pipeline",
    "features": "_behind",
    "preview": "_source",
    "from_csv": "_files",
    "from_folder": "_files",
    "sentences": "_behind",
    "overlap": "_files",
    "named": "_load",
    "has_splits": "_load",
    "held_out": "_load",
    "sets": "sets",
}
__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        module = importlib.import_module(f"vtx_keras.data.{_MODULE_OF[name]}")
        return module if name == _MODULE_OF[name] else getattr(module, name)
    raise AttributeError(f"module 'vtx_keras.data' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
