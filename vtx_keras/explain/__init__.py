"""Show which parts of an image a model used: heat maps for each word, of any model of the zoo.

    maps = explain.attention(model, "photo.png")         # a captioner explains the caption it writes
    maps.words, maps.maps.shape                          # (["a", "cat"], (2, 7, 7))
    maps.save("maps.png")                                # the image, and a panel per word
    heat = maps.heat("cat")                              # at the original image's size, padding and cropping undone
    pixels = explain.overlay(maps.picture, heat)

A list of images gives a list of explanations. `explain.drawing(model, "a small cat")` shows which words each place of
a drawn picture attended to.
"""

import importlib
from typing import Any

_MODULE_OF = {"attention": "_maps", "drawing": "_maps", "Explanation": "_pictures", "overlay": "_pictures"}
__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        return getattr(importlib.import_module(f"vtx_keras.explain.{_MODULE_OF[name]}"), name)
    raise AttributeError(f"module 'vtx_keras.explain' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
