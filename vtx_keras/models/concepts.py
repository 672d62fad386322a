"""Concept words: what the encoder's ImageNet head recognizes in an image, given to the text beside the image tokens.

An encoder that was trained to name a thousand kinds of things knows a cat, a bus and broccoli, though no captioned
picture showed them. `Concepts` reads the likeliest words off the features; `WithConcepts` embeds them as tokens. Text
alone can teach what to write about them: sentences are read with "no picture" and the words that they mention.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from vtx_keras.inputs import concepts
from vtx_keras.models.layers import layer_norm, register

__all__ = ["LEAST", "Concepts", "WithConcepts", "told"]
LEAST = 0.03  # a concept less likely than this is left out


@register
class Concepts(keras.layers.Layer):
    """Reads features (batch, rows, columns, width), returns what is seen (batch, 1 + count, 2): pairs (word, chance).

    The words are numbers in `inputs.concepts.names()`, the likeliest first; an unlikely one has chance 0. The first
    pair is (0, 1): there is a picture. The head is the published one, and is not trained.
    """

    def __init__(self, count: int, **kwargs: Any):
        super().__init__(**{**kwargs, "trainable": False, "dtype": "float32"})
        self.count = count

    def compute_output_shape(self, shape: tuple) -> tuple:
        return (shape[0], 1 + self.count, 2)

    def build(self, shape: tuple) -> None:
        self.kernel = self.add_weight(shape=(shape[-1], 1000), name="kernel")
        self.bias = self.add_weight(shape=(1000,), initializer="zeros", name="bias")

    def call(self, features: Any) -> Any:
        pooled = ops.mean(
            ops.cast(features, "float32"), axis=tuple(range(1, len(features.shape) - 1))
        )  # (batch, width)
        labels = ops.softmax(ops.matmul(pooled, self.kernel) + self.bias)  # (batch, 1000)
        chances, words = ops.top_k(ops.matmul(labels, concepts.matrix()), self.count)  # (batch, count)
        chances = ops.where(chances < LEAST, 0.0, ops.minimum(chances, 1.0))
        pairs = ops.stack([ops.cast(words, "float32"), chances], axis=-1)  # (batch, count, 2)
        picture = ops.stack([ops.zeros_like(pairs[:, :1, 0]), ops.ones_like(pairs[:, :1, 1])], axis=-1)  # (batch, 1, 2)
        return ops.concatenate([picture, pairs], axis=1)

    def get_config(self) -> dict:
        config = {name: value for name, value in super().get_config().items() if name not in ("trainable", "dtype")}
        return {**config, "count": self.count}


@register
class WithConcepts(keras.layers.Layer):
    """Adds a token for each concept to the image tokens (batch, tokens, dim): (batch, tokens + count, dim).

    A word that is not likely is the learned token "nothing". Where there is no picture, a learned vector takes the
    place of all its tokens. With `summed`, for fusions that pool the image, the concepts are added to every token.
    In training some concepts are hidden, so that the text does not depend on them alone.
    """

    def __init__(self, dim: int, summed: bool = False, hidden: float = 0.1, **kwargs: Any):
        super().__init__(**kwargs)
        self.dim, self.summed, self.hidden = dim, summed, hidden
        self.norm = layer_norm("norm", dtype=self.dtype_policy)
        self.draws = keras.random.SeedGenerator()

    def compute_output_shape(self, vision_shape: tuple, seen_shape: tuple) -> tuple:
        tokens = 0 if self.summed else seen_shape[1] - 1
        return (vision_shape[0], vision_shape[1] + tokens, self.dim)

    def build(self, vision_shape: tuple, seen_shape: tuple) -> None:
        small = keras.initializers.RandomNormal(stddev=0.02)
        count = len(concepts.names())
        self.table = self.add_weight(
            shape=(count, self.dim), initializer=keras.initializers.RandomNormal(), name="words"
        )
        self.kind = self.add_weight(shape=(self.dim,), initializer=small, name="kind")
        self.slope = self.add_weight(shape=(self.dim,), initializer=small, name="slope")
        self.nothing = self.add_weight(shape=(self.dim,), initializer=small, name="nothing")
        self.no_picture = self.add_weight(shape=(self.dim,), initializer=small, name="no_picture")
        self.norm.build((None, None, self.dim))

    def call(self, vision: Any, seen: Any, training: bool | None = None) -> Any:
        picture, chances = seen[:, :1, 1:] > 0, seen[:, 1:, 1:]  # (batch, 1, 1), (batch, count, 1)
        vision = ops.where(picture, vision, ops.cast(self.no_picture, vision.dtype))  # (batch, tokens, dim)
        if training and self.hidden:
            shape = ops.shape(chances)
            draws = keras.random.uniform(shape, seed=self.draws)  # a word is hidden alone
            row = keras.random.uniform((shape[0], 1, 1), seed=self.draws)  # or all of them, with a picture
            shown = ops.logical_and(draws >= self.hidden, ops.logical_or(row >= self.hidden, ~picture))
            chances = ops.where(shown, chances, 0.0)
        words = ops.take(self.table, ops.cast(seen[:, 1:, 0], "int32"), axis=0)  # (batch, count, dim)
        words = words + self.kind + self.slope * ops.log(ops.maximum(chances, LEAST))
        words = ops.where(chances > 0, ops.cast(self.norm(words), "float32"), ops.cast(self.nothing, "float32"))
        words = ops.cast(words, vision.dtype)
        if self.summed:
            return vision + ops.sum(words, axis=1, keepdims=True)
        return ops.concatenate([vision, words], axis=1)

    def get_config(self) -> dict:
        return {**super().get_config(), "dim": self.dim, "summed": self.summed, "hidden": self.hidden}


def told(words: Any, chances: Any) -> Any:
    """Return what `Concepts` would, but for words that are told without a picture: (texts, 1 + count, 2).

    >>> told([[3, 7]], [[0.9, 0.0]]).tolist()
    [[[0.0, 0.0], [3.0, 0.8999999761581421], [7.0, 0.0]]]
    """
    pairs = np.stack([np.asarray(words, "float32"), np.asarray(chances, "float32")], axis=-1)
    return np.concatenate([np.zeros_like(pairs[:, :1]), pairs], axis=1)
