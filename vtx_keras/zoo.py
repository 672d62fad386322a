"""Models by name: list, describe, build, load and save them.

>>> from vtx_keras import zoo
>>> model = zoo.build("gated_vqa", weights=None, dim=32, depth=1, image_shape=(32, 32, 3), classes=["no", "yes"])
>>> model.output_shape
(None, 2)
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vtx_keras.checkpoints import _encoders as published
from vtx_keras.checkpoints._folder import describe, find, list_models
from vtx_keras.checkpoints._restore import load, restore, save
from vtx_keras.inputs.text import Vocabulary
from vtx_keras.models._base import VisionText
from vtx_keras.models.encoders import TEXTS
from vtx_keras.models.options import MODELS, lookup
from vtx_keras.models.tasks import ENCODERS, construct

__all__ = ["MODELS", "build", "describe", "is_saved", "list_models", "load", "lookup", "named", "save"]


def build(
    name: str,
    *,
    weights: str | os.PathLike | None = "default",
    vocabulary: str | os.PathLike | Sequence[str] | None = None,
    dtype: str | None = None,
    **overrides: Any,
) -> VisionText:
    """Build a model by name, compiled for its task.

    `weights` is "default" (the released ones), a released tag, a folder written by `zoo.save` or training, None (a
    new model), or "encoders" (pretrained encoders, the rest new). `vocabulary` is a file, a list of pieces, or texts
    to learn them from; by default that of the weights, else the bundled English one. `dtype` is a Keras dtype policy.
    `zoo.describe(name)` lists the `overrides`.

    >>> build("cross_attn_captioner", weights=None, size="tiny").count_params() < 10_000_000
    True
    """
    entry = lookup(name)
    if weights is None:
        return construct(name, overrides, Vocabulary.of(vocabulary), dtype)
    if weights == "encoders":
        text_encoder = overrides.get("text_encoder")
        if vocabulary is None and isinstance(text_encoder, str) and text_encoder in TEXTS:
            vocabulary = published.vocabulary_of(text_encoder)
        load = dict.fromkeys(ENCODERS, published.loader)
        return construct(name, overrides, Vocabulary.of(vocabulary), dtype, load=load)
    folder = find(name, weights, entry.default)
    return restore(folder, name, vocabulary=vocabulary, dtype=dtype, overrides=overrides)


def is_saved(model: str | os.PathLike) -> bool:
    """Return whether an argument of a command is a saved model, a path, and not a name of the zoo."""
    return str(model) not in MODELS and Path(model).exists()


def named(model: str | os.PathLike, weights: str | os.PathLike = "default") -> VisionText:
    """Return the model that an argument of a command names: a saved one, or a name of the zoo with `weights`.

    >>> named("cross_attn_captioner").name
    'captioner'
    """
    if not is_saved(model):
        return build(str(model), weights=weights)
    if weights != "default":
        raise ValueError(f"{model} is a saved model, with weights of its own: leave out --weights {weights}")
    return load(model)
