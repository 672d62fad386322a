"""The world's checkpoints: models of the zoo from the weights that their authors published, by one line.

    from vtx_keras import zoo
    model = zoo.build("cross_attn_captioner", weights="blip_base")      # needs a network once, and vtx_keras[hf]
    model = zoo.build("cross_attn_captioner", weights="hf://Salesforce/blip-image-captioning-base")
    model = zoo.build("cross_attn_captioner", weights="a/transformers/folder")

Each architecture has a module with two functions: `layout` says what a config means in the terms of `_graphs`, and
`table` which tensor each layer has.
"""

import importlib
from typing import Any

_MODULE_OF = {
    "ARCHITECTURES": "_build",
    "CATALOGUE": "_catalogue",
    "DECODERS": "_catalogue",
    "build": "_build",
    "fill": "_causal",
    "find_decoder": "_causal",
    "folder_of": "_build",
    "is_published": "_build",
    "is_transformers": "_build",
    "restored": "_build",
    "say_aside": "_build",
    "tags_of": "_catalogue",
    "unchanged_decoder": "_causal",
    "with_decoder": "_causal",
    "with_encoders": "_towers",
}
__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        return getattr(importlib.import_module(f"vtx_keras.checkpoints.published.{_MODULE_OF[name]}"), name)
    raise AttributeError(f"module 'vtx_keras.checkpoints.published' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
