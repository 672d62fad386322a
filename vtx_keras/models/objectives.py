"""Losses, metrics and optimizers of models; Adam with its own learning rate for each layer.

tuning.pace(model, "image", rate=0.1, decay=0.9)
model.compile(tuning.PacedAdamW(3e-4), loss=model.loss, weighted_metrics=...)
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from vtx_keras._compat import FusedUpdate, set_direction
from vtx_keras.inputs.text import PAD
from vtx_keras.models._base import VisionText, leaves
from vtx_keras.models.language import Opening
from vtx_keras.models.layers import register, registered_as

__all__ = [
    "SSIM", "Adam", "Contrastive", "PacedAdam", "PacedAdamW", "Perplexity", "WordAccuracy", "WordLoss", "clipping",
    "pace", "parts", "ssim",
]  # fmt: skip
WINDOW, SIGMA = 11, 1.5  # of SSIM, as published (Wang et al., 2004)


@register
class Contrastive(keras.layers.Layer):
    """Adds a contrastive loss that pulls the embeddings of a pair together and those of other pairs in the batch apart.

    `form` is "softmax" (CLIP: each row's partner against the batch, both ways) or "sigmoid" (SigLIP: every pair by
    itself). The layer calls `add_loss` and returns one row per example: `output` if given, else both unit vectors as
    (batch, 2, dim).
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
        log_scale = ops.cast(self.log_scale, "float32")
        # CLIP limits its scale to 100; with the sigmoid form it may grow on, as in SigLIP.
        scale = ops.exp(ops.minimum(log_scale, math.log(100.0)) if self.form == "softmax" else log_scale)
        logits = ops.matmul(image, ops.transpose(text)) * scale  # (batch of images, batch of texts)
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
    """Mean cross-entropy per word; padding (label 0) counts in neither the sum nor the number of words."""

    def __init__(self, name: str = "word_loss"):
        super().__init__(from_logits=True, ignore_class=PAD, reduction="mean_with_sample_weight", name=name)

    def get_config(self) -> dict:
        return {"name": self.name}


@register
class WordAccuracy(keras.metrics.SparseCategoricalAccuracy):
    """Share of words predicted correctly, without padding."""

    def __init__(self, name: str = "accuracy", **kwargs: Any):
        super().__init__(name=name, **kwargs)

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        words = ops.cast(ops.not_equal(y_true, PAD), "float32")  # (batch, words)
        weight = words if sample_weight is None else words * ops.cast(sample_weight, "float32")
        return super().update_state(y_true, y_pred, weight)


