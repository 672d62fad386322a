"""Evaluate a model beside baselines that need no model: metrics with intervals, sample cases and result files.

results = evaluate.run(model, data.load("emoji", "vendor"), train=data.load("emoji", "train"), folder="out")
print(results.table())
"""

import importlib
from typing import Any

_MODULE_OF = {"run": "_run", "Results": "_pages", "BASELINES": "_baselines"}
__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        return getattr(importlib.import_module(f"vtx_keras.evaluate.{_MODULE_OF[name]}"), name)
    raise AttributeError(f"module 'vtx_keras.evaluate' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
