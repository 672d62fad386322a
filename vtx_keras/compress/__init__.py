"""Make a model smaller: `prune`, `factor`, `distil`, and `search`, which tries them until a metric's bound.

smaller = compress.prune(model, 0.4, by="neurons", data=batches)
compress.distil(model, smaller, batches, epochs=3)
compress.least_ms(smaller, words=11)  # what this machine needs at least

Each function takes a model and returns an ordinary one, which `fit`, `zoo.save` and the exporters take. What was pruned
is gone: matrices have smaller shapes, and no mask is left.
"""

import importlib
from typing import Any

_MODULE_OF = {
    "prune": "_prune",
    "factor": "_prune",
    "distil": "_distil",
    "together": "_distil",
    "flops": "_cost",
    "least_ms": "_cost",
    "parts_of": "_cost",
    "Part": "_cost",
    "machine": "_cost",
    "Machine": "_cost",
    "search": "_search",
    "Step": "_search",
}
__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        return getattr(importlib.import_module(f"vtx_keras.compress.{_MODULE_OF[name]}"), name)
    raise AttributeError(f"module 'vtx_keras.compress' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
