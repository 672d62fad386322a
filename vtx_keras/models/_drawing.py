"""The methods of a generator: draw pictures from texts, and between two texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from numbers import Integral
from typing import Any

import keras
import numpy as np
from keras import ops

from vtx_keras.inputs.text import PAD, UNK
from vtx_keras.models._base import VisionText, cut
from vtx_keras.models.layers import register
from vtx_keras.models.options import did_you_mean

__all__ = ["Generator", "Held", "Seen", "as_pixels", "noise_of"]
LARGEST_SEED = 2**32 - 1


@register
class Generator(VisionText):
    """Draws pictures or clips from sentences."""

    @property
    def image_shape(self) -> tuple[int, ...]:
        return tuple(self.options["image_shape"])

    def draw(
        self,
        texts: str | Sequence[str],
        *,
        seed: int = 0,
        truncation: float = 1.0,
        size: int | None = None,
        batch_size: int = 32,
    ) -> np.ndarray:
        """Draw a picture (h, w, 3), or a clip, for each text: uint8 (texts, [frames,] h, w, 3).

        The same seed and text give the same picture, whatever is drawn beside it; a text that is given twice gives two
        pictures. `truncation` scales the noise: 1 is as trained, 0 draws the one picture in the middle. `size` is the
        longer side, the model's own or a half, a quarter … of it.

        >>> from vtx_keras import zoo
        >>> model = zoo.build("gated_generator", weights=None, width=2, dim=8, image_shape=(16, 16, 3))
        >>> model.draw(["a cat", "a cat", "a dog"]).shape
        (3, 16, 16, 3)
        """
        texts = [texts] if isinstance(texts, (str, bytes)) else list(texts)
        tokens = self.checked_tokens(texts)
        noise = noise_of(texts, self.options["noise"], seed, truncation)
        return self.painted({"noise": noise, "tokens": tokens}, batch_size, size)

    def interpolate(
        self, first: str, last: str, steps: int = 8, *, seed: int = 0, truncation: float = 1.0, batch_size: int = 32
    ) -> np.ndarray:
        """Draw `steps` pictures from the one of text `first` to the one of text `last`, with the same noise.

        What is read of the texts, not their letters, goes from one to the other.

        >>> from vtx_keras import zoo
        >>> model = zoo.build("gated_generator", weights=None, width=2, dim=8, image_shape=(16, 16, 3))
        >>> model.interpolate("a cat", "a dog", 3).shape
        (3, 16, 16, 3)
        """
        if not isinstance(steps, int) or steps < 2:
            raise ValueError(f"steps={steps!r}: expected a whole number of at least 2, the two ends")
        tokens = self.checked_tokens([first, last])
        width = int((tokens != 0).sum(axis=1).max())
        read = self.in_batches(self.reader(), {"tokens": tokens[:, :width]}, batch_size)  # words and sentence of both
        share = np.linspace(0, 1, steps, dtype="float32")
        noise = noise_of([first], self.options["noise"], seed, truncation)
        inputs = {
            "noise": np.repeat(noise, steps, axis=0),
            **{name: _between(first_read, last_read, share) for name, (first_read, last_read) in read.items()},
            "seen": np.repeat((tokens[:, :width] != 0).any(axis=0)[None], steps, axis=0),
        }
        return self.painted(inputs, batch_size, None, read=True)

    def painted(
        self, inputs: dict[str, np.ndarray], batch_size: int, size: int | None, read: bool = False
    ) -> np.ndarray:
        """Run the painter on noise and ids, or noise and what was `read`, and return uint8 pictures of this size."""
        longest = max(self.image_shape[-3:-1])
        size = longest if size is None else size
        sizes = [longest >> halvings for halvings in range(longest.bit_length()) if longest >> halvings >= 8]
        if size not in sizes:
            raise ValueError(f"size={size!r}: this model draws {', '.join(map(str, sizes))} px")
        pictures = self.in_batches(self.painter(read), inputs, batch_size)
        times = longest // size
        if times > 1:  # the mean of squares
            *first, height, width, colours = pictures.shape
            pictures = pictures.reshape(*first, height // times, times, width // times, times, colours)
            pictures = pictures.mean(axis=(-4, -2))
        return as_pixels(pictures)

    def checked_tokens(self, texts: Sequence[str]) -> np.ndarray:
        """Return the ids of texts, of which every word is known and every one is read; raise ValueError otherwise."""
        vocabulary, longest = self.vocabulary, self.options["max_length"]
        tokens = self.tokens_of(texts, length=longest + 64)
        for text, ids in zip(texts, tokens, strict=True):
            if UNK in ids:
                words = (text.decode() if isinstance(text, bytes) else text).split()
                unknown = [word for word in words if UNK in vocabulary.encode([word], 16, start=True)[0]]
                hint = did_you_mean(unknown[0].lower(), [one for one in vocabulary if one.isalpha()]) if unknown else ""
                raise ValueError(
                    f"{text!r} has words that the model does not know: {', '.join(unknown) or 'a sign'}{hint}"
                )
            if (ids != 0).sum() > longest:
                raise ValueError(
                    f"{text!r} has {(ids != 0).sum() - 1} pieces, of which the model reads {longest - 1}: shorten it"
                )
        return tokens[:, :longest]

    def painter(self, read: bool = False) -> keras.Model:
        """Return the generator alone: from "noise" and "tokens" to pictures, -1 to 1.

        With `read`, instead of ids its inputs are what the reader returns.
        """

        def make() -> keras.Model:
            inputs = {"noise": self.get_layer("noise").output}
            if read:
                held = {name: self.get_layer(f"{name}_held").output for name in ("words", "sentence")}
                inputs |= {**held, "seen": self.get_layer("seen").output}
            else:
                inputs["tokens"] = self.input["tokens"]
            painter = cut(self, inputs, self.get_layer("drawn").output, name="painter")
            painter.run_eagerly = self.run_eagerly
            return painter

        return self.cached(("painter", read, self.run_eagerly), make)

    def reader(self) -> keras.Model:
        """Return the text side alone: from "tokens" to "words" (batch, words, dim) and "sentence" (batch, dim)."""

        def make() -> keras.Model:
            outputs = {name: self.get_layer(f"{name}_held").output for name in ("words", "sentence")}
            return cut(self, {"tokens": self.input["tokens"]}, outputs, name="reader")

        return self.cached("reader", make)


def as_pixels(pictures: np.ndarray) -> np.ndarray:
    """Return pictures from -1 to 1 as uint8.

    >>> as_pixels(np.array([-1.0, 0.0, 1.0])).tolist()
    [0, 128, 255]
    """
    return np.clip(np.round((np.asarray(pictures, "float32") + 1) * 127.5), 0, 255).astype("uint8")


def noise_of(texts: Sequence[str], count: int, seed: int, truncation: float = 1.0) -> np.ndarray:
    """Return noise (texts, count): a function of the seed and of how often the text came before.

    >>> first = noise_of(["a", "b", "a"], 2, seed=3)
    >>> bool((first[0] == first[1]).all()), bool((first[0] == first[2]).all())
    (True, False)
    """
    if isinstance(seed, bool) or not isinstance(seed, Integral) or not 0 <= int(seed) <= LARGEST_SEED:
        raise ValueError(f"seed={seed!r}: expected a whole number from 0 to {LARGEST_SEED}")
    if isinstance(truncation, bool) or not isinstance(truncation, (int, float)) or not 0 <= truncation <= 1:
        raise ValueError(f"truncation={truncation!r}: expected a number from 0 to 1")
    times: Counter[str] = Counter()
    rows = []
    for text in texts:
        rows.append(np.random.default_rng([int(seed), times[text]]).standard_normal(count))
        times[text] += 1
    return (truncation * np.stack(rows)).astype("float32")


def _between(first: np.ndarray, last: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Return arrays from `first` to `last`, one for each share."""
    share = share.reshape(-1, *(1,) * first.ndim)
    return ((1 - share) * first + share * last).astype("float32")


@register
class Held(keras.layers.Layer):
    """Returns its input, through which no gradient passes: the discriminator alone teaches the reader."""

    def compute_output_shape(self, shape: tuple) -> tuple:
        return shape

    def call(self, x: Any) -> Any:
        return ops.stop_gradient(x)


@register
class Seen(keras.layers.Layer):
    """Returns where ids are words, not padding."""

    def compute_output_spec(self, tokens: Any) -> Any:
        return keras.KerasTensor(tokens.shape, dtype="bool")

    def call(self, tokens: Any) -> Any:
        return ops.not_equal(tokens, PAD)
