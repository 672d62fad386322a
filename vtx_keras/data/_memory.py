"""Make batches from images and texts in memory, without TensorFlow.

>>> from vtx_keras import zoo
>>> model = zoo.build("gated_captioner", weights=None, dim=32, depth=1, vision_depth=1, image_shape=(32, 32, 3))
>>> batches = arrays(model, np.zeros((4, 32, 32, 3)), ["a cat", "a dog", "two birds", "a tree"], batch_size=2)
>>> history = model.fit(batches, verbose=0)
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from vtx_keras.inputs import media, text
from vtx_keras.models._base import VisionText
from vtx_keras.models._methods import Answerer, Captioner, Matcher
from vtx_keras.models.options import did_you_mean

MASKED_SHARE = 0.15  # of the words, as in BERT


# --- shared with _pipeline; `xp` is NumPy, or TensorFlow's NumPy inside tf.data


def with_negatives(xp: Any, image: Any, tokens: Any, labels: Any) -> tuple[Any, Any, Any]:
    """Pair each image with its own text, then with its neighbour's: label 0, unless the two texts are equal.

    >>> _, tokens, labels = with_negatives(np, np.zeros((2, 1)), np.array([[1], [2]]), np.ones((2, 1)))
    >>> tokens[:, 0].tolist(), labels[:, 0].tolist()
    ([1, 2, 2, 1], [1.0, 1.0, 0.0, 0.0])
    """
    other = xp.roll(tokens, 1, axis=0)
    same = xp.all(other == tokens, axis=1, keepdims=True)
    labels = xp.concatenate([labels, xp.where(same, labels, xp.zeros_like(labels))])
    return xp.concatenate([image, image]), xp.concatenate([tokens, other]), labels


def hidden_words(xp: Any, tokens: Any, draws: Any, share: float) -> tuple[Any, Any, Any]:
    """Replace a share of the words by [MASK]; also return the hidden words (PAD elsewhere) and their mask.

    >>> [x.tolist() for x in hidden_words(np, np.array([[2, 9, 8]]), np.array([[0.0, 0.0, 0.9]]), 0.5)]
    [[[2, 4, 8]], [[0, 9, 0]], [[False, True, False]]]
    """
    hidden = (draws < share) & (tokens > text.MASK)
    masked = xp.where(hidden, xp.full_like(tokens, text.MASK), tokens)
    return masked, xp.where(hidden, tokens, xp.zeros_like(tokens)), hidden


# --- batches in memory


def arrays(
    model: VisionText,
    images: Any,
    texts: Sequence[str],
    labels: Sequence[Any] | None = None,
    *,
    batch_size: int = 32,
    shuffle: bool = False,
    seed: int = 0,
) -> Batches:
    """Make batches for `fit`, `evaluate` or `predict` from images and texts in memory, without TensorFlow.

    `labels` depend on the task: vqa and classifier take class names or numbers (a multi-label model takes a list of
    them per row, or an array of 0 and 1 with a column per class); a matcher takes 1 or 0, and without labels gets
    negatives by rolling the texts within each batch; a captioner learns the texts, and a retriever needs only pairs.
    """
    texts = list(texts)
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}: expected at least 1")
    pixels, good, errors = media.batch(images, model.image_shape, model.options["resize"])
    if errors:
        media.settle([None] * len(good), good, errors, len(good) + len(errors), "raise")
    for what, values in (("texts", texts), ("labels", labels)):
        if values is not None and len(values) != len(pixels):
            raise ValueError(f"{len(pixels)} pictures and {len(values)} {what}: expected one for each picture")
    length = model.options["max_length"]
    if isinstance(model, Captioner):
        if labels is not None:
            raise ValueError("a captioner learns the texts themselves: leave out labels")
        ids = text.encode(texts, model.vocabulary, length + 1, start=True, end=True)
        return Batches(pixels, ids[:, :-1], ids[:, 1:], words=True, batch_size=batch_size, shuffle=shuffle, seed=seed)
    tokens = model.tokens_of(texts, allow_empty=model.options.get("allow_empty", False))
    return Batches(
        pixels,
        tokens,
        targets(model, labels, len(texts)),
        mlm=model.options.get("mlm", False),
        negatives=isinstance(model, Matcher) and labels is None,
        batch_size=batch_size,
        shuffle=shuffle,
        seed=seed,
    )


def targets(model: VisionText, labels: Sequence[Any] | None, count: int) -> np.ndarray:
    """Return labels as the model's loss expects them: class numbers, rows of 0 and 1, or a column of them."""
    if isinstance(model, Answerer):
        if labels is None:
            raise ValueError(f"a {model.name} learns labels: pass labels=, one per picture, among {model.class_names}")
        numbers = {name: number for number, name in enumerate(model.class_names)}
        if not model.options["multi_label"]:
            return np.array([_number(label, numbers, row) for row, label in enumerate(labels)], "int32")
        if isinstance(labels, np.ndarray) and labels.ndim == 2 and labels.dtype.kind in "biuf":
            if labels.shape[1] != len(numbers) or not np.isin(labels, (0, 1)).all():
                raise ValueError(
                    f"labels {labels.shape}: expected a column of 0 or 1 for each of {len(numbers)} classes"
                )
            return labels.astype("float32")
        one_hot = np.zeros((count, len(numbers)), "float32")
        for row, several in enumerate(labels):
            classes = [_number(label, numbers, row) for label in several if not isinstance(label, bool)]
            if len(set(classes)) < len(several):
                raise ValueError(
                    f"label {row} is {several!r}: expected classes, each once; 0 and 1 for all, as an array"
                )
            one_hot[row, classes] = 1
        return one_hot
    if isinstance(model, Matcher) and labels is not None:
        values = np.asarray(labels, "float32").reshape(-1, 1)
        if not np.isin(values, (0, 1)).all():
            raise ValueError(
                f"matcher labels are 1 (fits) or 0, but some are {sorted(set(np.unique(values)) - {0, 1})[:5]}"
            )
        return values
    return np.ones((count, 1), "float32")


