"""What a model is compiled with: losses, metrics, and Adam with a rate of its own for each part.

tuning.pace(model, "image", rate=0.1, decay=0.9)
model.compile(tuning.PacedAdamW(3e-4), loss=model.loss, weighted_metrics=...)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from vtx_keras._compat import FusedUpdate, set_direction
from vtx_keras.inputs.text import PAD
from vtx_keras.models._base import VisionText, leaves
from vtx_keras.models.layers import register, registered_as

__all__ = [
    "SSIM", "Adam", "Contrastive", "PacedAdam", "PacedAdamW", "Perplexity", "WordAccuracy", "WordLoss", "clipping",
    "pace", "ssim",
]  # fmt: skip
WINDOW, SIGMA = 11, 1.5  # of SSIM, as published (Wang and others, 2004)


@register
class Contrastive(keras.layers.Layer):
    """Pulls the embeddings of a pair together and those of other pairs in the batch apart, through `add_loss`.

    `form` is "softmax" (CLIP: a row's own partner against the batch, both ways) or "sigmoid" (SigLIP: every pair by
    itself). The loss is added here, so the output stays one row per example: the two unit vectors (batch, 2, dim), or
    `output` if one is given.
    """

    def __init__(self, form: str = "softmax", weight: float = 1.0, **kwargs: Any):
        super().__init__(**kwargs)
        self.form, self.weight = form, weight

    def compute_output_shape(self, image_shape: tuple, text_shape: tuple, output_shape: tuple | None = None) -> tuple:
        return (image_shape[0], 2, image_shape[-1]) if output_shape is None else output_shape

    def build(self, image_shape: tuple) -> None:
        start = {"softmax": 1 / 0.07, "sigmoid": 10.0}[self.form]
        constant = keras.initializers.Constant
        self.log_scale = self.add_weight(shape=(), initializer=constant(math.log(start)), name="log_scale")
        if self.form == "sigmoid":
            self.bias = self.add_weight(shape=(), initializer=constant(-10.0), name="bias")

    def call(self, image: Any, text: Any, output: Any = None) -> Any:
        self.add_loss(self.weight * self.loss(ops.cast(image, "float32"), ops.cast(text, "float32")))
        return ops.stack([image, text], axis=1) if output is None else output

    def loss(self, image: Any, text: Any) -> Any:
        scale = ops.exp(ops.minimum(ops.cast(self.log_scale, "float32"), math.log(100.0)))
        logits = ops.matmul(image, ops.transpose(text)) * scale
        rows = ops.arange(ops.shape(logits)[0])
        pairs = ops.cast(rows[:, None] == rows[None, :], "float32")
        if self.form == "sigmoid":
            signs = 2 * pairs - 1
            logits = logits + ops.cast(self.bias, "float32")
            return -ops.mean(ops.sum(ops.log_sigmoid(signs * logits), axis=1))
        return -0.5 * sum(ops.mean(ops.sum(pairs * ops.log_softmax(logits, axis=axis), axis=axis)) for axis in (0, 1))

    def get_config(self) -> dict:
        return {**super().get_config(), "form": self.form, "weight": self.weight}


@register
class WordLoss(keras.losses.SparseCategoricalCrossentropy):
    """Cross-entropy per word; padding (label 0) does not count, neither above nor below the line."""

    def __init__(self, name: str = "word_loss"):
        super().__init__(from_logits=True, ignore_class=PAD, reduction="mean_with_sample_weight", name=name)

    def get_config(self) -> dict:
        return {"name": self.name}


@register
class WordAccuracy(keras.metrics.SparseCategoricalAccuracy):
    """Share of words right, padding left out."""

    def __init__(self, name: str = "accuracy", **kwargs: Any):
        super().__init__(name=name, **kwargs)

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        words = ops.cast(ops.not_equal(y_true, PAD), "float32")
        weight = words if sample_weight is None else words * ops.cast(sample_weight, "float32")
        return super().update_state(y_true, y_pred, weight)


@register
class Perplexity(keras.metrics.Mean):
    """exp of the mean cross-entropy per word, by the words' weights; padding (label 0) does not count.

    `model.compile(..., weighted_metrics=[metrics.Perplexity()])`. It takes logits (rows, words, vocabulary).

    >>> metric = Perplexity()
    >>> metric.update_state(np.array([[5, 0]]), np.zeros((1, 2, 8), "float32"))
    >>> round(float(metric.result()), 3)
    8.0
    """

    def __init__(self, name: str = "perplexity", **kwargs: Any):
        super().__init__(name=name, **kwargs)
        set_direction(self, "down")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        y_true, y_pred = ops.cast(y_true, "int32"), ops.cast(y_pred, "float32")
        words = ops.cast(ops.not_equal(y_true, PAD), "float32")
        if sample_weight is not None:
            weight = ops.cast(sample_weight, "float32")
            words = words * (weight[:, None] if len(weight.shape) < len(words.shape) else weight)
        losses = ops.sparse_categorical_crossentropy(y_true, y_pred, from_logits=True)
        # A word without weight may have any logits, infinite ones too.
        super().update_state(ops.where(words > 0, losses, 0.0), words)

    def result(self) -> Any:
        return ops.exp(super().result())


@register
class SSIM(keras.metrics.Mean):
    """Mean structural similarity of pictures 0-255 (batch, h, w, channels), both sides at least 11 px.

    >>> metric = SSIM()
    >>> metric.update_state(np.ones((1, 16, 16, 3)), np.ones((1, 16, 16, 3)))
    >>> float(metric.result())
    1.0
    """

    def __init__(self, name: str = "ssim", **kwargs: Any):
        super().__init__(name=name, **kwargs)
        set_direction(self, "up")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        super().update_state(ssim(y_true, y_pred), sample_weight)


def ssim(first: Any, second: Any, top: float = 255.0) -> Any:
    """Structural similarity per pair of pictures (batch, h, w, channels) with values from 0 to `top`; 1 is the same.

    Gaussian window of 11 px (sigma 1.5), k1 0.01, k2 0.03, whole windows only, mean over channels.

    >>> float(ssim(np.zeros((1, 16, 16, 1)), np.full((1, 16, 16, 1), 255.0))[0]) < 0.001
    True
    """
    first, second = ops.cast(first, "float32") / top, ops.cast(second, "float32") / top
    height, width = first.shape[1:3]
    if len(first.shape) != 4 or min(height or WINDOW, width or WINDOW) < WINDOW:
        raise ValueError(f"pictures {tuple(first.shape)}: expected (batch, h, w, channels) of at least {WINDOW} px")
    bell = np.exp(-((np.arange(WINDOW) - WINDOW // 2) ** 2) / (2 * SIGMA**2))
    kernel = ops.convert_to_tensor((np.outer(bell, bell) / bell.sum() ** 2)[:, :, None, None], "float32")

    def blurred(x: Any) -> Any:  # each channel alone, as a batch of grey pictures
        parts = [ops.conv(x[..., c : c + 1], kernel, padding="valid") for c in range(x.shape[-1])]
        return ops.concatenate(parts, axis=-1)

    a, b = blurred(first), blurred(second)
    light = (2 * a * b + 0.01**2) / (a * a + b * b + 0.01**2)
    spread = blurred(first * first + second * second) - (a * a + b * b)
    shared = 2 * (blurred(first * second) - a * b)
    return ops.mean(light * (shared + 0.03**2) / (spread + 0.03**2), axis=(1, 2, 3))


def pace(model: VisionText, part: str = "image", *, rate: float = 0.1, decay: float = 1.0) -> None:
    """The last layer of the "image" or "text" encoder learns at `rate` times the optimizer's rate, the others slower.

    Each layer learns at `decay` times the rate of the next. `Adam` and `PacedAdamW` of this room heed it, Keras' own do
    not; a loaded model is told anew.

    >>> from vtx_keras import zoo
    >>> model = zoo.build("gated_vqa", weights=None, dim=32, image_shape=(32, 32, 3))
    >>> pace(model, "image", rate=0.1)
    >>> {variable.pace for variable in model.get_layer("image_encoder").trainable_variables}
    {0.1}
    """
    if not model.has_layer(f"{part}_encoder"):
        raise ValueError(f"pace(model, {part!r}): this model has no such encoder")
    if not 0 <= rate <= 1 or not 0 < decay <= 1:
        raise ValueError(f"rate={rate}, decay={decay}: expected shares, 0 to 1")
    layers = [layer for layer in leaves(model.get_layer(f"{part}_encoder")) if layer.weights]
    for steps, layer in enumerate(reversed(layers)):
        for variable in layer.weights:
            variable.pace = rate * decay**steps


def clipping(variables: Sequence[Any], norm: float) -> dict[str, float]:
    """How an optimizer limits gradients: all together, or one by one where their types differ and cannot be summed.

    >>> clipping(keras.layers.Dense(1).trainable_variables, 1.0)
    {'global_clipnorm': 1.0}
    """
    return {"clipnorm" if len({variable.dtype for variable in variables}) > 1 else "global_clipnorm": norm}


@registered_as("Adam")
class PacedAdam(FusedUpdate):
    """Adam that heeds `pace`; on TensorFlow one kernel per variable, so that `fit` begins sooner (docs/speed.md)."""


Adam = PacedAdam  # the name it had


@register
class PacedAdamW(PacedAdam, keras.optimizers.AdamW):
    """AdamW that heeds `pace`. Its weight decay is not slowed."""
