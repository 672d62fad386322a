"""Train with `fit` in a run folder: resumable after interruption, with a record of settings and results.

history = train.run(model, data.load("emoji", "train"), "runs/mine", validation=data.load("emoji", "validation"))
"""

import importlib
from typing import Any

_MODULE_OF = {
    "run": "_run",
    "Settings": "_settings",
    "adamw": "_settings",
    "suited": "_settings",
    "parallel": "parallel",
    "Diverged": "_callbacks",
    "Stopped": "_callbacks",
    "BadRun": "_folder",
}
__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        module = importlib.import_module(f"vtx_keras.train.{_MODULE_OF[name]}")
        return module if name == _MODULE_OF[name] else getattr(module, name)
    raise AttributeError(f"module 'vtx_keras.train' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
