"""What a generator and its discriminator learn from: the loss of both halves, their metrics, DiffAugment.

A row of the model's output has the numbers named in COLUMNS. Of the real picture: the discriminator's logits with its
own text and with another's, the log probability of its own text among those of the batch, and how steeply the logit
changes. Of the drawn one: the logit, then logit and log probability as the generator learns from them. Last, how far
the drawn and the real picture are from those of the row before.
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
    "COLUMNS", "Changes", "HingeLoss", "Readable", "Rivals", "Share", "Spread", "columns", "concerns", "difference",
    "halves", "shares",
]  # fmt: skip
ALIKE, CERTAIN = 0.1, 0.99  # spread below which, and shares above which, training has gone wrong
COLUMNS = (
    "real", "other_text", "real_found", "steepness", "drawn", "generator", "drawn_found", "drawn_spread", "real_spread",
)  # fmt: skip


def columns(rows: Any) -> dict[str, Any]:
    """Return the columns (batch,) of the model's output by name."""
    return {name: rows[:, place] for place, name in enumerate(COLUMNS)}


@register
class HingeLoss(keras.losses.Loss):
    """The hinge loss of the discriminator plus that of the generator; their gradients do not mix.

    D: max(0, 1 - real) + (max(0, 1 + other text) + max(0, 1 + drawn)) / 2. G: - drawn. With `contrast`, either also
    loses so much of the log probability that is missing: of the text of real pictures, and of drawn ones. `penalty`
    weighs the steepness.

    >>> float(HingeLoss(0.0)(ops.ones((1, 1)), ops.array([[2.0, -2.0, 0.0, 0.0, -0.5, -0.5, 0.0, 1.0, 1.0]])))
    0.75
    """

    def __init__(
        self,
        contrast: float = 1.0,
        penalty: float = 2.0,
        name: str = "hinge_loss",
        reduction: str = "mean_with_sample_weight",
    ):
        super().__init__(name=name, reduction=reduction)
        self.contrast, self.penalty = contrast, penalty

    def call(self, y_true: Any, y_pred: Any) -> Any:
        del y_true
        of = columns(y_pred)
        discriminator = ops.relu(1 - of["real"]) + (ops.relu(1 + of["other_text"]) + ops.relu(1 + of["drawn"])) / 2
        found = self.contrast * (of["real_found"] + of["drawn_found"])
        return discriminator - of["generator"] - found + self.penalty * of["steepness"]

    def get_config(self) -> dict:
        return {**super().get_config(), "contrast": self.contrast, "penalty": self.penalty}


@register
class Share(keras.metrics.Mean):
    """The mean of a column, or the share of rows that are above 0 ("above"), below 0 ("below"), or its exp ("exp")."""

    def __init__(self, column: str, how: str, name: str | None = None, **kwargs: Any):
        super().__init__(name=name or column, **kwargs)
        self.column, self.how = column, how
        set_direction(self, "up")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        del y_true
        values = columns(ops.cast(y_pred, "float32"))[self.column]
        weight = ops.cast(values > NEVER / 2, "float32")  # not of pairs whose texts are the same
        weight = weight if sample_weight is None else weight * ops.reshape(ops.cast(sample_weight, "float32"), (-1,))
        values = ops.exp(values) if self.how == "exp" else ops.cast((values > 0) == (self.how == "above"), "float32")
        return super().update_state(values, weight)

    def get_config(self) -> dict:
        return {**super().get_config(), "column": self.column, "how": self.how}


def shares() -> list[Share]:
    """Return the metrics of the discriminator: what it sees in pairs, and how likely it finds the own text.

    >>> [one.name for one in shares()]
    ['real_seen', 'other_text_seen', 'drawn_seen', 'real_found', 'drawn_found']
    """
    sides = {"real": "above", "other_text": "below", "drawn": "below"}
    found = [Share(f"{kind}_found", "exp") for kind in ("real", "drawn")]
    return [*(Share(column, how, f"{column}_seen") for column, how in sides.items()), *found]


@register
class Spread(keras.metrics.Mean):
    """How far drawn pictures are from each other, over how far real ones are: near 0 where all look alike."""

    def __init__(self, name: str = "spread", **kwargs: Any):
        super().__init__(name=name, **kwargs)
        set_direction(self, "up")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        del y_true
        of = columns(ops.cast(y_pred, "float32"))
        return super().update_state(of["drawn_spread"] / ops.maximum(ops.mean(of["real_spread"]), 1e-3), sample_weight)


def concerns(logs: Mapping[str, float]) -> list[str]:
    """Say in words what is wrong with an epoch of training, by its metrics.

    >>> concerns({"spread": 0.05, "drawn_seen": 0.8, "real_seen": 0.8, "other_text_seen": 0.5})
    ['drawings look alike: they differ 0.05 times as much as real pictures. If this lasts, the generator has collapsed']
    """
    found, spread = [], logs.get("spread", 1.0)
    if spread < ALIKE:
        found.append(
            f"drawings look alike: they differ {spread:.2f} times as much as real pictures. If this lasts, the "
            "generator has collapsed"
        )
    if min(logs.get("drawn_seen", 0), logs.get("real_seen", 0)) > CERTAIN:
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
class Rivals(keras.layers.Layer):
    """Returns which texts (batch, batch) compete for a picture: its own, and those that are not equal to it."""

    def compute_output_spec(self, tokens: Any) -> Any:
        return keras.KerasTensor((tokens.shape[0], None), dtype="bool")

    def call(self, tokens: Any) -> Any:  # (batch, words)
        same = ops.all(ops.equal(tokens[:, None], tokens[None]), axis=-1)
        rows = ops.arange(ops.shape(tokens)[0])
        return ops.logical_or(ops.logical_not(same), rows[:, None] == rows[None, :])


@register
class Readable(keras.layers.Layer):
    """Sets the logit of a picture with another's text to where it costs nothing if both texts are the same."""

    def compute_output_shape(self, logits_shape: tuple, rivals_shape: tuple) -> tuple:
        del rivals_shape
        return logits_shape

    def call(self, logits: Any, rivals: Any) -> Any:  # (batch, 4), (batch, batch)
        rows = ops.arange(ops.shape(logits)[0])
        before = ops.roll(ops.cast(rows[:, None] == rows[None, :], "float32"), 1, axis=0)  # row i has the text of i - 1
        differs = ops.sum(before * ops.cast(rivals, "float32"), axis=1, keepdims=True) > 0
        differs = ops.logical_and(differs, ops.shape(logits)[0] > 1)
        other = ops.where(differs, logits[:, 1:2], ops.cast(NEVER, logits.dtype))
        return ops.concatenate([logits[:, :1], other, logits[:, 2:]], axis=-1)


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
