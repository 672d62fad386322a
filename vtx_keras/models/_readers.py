"""Models that take an image and a text: answers and labels, matches, similarities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from vtx_keras.inputs import media
from vtx_keras.models._base import VisionText
from vtx_keras.models.layers import graph, register


class PairModel(VisionText):
    """A model from pairs of image and text to logits."""

    def logits(
        self, images: Any, texts: Any, batch_size: int, *, allow_empty: bool = False
    ) -> tuple[np.ndarray, list[int], dict[int, str], int]:
        """Return logits of the pairs with a valid image, their indices, errors by index, and the number of pairs.

        One image may be paired with many texts, and one text with many images.
        """
        pixels, good, errors = self.prepare(images)
        tokens = self.tokens_of(texts, allow_empty=allow_empty)
        pictures = len(good) + len(errors)
        total = max(pictures, len(tokens))
        if pictures not in (1, total) or len(tokens) not in (1, total):
            raise ValueError(f"{pictures} pictures and {len(tokens)} texts: expected equally many, or one of either")
        if pictures == 1 and total > 1:
            good, errors = (list(range(total)), {}) if good else ([], dict.fromkeys(range(total), errors[0]))
            pixels = np.broadcast_to(pixels, (len(good), *pixels.shape[1:]))
        tokens = np.broadcast_to(tokens, (total, tokens.shape[1]))[good]
        if not good:
            return np.zeros((0, 1), "float32"), good, errors, total
        outputs = self.in_batches(self, {"image": pixels, "tokens": tokens}, batch_size)
        return (outputs["logits"] if isinstance(outputs, dict) else outputs), good, errors, total


@register
class Answerer(PairModel):
    """Classifies an image and a text together: answers to questions, or labels."""

    @property
    def class_names(self) -> list[str]:
        classes = self.options["classes"]
        return [str(i) for i in range(classes)] if isinstance(classes, int) else list(classes)

    def answer(
        self, images: Any, questions: str | Sequence[str], *, batch_size: int = 32, on_error: str = "raise"
    ) -> list[str] | list[list[str]]:
        """Return the name of the likeliest class per image and question; a list of names if the model is multi-label.

        >>> from vtx_keras import zoo
        >>> model = zoo.build("gated_vqa", weights=None, dim=32, image_shape=(32, 32, 3), classes=["no", "yes"])
        >>> model.answer(np.zeros((1, 32, 32, 3)), ["is it a cat?"])[0] in ("no", "yes")
        True
        """
        media.check_on_error(on_error)
        logits, good, errors, total = self.logits(
            images, questions, batch_size, allow_empty=self.options["allow_empty"]
        )
        names = self.class_names
        if self.options["multi_label"]:
            results = [[names[i] for i in np.flatnonzero(row > 0)] for row in logits]
        else:
            results = [names[i] for i in logits.argmax(axis=-1)]
        return media.settle(results, good, errors, total, on_error)


@register
class Matcher(PairModel):
    """Predicts whether a text fits an image."""

    def match(
        self, images: Any, texts: str | Sequence[str], *, batch_size: int = 32, on_error: str = "raise"
    ) -> list[float]:
        """Return, per pair, the probability that the text fits the image.

        >>> from vtx_keras import zoo
        >>> model = zoo.build("co_attn_matcher", weights=None, dim=32, image_shape=(32, 32, 3))
        >>> 0 <= model.match(np.zeros((1, 32, 32, 3)), ["a cat"])[0] <= 1
        True
        """
        media.check_on_error(on_error)
        logits, good, errors, total = self.logits(images, texts, batch_size)
        probabilities = 1 / (1 + np.exp(-logits[:, 0].astype("float64")))
        return media.settle([float(p) for p in probabilities], good, errors, total, on_error)


@register
class Retriever(VisionText):
    """Two towers that embed images and texts, so that matching pairs lie close."""

    def similarity(
        self, images: Any, texts: str | Sequence[str], *, batch_size: int = 32, on_error: str = "raise"
    ) -> np.ndarray:
        """Return cosine similarities (images, texts). With `on_error="none"` the row of an unreadable image is NaN.

        >>> from vtx_keras import zoo
        >>> model = zoo.build("retriever", weights=None, dim=32, image_shape=(32, 32, 3))
        >>> model.similarity(np.zeros((2, 32, 32, 3)), ["a", "b", "c"]).shape
        (2, 3)
        """
        media.check_on_error(on_error)
        pixels, good, errors = self.prepare(images)
        tokens = self.tokens_of(texts)
        columns = self.in_batches(self.tower("text"), {"tokens": tokens}, batch_size)
        matrix = np.full((len(good) + len(errors), len(tokens)), np.nan, "float32")
        if good:
            matrix[good] = self.in_batches(self.tower("image"), {"image": pixels}, batch_size) @ columns.T
        media.settle(list(matrix[good]), good, errors, len(matrix), on_error)
        return matrix

    def tower(self, modality: str) -> keras.Model:
        """Return the "image" or "text" half as a model, with unit-length embeddings (batch, dim)."""
        name = {"image": "image", "text": "tokens"}[modality]

        def make() -> keras.Model:
            output = self.get_layer(f"{modality}_embedding").output
            tower = graph({name: self.input[name]}, output, modality)
            tower.run_eagerly = self.run_eagerly
            return tower

        return self.cached((modality, self.run_eagerly), make)