@register
class Perplexity(keras.metrics.Mean):
    """Perplexity: exp of the weighted mean cross-entropy per word; padding (label 0) does not count.

    `model.compile(..., weighted_metrics=[metrics.Perplexity()])`. Predictions are logits (batch, words, vocabulary).

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
        # Logits of words without weight may be anything, even infinite.
        super().update_state(ops.where(words > 0, losses, 0.0), words)

    def result(self) -> Any:
        return ops.exp(super().result())


@register
class SSIM(keras.metrics.Mean):
    """Mean structural similarity of images 0-255 (batch, h, w, channels), both sides at least 11 px.

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
    """Return the structural similarity of each pair of images (batch, h, w, channels), values 0 to `top`; 1 is equal.

    Gaussian window of 11 px (sigma 1.5), k1 0.01, k2 0.03, only windows inside the image, mean over channels.

    >>> float(ssim(np.zeros((1, 16, 16, 1)), np.full((1, 16, 16, 1), 255.0))[0]) < 0.001
    True
    """
    first, second = ops.cast(first, "float32") / top, ops.cast(second, "float32") / top
    if len(first.shape) != 4 or min(side or WINDOW for side in first.shape[1:3]) < WINDOW:
        raise ValueError(f"pictures {tuple(first.shape)}: expected (batch, h, w, channels) of at least {WINDOW} px")
    bell = np.exp(-((np.arange(WINDOW) - WINDOW // 2) ** 2) / (2 * SIGMA**2))
    kernel = ops.convert_to_tensor((np.outer(bell, bell) / bell.sum() ** 2)[:, :, None, None], "float32")

    def blurred(x: Any) -> Any:  # channel by channel, each as a batch of grey images
        parts = [ops.conv(x[..., c : c + 1], kernel, padding="valid") for c in range(x.shape[-1])]
        return ops.concatenate(parts, axis=-1)

    a, b = blurred(first), blurred(second)
    luminance = (2 * a * b + 0.01**2) / (a * a + b * b + 0.01**2)
    variances = blurred(first * first + second * second) - (a * a + b * b)
    covariance = 2 * (blurred(first * second) - a * b)
    return ops.mean(luminance * (covariance + 0.03**2) / (variances + 0.03**2), axis=(1, 2, 3))  # (batch,)


def pace(model: VisionText, part: str = "image", *, rate: float = 0.1, decay: float = 1.0) -> None:
    """Train a part of a model at `rate` times the learning rate; in an encoder, earlier layers slower.

    Parts are those of `parts`. Each layer trains at `decay` times the rate of the next. Only `PacedAdam` and
    `PacedAdamW` apply it, and it is not saved: call it again on a loaded model.

    >>> from vtx_keras import zoo
    >>> model = zoo.build("gated_vqa", weights=None, dim=32, image_shape=(32, 32, 3))
    >>> pace(model, "image", rate=0.1)
    >>> {variable.pace for variable in model.get_layer("image_encoder").trainable_variables}
    {0.1}
    """
    if not (rate >= 0 and math.isfinite(rate)) or not 0 < decay <= 1:
        raise ValueError(f"rate={rate}, decay={decay}: expected a number of at least 0, and a share up to 1")
    found = parts(model)
    if part not in found:
        raise ValueError(f"pace(model, {part!r}): this model's parts are {', '.join(map(repr, found))}")
    if part in ("image", "text"):
        layers = [layer for layer in leaves(model.get_layer(f"{part}_encoder")) if layer.weights]
        for steps, layer in enumerate(reversed(layers)):
            for variable in layer.weights:
                variable.pace = rate * decay**steps
    for variable in found[part] if part not in ("image", "text") else ():
        variable.pace = rate


def parts(model: VisionText) -> dict[str, list[Any]]:
    """Return the variables of a model by part, each in one: the encoders, "words", "discriminator" …, "fusion".

    "words" are the language model that writes, "lora" low-rank additions to any matrix, "gates" what opens a fusion
    with a language model, and "fusion" all else.

    >>> from vtx_keras import zoo
    >>> found = parts(zoo.build("gated_captioner", weights=None, dim=32, image_shape=(32, 32, 3)))
    >>> {name: len(variables) > 0 for name, variables in found.items()}
    {'image': True, 'fusion': True}
    """
    found: dict[str, list[Any]] = {}
    for name in ("image", "text", "words", "discriminator", "fusion"):
        try:
            layers = model.layers_of(name)
        except ValueError:  # it has none
            continue
        for leaf in (leaf for layer in layers for leaf in leaves(layer)):
            for variable in leaf.weights:
                of = "gates" if isinstance(leaf, Opening) else "lora" if "lora_" in variable.path else name
                found.setdefault(of, []).append(variable)
    counts = Counter(id(variable) for variables in found.values() for variable in variables)
    left = [one.path for one in model.weights if counts[id(one)] != 1 and "seed_generator" not in one.path]
    if left:
        raise ValueError(f"{left[0]} and {len(left) - 1} others belong to no part of the model, or to several")
    return found


def clipping(variables: Sequence[Any], norm: float) -> dict[str, float]:
    """Return how an optimizer clips gradients: by their global norm, or one by one where dtypes differ.

    >>> clipping(keras.layers.Dense(1).trainable_variables, 1.0)
    {'global_clipnorm': 1.0}
    """
    return {"clipnorm" if len({variable.dtype for variable in variables}) > 1 else "global_clipnorm": norm}


@registered_as("Adam")
class PacedAdam(FusedUpdate):
    """Adam that applies `pace`; on TensorFlow one kernel per variable, so that `fit` begins sooner (docs/speed.md)."""


Adam = PacedAdam  # its former name


@register
class PacedAdamW(PacedAdam, keras.optimizers.AdamW):
    """AdamW that applies `pace` to the step, not to the weight decay."""
