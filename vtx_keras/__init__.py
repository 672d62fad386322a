"""vtx_keras: a Keras 3 model zoo for seeing and reading at once.

Everything is imported when first used: `import vtx_keras` loads neither TensorFlow nor Keras.
"""

import importlib
from typing import Any

__version__ = "0.1.0"
__all__ = [
    "batch", "checkpoints", "cli", "compress", "data", "encoders", "evaluate", "explain", "export", "inputs", "media",
    "metrics", "models", "search", "text", "train", "tuning", "zoo",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in __all__:
        return importlib.import_module(f"vtx_keras.{name}")
    raise AttributeError(f"module 'vtx_keras' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