def _number(label: Any, numbers: dict[str, int], row: int) -> int:
    if isinstance(label, str) and label in numbers:
        return numbers[label]
    if isinstance(label, (int, np.integer)) and 0 <= label < len(numbers):
        return int(label)
    hint = did_you_mean(label, numbers) if isinstance(label, str) else f" of {len(numbers)}"
    raise ValueError(f"label {row} is {label!r}: not a class of this model{hint}")


class Batches(keras.utils.PyDataset):
    """Batches of arrays, as returned by `arrays`; with `shuffle` in another order each epoch."""

    def __init__(
        self,
        pixels: np.ndarray,
        tokens: np.ndarray,
        labels: np.ndarray,
        *,
        batch_size: int,
        shuffle: bool,
        seed: int,
        words: bool = False,
        mlm: bool = False,
        negatives: bool = False,
    ):
        super().__init__()
        self.pixels, self.tokens, self.labels = pixels, tokens, labels
        self.batch_size, self.words, self.mlm, self.negatives = batch_size, words, mlm, negatives
        self.shuffle, self.seed = shuffle, seed
        self.begin(0)

    @property
    def steps(self) -> int:
        """The number of batches in a whole epoch."""
        return math.ceil(len(self.pixels) / self.batch_size)

    def begin(self, epoch: int, done: int = 0) -> None:
        """Start at this epoch after `done` batches; order and masks depend only on (seed, epoch)."""
        self.epoch, self.done = epoch, done
        self.order = np.arange(len(self.pixels))
        if self.shuffle:
            np.random.default_rng([self.seed, epoch]).shuffle(self.order)

    def rows_of(self, epoch: int, first: int, last: int) -> list[dict]:
        """Return the rows in batches `first` to `last` of an epoch."""
        before = self.epoch, self.done
        self.begin(epoch)
        rows = self.order[first * self.batch_size : last * self.batch_size]
        self.begin(*before)
        return [{"row": int(row)} for row in rows]

    @property
    def fingerprint(self) -> str:
        """A hash of all images, texts and labels."""
        sha = hashlib.sha256()
        for array in (self.pixels, self.tokens, self.labels):
            buffer: Any = np.ascontiguousarray(array)  # Any: NumPy's types do not declare the buffer protocol
            sha.update(buffer)
        return sha.hexdigest()

    def __len__(self) -> int:
        return self.steps - self.done

    def on_epoch_end(self) -> None:
        self.begin(self.epoch + 1)

    def __getitem__(self, index: int) -> tuple:
        index += self.done
        rows = self.order[index * self.batch_size : (index + 1) * self.batch_size]
        pixels, tokens, labels = self.pixels[rows], self.tokens[rows], self.labels[rows]
        if self.negatives:
            pixels, tokens, labels = with_negatives(np, pixels, tokens, labels)
        weight = (labels != text.PAD).astype("float32") if self.words else np.ones(len(labels), "float32")
        if not self.mlm:
            return {"image": pixels, "tokens": tokens}, labels, weight
        draws = np.random.default_rng([self.seed, self.epoch, index]).random(tokens.shape)
        masked, words, hidden = hidden_words(np, tokens, draws, MASKED_SHARE)
        inputs = {"image": pixels, "tokens": masked.astype("int32")}
        weights = {"logits": weight, "words": hidden.astype("float32")}
        return inputs, {"logits": labels, "words": words}, weights
