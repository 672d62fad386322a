"""Tiny language models that transformers made (language_oracle.py), as text sides of captioners."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np

from vtx_keras import zoo
from vtx_keras.checkpoints.published import _causal
from vtx_keras.models import language
from vtx_keras.models._base import leaves

FOLDER = Path(__file__).parents[1] / "fixtures" / "language"
KINDS = sorted(path.name for path in FOLDER.iterdir())
FUSIONS = ("concat_mlp", "cross_attn", "gated", "merged_attn")
IMAGES = np.random.default_rng(0).uniform(0, 255, (3, 32, 32, 3)).astype("float32")


def captioner(kind: str, fusion: str = "cross_attn", **options: Any) -> Any:
    """A captioner of 32 px images with a tiny language model; what stands between is new."""
    keras.utils.set_random_seed(1)
    pixels = keras.Input((32, 32, 3))
    encoder = keras.Model(pixels, keras.layers.Conv2D(8, 8, 8, activation="relu")(pixels))
    words = {"image_words": 4} if fusion == "merged_attn" else {}
    options = {
        "image_shape": (32, 32, 3),
        "image_encoder": encoder,
        "dropout": 0.0,
        "max_length": 24,
        **words,
    } | options
    options = {"text_decoder": str(FOLDER / kind), **options}
    return zoo.build(f"{fusion}_captioner", weights="encoders", **options)


def opened(model: Any, value: float = 0.7) -> Any:
    """The model with open gates, so that words depend on the image."""
    for leaf in leaves(model):
        if isinstance(leaf, language.Opening):
            leaf.opening.assign(value)
    return model


class Oracle:
    """What transformers computed, in our ids."""

    def __init__(self, kind: str):
        self.order = _causal.opened(str(FOLDER / kind)).order.ids
        self.expected = dict(np.load(FOLDER / kind / "expected.npz"))
        self.place = np.zeros(max(self.order) + 1, "int32")
        for here, there in enumerate(self.order):
            if there >= 0:
                self.place[there] = here  # of a token with two rows the later, END

    def ours(self, name: str) -> np.ndarray:
        ids = self.expected[name]
        return np.where(ids < 0, 0, self.place[ids]).astype("int32")

    def theirs(self, logits: np.ndarray) -> np.ndarray:
        """Logits in the checkpoint's order of ids."""
        return logits[..., self.place]
