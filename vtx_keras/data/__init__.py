"""Batches `(inputs, labels, sample_weight)` for `fit`, out of tfds, files or memory.

ds = data.load("emoji", split="train")              # tf.data of {"image", "caption", ...}
model.fit(data.batches(ds, model, batch_size=64, training=True), epochs=10)

model.fit(data.arrays(model, images, texts))        # without TensorFlow
"""

import importlib
from typing import Any

_ROOM_OF = {
    "arrays": "memory",
    "Batches": "memory",
    "targets": "memory",
    "load": "reading",
    "sample": "reading",
    "batches": "pipeline",
    "features": "caching",
    "preview": "sheets",
    "from_csv": "files",
    "from_folder": "files",
    "overlap": "files",
    "named": "files",
    "has_splits": "files",
    "held_out": "files",
}
__all__ = sorted(_ROOM_OF)


def __getattr__(name: str) -> Any:
    if name in _ROOM_OF:
        return getattr(importlib.import_module(f"vtx_keras.data.{_ROOM_OF[name]}"), name)
    raise AttributeError(f"module 'vtx_keras.data' has no attribute {name!r}")
