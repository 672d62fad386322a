"""What a generator and its discriminator learn from: the hinge loss of both halves, their metrics, DiffAugment.

A row of the model's output has six numbers: the discriminator's logits of the real pair, of the real picture with
another's text, and of the drawn picture; the last again, as the generator learns from it; and how far the drawn and
the real picture are from those of the next row.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
from keras import ops

from vtx_keras._compat import set_direction
from vtx_keras.models.layers import NEVER, register
from vtx_keras.models.objectives import PacedAdam

__all__ = [
    "COLUMNS", "Changes", "DrawnShare", "HingeLoss", "OtherShare", "Readable", "RealShare", "Spread", "concerns",
    "difference", "halves",
]  # fmt: skip
ALIKE, CERTAIN = 0.1, 0.99  # spread below which, and shares above which, training has gone wrong
COLUMNS = ("real", "other_text", "drawn", "generator", "drawn_spread", "real_spread")


@register
class HingeLoss(keras.losses.Loss):
    """The hinge loss of the discriminator plus that of the generator; their gradients do not mix.

    D: max(0, 1 - real) + (max(0, 1 + other text) + max(0, 1 + drawn)) / 2. G: - drawn.

    >>> float(HingeLoss()(ops.ones((1, 1)), ops.array([[2.0, -2.0, -0.5, -0.5, 1.0, 1.0]])))
    0.75
    """

    def __init__(self, name: str = "hinge_loss", reduction: str = "mean_with_sample_weight"):
        super().__init__(name=name, reduction=reduction)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        del y_true
        real, other, drawn, held = (y_pred[:, place] for place in range(4))
        discriminator = ops.relu(1 - real) + (ops.relu(1 + other) + ops.relu(1 + drawn)) / 2
        return discriminator - held


class Share(keras.metrics.Mean):
    """The mean over rows of what a subclass computes from the six numbers of each."""

    def __init__(self, name: str, **kwargs: Any):
        super().__init__(name=name, **kwargs)
        set_direction(self, "up")

    def share_of(self, rows: Any) -> Any:
        """Return a number for each row."""
        raise NotImplementedError(f"{type(self).__name__} of rows {rows.shape}")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        del y_true
        return super().update_state(self.share_of(ops.cast(y_pred, "float32")), sample_weight)


@register
class RealShare(Share):
    """Share of real pairs that the discriminator takes for real ones."""

    def __init__(self, name: str = "real_seen", **kwargs: Any):
        super().__init__(name, **kwargs)

    def share_of(self, rows: Any) -> Any:
        return ops.cast(rows[:, 0] > 0, "float32")


@register
class OtherShare(Share):
    """Share of real pictures with another's text that the discriminator refuses: whether it reads."""

    def __init__(self, name: str = "other_text_seen", **kwargs: Any):
        super().__init__(name, **kwargs)

    def share_of(self, rows: Any) -> Any:
        return ops.cast(rows[:, 1] < 0, "float32")


@register
class DrawnShare(Share):
    """Share of drawn pictures that the discriminator takes for drawn ones."""

    def __init__(self, name: str = "drawn_seen", **kwargs: Any):
        super().__init__(name, **kwargs)

    def share_of(self, rows: Any) -> Any:
        return ops.cast(rows[:, 2] < 0, "float32")


@register
class Spread(Share):
    """How far drawn pictures are from each other, over how far real ones are: near 0 where all look alike."""

    def __init__(self, name: str = "spread", **kwargs: Any):
        super().__init__(name, **kwargs)

    def share_of(self, rows: Any) -> Any:
        return rows[:, 4] / ops.maximum(ops.mean(rows[:, 5]), 1e-3)


def concerns(logs: Mapping[str, float]) -> list[str]:
    """Say in words what is wrong with an epoch of training, by its metrics.

    >>> concerns({"spread": 0.05, "drawn_seen": 0.8, "real_seen": 0.8, "other_text_seen": 0.5})
    ['drawings look alike: they differ 0.05 times as much as real pictures. If this lasts, the generator has collapsed']
    """
    found = []
    if logs["spread"] < ALIKE:
        found.append(
            f"drawings look alike: they differ {logs['spread']:.2f} times as much as real pictures. If this lasts, the "
            "generator has collapsed"
        )
    if min(logs["drawn_seen"], logs["real_seen"]) > CERTAIN:
        found.append(
            "the discriminator is never wrong, so the generator learns little from it: more pictures, "
            "changes='shift+cutout', or a slower discriminator (tuning.pace)"
        )
    return found


