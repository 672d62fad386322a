"""Count what a model computes: multiplications and additions of matrix products and convolutions."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from vtx_keras.compress._units import watched
from vtx_keras.inputs.text import START
from vtx_keras.models._base import VisionText, leaves
from vtx_keras.models._methods import Captioner
from vtx_keras.models.blocks import Attention
from vtx_keras.models.concepts import Concepts

__all__ = ["flops"]


def flops(model: VisionText, length: int | None = None) -> dict[str, int]:
    """Return what a model computes for one picture: "encode", the image encoder, and "text", all else.

    A multiplication and an addition count as two; what is not a matrix product or a convolution (norms, activations,
    softmax, recurrent layers), and what keras-hub's own attention multiplies, does not count. The text has `length`
    tokens, by default as many as the model reads at most. A captioner also has "word": what each further word costs at
    that length, beside those before it.

    >>> from vtx_keras import zoo
    >>> model = zoo.build("gated_captioner", weights=None, dim=32, depth=1, vision_depth=1, image_shape=(32, 32, 3))
    >>> counts = flops(model, 8)
    >>> sorted(counts), counts["encode"] > 2 * 32 * 32 * 3 * 32
    (['encode', 'text', 'word'], True)
    """
    if not isinstance(model, VisionText) or "image" not in model.input:
        raise TypeError(f"expected a model of the zoo that sees, not a {type(model).__name__}")
    length = length or model.options["max_length"]
    if length < 1:
        raise ValueError(f"length={length}: expected at least 1")
    counts = _counted(model, length)
    if isinstance(model, Captioner) and length > 1:
        counts["word"] = counts["text"] - _counted(model, length - 1)["text"]
    return counts


def _counted(model: VisionText, length: int) -> dict[str, int]:
    """Run one picture and a text eagerly, and count what each layer computes."""
    seeing = [model.get_layer("image_encoder")] if model.has_layer("image_encoder") else []
    encoder = {id(leaf) for one in seeing for leaf in leaves(one)}
    counts = {"encode": 0, "text": 0}

    def seen(layer: Any, output: Any, *inputs: Any) -> None:
        counts["encode" if id(layer) in encoder else "text"] += _of(layer, output, *inputs)

    def attended(layer: Any, output: Any, x: Any, keys: Any, *others: Any) -> None:
        del output, others
        part = "encode" if any(id(leaf) in encoder for leaf in leaves(layer)) else "text"
        counts[part] += 4 * layer.heads * layer.width * x.shape[1] * keys.shape[-1] * x.shape[0]

    attentions = [one for one in leaves(model, stop_at=Attention) if isinstance(one, Attention)]
    image = np.zeros((1, *model.image_shape), "float32")
    inputs = {"image": image, "tokens": np.full((1, length), START, "int32")}
    with contextlib.ExitStack() as watching:
        watching.enter_context(watched(leaves(model), seen))
        watching.enter_context(watched(attentions, attended, "attend"))
        watching.enter_context(warnings.catch_warnings(action="ignore"))  # Keras wonders at a softmax over one token
        model({name: inputs[name] for name in model.input}, training=False)
    return counts


def _of(layer: Any, output: Any, *inputs: Any) -> int:
    """Return what one call of a layer computes."""
    of: dict[type, Callable[[], int]] = {
        keras.layers.DepthwiseConv2D: lambda: 2 * math.prod(output.shape) * math.prod(layer.kernel.shape[:2]),
        keras.layers.Conv2D: lambda: 2 * math.prod(output.shape) * math.prod(layer.kernel.shape[:3]),
        keras.layers.Dense: lambda: 2 * math.prod(output.shape) * layer.kernel.shape[0],
        keras.layers.EinsumDense: lambda: 2 * math.prod(inputs[0].shape[:2]) * math.prod(layer.kernel.shape),
        Concepts: lambda: 2 * sum(math.prod(one.shape) for one in layer.weights if len(one.shape) == 2),
    }  # fmt: skip
    if isinstance(layer, keras.layers.ReversibleEmbedding):
        words = output.shape[-1] == layer.input_dim and inputs[0].shape[-1] == layer.output_dim
        return 2 * math.prod(output.shape) * layer.output_dim if words else 0
    return next((count() for kind, count in of.items() if isinstance(layer, kind)), 0)
