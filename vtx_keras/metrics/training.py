"""Metrics for `compile`: perplexity of words, and SSIM of pictures. They are saved with the model."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from vtx_keras.layers import register
from vtx_keras.text import PAD

WINDOW, SIGMA = 11, 1.5  # of SSIM, as published (Wang and others, 2004)


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
        self._direction = "down"

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
        self._direction = "up"

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
