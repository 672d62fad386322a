"""A run: `fit` that can be killed and goes on, in a folder that says what was done.

history = train.run(model, data.load("emoji", "train"), "runs/mine", validation=data.load("emoji", "validation"))
"""

import importlib
from typing import Any

_MODULE_OF = {
    "run": "_run",
    "Settings": "_settings",
    "adamw": "_settings",
    "parallel": "parallel",
    "Diverged": "_callbacks",
    "Stopped": "_callbacks",
    "BadRun": "_folder",
}
__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        room = importlib.import_module(f"vtx_keras.train.{_MODULE_OF[name]}")
        return room if name == _MODULE_OF[name] else getattr(room, name)
    raise AttributeError(f"module 'vtx_keras.train' has no attribute {name!r}")
