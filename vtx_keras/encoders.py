"""Image and text encoders for your own models: from scratch, or published ones with their weights.

>>> image("vit", image_shape=(32, 32, 3), dim=8, heads=1, depth=1, patch=16).output_shape
(None, 2, 2, 8)
"""

from __future__ import annotations

from typing import Any

import keras

from vtx_keras.checkpoints.published._encoders import load, loader
from vtx_keras.models import encoders as _encoders
from vtx_keras.models.encoders import PerFrame
from vtx_keras.models.fusion import Vision

__all__ = ["PerFrame", "Vision", "image", "load", "text"]


def image(encoder: str | keras.Model = "vit", *, pretrained: bool = False, **options: Any) -> keras.Model:
    """Build an image encoder (see `models.encoders.image`); with `pretrained`, a published one has its weights."""
    return _encoders.image(encoder, load=loader if pretrained else None, **options)


def text(encoder: str | keras.Model = "transformer", *, pretrained: bool = False, **options: Any) -> keras.Model:
    """Build a text encoder (see `models.encoders.text`); with `pretrained`, a published one has its weights."""
    return _encoders.text(encoder, load=loader if pretrained else None, **options)
