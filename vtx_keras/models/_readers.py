"""Models that read a text beside the picture: answers and labels, matches, similarities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from vtx_keras.inputs import media
from vtx_keras.models._base import VisionText
from vtx_keras.models.layers import graph, register


class PairModel(VisionText):
    """A model that reads a picture and a text together and gives logits for the pair."""

    def logits(
        self, images: Any, texts: Any, batch_size: int, *, allow_empty: bool = False
    ) -> tuple[np.ndarray, list[int], dict[int, str], int]:
        """Logits of each pair whose picture is good; one picture may meet many texts, and one text many pictures."""
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
    """Classes from a picture and a text: answers to questions, or labels."""

    @property
    def class_names(self) -> list[str]:
        classes = self.options["classes"]
        return [str(i) for i in range(classes)] if isinstance(classes, int) else list(classes)

    def answer(
        self, images: Any, questions: str | Sequence[str], *, batch_size: int = 32, on_error: str = "raise"
    ) -> list[str] | list[list[str]]:
        """The likeliest class per picture and question, by name; a list of names each where the model is multi-label.

        >>> from vtx_keras import zoo
        >>> model = zoo.build("gated_vqa", weights=None, dim=32, image_shape=(32, 32, 3), classes=["no", "yes"])
        >>> model.answer(np.zeros((1, 32, 32, 3)), ["is it a cat?"])[0] in ("no", "yes")
        True
        """
        multi = self.options["multi_label"]
        logits, good, errors, total = self.logits(
            images, questions, batch_size, allow_empty=self.options["allow_empty"]
        )
        names = self.class_names
        if multi:
            results = [[names[i] for i in np.flatnonzero(row > 0)] for row in logits]
        else:
            results = [names[i] for i in logits.argmax(axis=-1)]
        return media.settle(results, good, errors, total, on_error)


@register
class Matcher(PairModel):
    """Does this text fit this picture?"""

    def match(
        self, images: Any, texts: str | Sequence[str], *, batch_size: int = 32, on_error: str = "raise"
    ) -> list[float]:
        """The probability, per pair, that the text fits the picture.

        >>> from vtx_keras import zoo
        >>> model = zoo.build("co_attn_matcher", weights=None, dim=32, image_shape=(32, 32, 3))
        >>> 0 <= model.match(np.zeros((1, 32, 32, 3)), ["a cat"])[0] <= 1
        True
        """
        logits, good, errors, total = self.logits(images, texts, batch_size)
        probabilities = 1 / (1 + np.exp(-logits[:, 0].astype("float64")))
        return media.settle([float(p) for p in probabilities], good, errors, total, on_error)


@register
class Retriever(VisionText):
    """Two towers whose embeddings of matching pictures and texts lie close."""

    def similarity(
        self, images: Any, texts: str | Sequence[str], *, batch_size: int = 32, on_error: str = "raise"
    ) -> np.ndarray:
        """Cosine similarities (pictures, texts). With `on_error="none"` the row of an unreadable picture is NaN.

        >>> from vtx_keras import zoo
        >>> model = zoo.build("retriever", weights=None, dim=32, image_shape=(32, 32, 3))
        >>> model.similarity(np.zeros((2, 32, 32, 3)), ["a", "b", "c"]).shape
        (2, 3)
        """
        pixels, good, errors = self.prepare(images)
        tokens = self.tokens_of(texts)
        columns = self.in_batches(self.tower("text"), {"tokens": tokens}, batch_size)
        matrix = np.full((len(good) + len(errors), len(tokens)), np.nan, "float32")
        if good:
            matrix[good] = self.in_batches(self.tower("image"), {"image": pixels}, batch_size) @ columns.T
        media.settle(list(matrix[good]), good, errors, len(matrix), on_error)
        return matrix

    def tower(self, modality: str) -> keras.Model:
        """The "image" or "text" half alone, to unit-length embeddings (batch, dim)."""
        name = {"image": "image", "text": "tokens"}[modality]

        def half() -> keras.Model:
            output = self.get_layer(f"{modality}_embedding").output
            tower = graph({name: self.input[name]}, output, modality)
            tower.run_eagerly = self.run_eagerly
            return tower

        return self.kept((modality, self.run_eagerly), half)