def halves(learning_rate: Any, **options: Any) -> PacedAdam:
    """Return the optimizer of generators: Adam without momentum; the discriminator's layers say their own pace.

    >>> halves(3e-4).beta_1
    0.0
    """
    return PacedAdam(learning_rate, beta_1=0.0, beta_2=0.9, **options)


def difference(images: Any) -> Any:
    """Return the mean difference (batch, 1) of each picture from the one of the row before.

    >>> difference(ops.reshape(ops.array([0.0, 1.0]), (2, 1, 1, 1))).shape[-1]
    1
    """
    other = ops.roll(images, 1, axis=0)
    return ops.mean(ops.abs(images - other), axis=tuple(range(1, len(images.shape))))[:, None]


@register
class Readable(keras.layers.Layer):
    """Sets the logit of a picture with another's text to where it costs nothing if both texts are the same."""

    def compute_output_shape(self, logits_shape: tuple, tokens_shape: tuple) -> tuple:
        del tokens_shape
        return logits_shape

    def call(self, logits: Any, tokens: Any) -> Any:  # (batch, 2), (batch, words)
        same = ops.all(ops.equal(tokens, ops.roll(tokens, 1, axis=0)), axis=1, keepdims=True)  # (batch, 1)
        other = ops.where(same, ops.cast(NEVER, logits.dtype), logits[:, 1:])
        return ops.concatenate([logits[:, :1], other], axis=-1)


@register
class Changes(keras.layers.Layer):
    """Changes pictures or clips at random in training, differentiably: DiffAugment, https://arxiv.org/abs/2006.10738.

    Applied to real and drawn pictures alike, it keeps a discriminator from learning few pictures by heart. `kinds` are
    "shift" (by up to an eighth), "cutout" (a square of half the side) and "colour" (brightness, saturation, contrast).
    """

    def __init__(self, kinds: str, **kwargs: Any):
        super().__init__(**kwargs)
        self.kinds = kinds
        self.seed_generator = keras.random.SeedGenerator()

    def compute_output_shape(self, shape: tuple) -> tuple:
        return shape

    def uniform(self, x: Any, least: float, most: float) -> Any:
        """Draw one number for each row of `x`, with as many axes as `x`."""
        rows = keras.random.uniform((ops.shape(x)[0],), least, most, seed=self.seed_generator)
        return ops.reshape(rows, (-1, *(1,) * (len(x.shape) - 1)))

    def call(self, x: Any, training: bool | None = None) -> Any:  # (batch, [frames,] h, w, 3), from -1 to 1
        if not training or self.kinds == "none":
            return x
        if "colour" in self.kinds:
            x = x + self.uniform(x, -0.5, 0.5)
            grey = ops.mean(x, axis=-1, keepdims=True)
            x = grey + (x - grey) * self.uniform(x, 0.0, 2.0)
            level = ops.mean(x, axis=tuple(range(1, len(x.shape))), keepdims=True)
            x = level + (x - level) * self.uniform(x, 0.5, 1.5)
        height, width = x.shape[-3:-1]
        if "shift" in self.kinds:
            down, across = self.shift(x, height), self.shift(x, width)  # (batch, …, side, side)
            x = ops.matmul(down, ops.reshape(x, (-1, *x.shape[1:-3], height, width * 3)))
            x = ops.swapaxes(ops.reshape(x, (-1, *x.shape[1:-2], height, width, 3)), -3, -2)
            x = ops.matmul(across, ops.reshape(x, (-1, *x.shape[1:-3], width, height * 3)))
            x = ops.swapaxes(ops.reshape(x, (-1, *x.shape[1:-2], width, height, 3)), -3, -2)
        if "cutout" in self.kinds:
            rows, columns = ops.arange(height), ops.arange(width)
            top, left = self.uniform(x, -height / 4, 3 * height / 4), self.uniform(x, -width / 4, 3 * width / 4)
            rows, columns = ops.cast(rows[:, None, None], "float32"), ops.cast(columns[None, :, None], "float32")
            inside = (rows >= top) & (rows < top + height / 2) & (columns >= left) & (columns < left + width / 2)
            x = ops.where(inside, ops.cast(0, x.dtype), x)
        return x

    def shift(self, x: Any, side: int) -> Any:
        """Draw matrices (batch, [1,] side, side) that move rows by up to an eighth; the outermost one is repeated."""
        moved = ops.round(self.uniform(x, -side / 8, side / 8))[..., 0]  # (batch, …, 1, 1)
        places = ops.cast(ops.arange(side), moved.dtype)
        return ops.cast(ops.clip(places[:, None] - moved, 0, side - 1) == places[None, :], x.dtype)

    def get_config(self) -> dict:
        return {**super().get_config(), "kinds": self.kinds}
