"""What a model looked at: heat maps over the picture, word by word, of any model of the zoo.

seen = explain.attention(model, "photo.png")        # a captioner explains the caption it writes
seen.words, seen.maps.shape                          # (["a", "cat"], (2, 7, 7))
seen.save("maps.png")                                # the picture, and a panel per word
heat = seen.heat("cat")                              # over the picture as it came, padding and cropping undone
pixels = explain.overlay(seen.picture, heat)
"""

import importlib
from typing import Any

_MODULE_OF = {"attention": "_maps", "Explanation": "_pictures", "overlay": "_pictures"}
__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        return getattr(importlib.import_module(f"vtx_keras.explain.{_MODULE_OF[name]}"), name)
    raise AttributeError(f"module 'vtx_keras.explain' has no attribute {name!r}")
