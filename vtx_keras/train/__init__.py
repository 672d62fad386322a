"""A run: `fit` that can be killed and goes on, in a folder that says what was done.

history = train.run(model, data.load("emoji", "train"), "runs/mine", validation=data.load("emoji", "validation"))
"""

import importlib
from typing import Any

_ROOM_OF = {
    "run": "running",
    "adamw": "running",
    "parallel": "parallel",
    "Diverged": "keeping",
    "Stopped": "keeping",
    "BadRun": "folder",
}
__all__ = sorted(_ROOM_OF)


def __getattr__(name: str) -> Any:
    if name in _ROOM_OF:
        room = importlib.import_module(f"vtx_keras.train.{_ROOM_OF[name]}")
        return room if name == _ROOM_OF[name] else getattr(room, name)
    raise AttributeError(f"module 'vtx_keras.train' has no attribute {name!r}")
