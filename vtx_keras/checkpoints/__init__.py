"""Weights: folders and files with their hashes, transfer between models, and published encoders."""

import importlib
from typing import Any

_MODULE_OF = {
    "BadWeights": "_folder",
    "by_path": "_folder",
    "convert": "published._encoders",
    "load": "_restore",
    "restore": "_restore",
    "save": "_restore",
    "transfer": "_folder",
}
__all__ = sorted([*_MODULE_OF, "published"])


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        return getattr(importlib.import_module(f"vtx_keras.checkpoints.{_MODULE_OF[name]}"), name)
    if name == "published":
        return importlib.import_module("vtx_keras.checkpoints.published")
    raise AttributeError(f"module 'vtx_keras.checkpoints' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
