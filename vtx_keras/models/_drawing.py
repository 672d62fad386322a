"""The methods of a generator: draw pictures from texts, and between two texts."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import keras
import numpy as np
from keras import ops

from vtx_keras.inputs.text import PAD, UNK, normalize
from vtx_keras.inputs.text import tokens as tokens_in
from vtx_keras.models._base import VisionText, cut
from vtx_keras.models.decode import run_in_batches
from vtx_keras.models.layers import register
from vtx_keras.models.options import did_you_mean

__all__ = ["Generator", "Held", "Seen", "as_pixels", "noise_of"]
LARGEST_SEED = 2**32 - 1
SMALLEST = 8  # pixels of the shorter side that is drawn
MORE = 64  # pieces beyond the longest text that are counted


@register
class Generator(VisionText):
    """Draws pictures or clips from sentences."""

    @property
    def image_shape(self) -> tuple[int, ...]:
        return tuple(self.options["image_shape"])

    def prepare(self, images: Any) -> Any:
        """Raise ValueError: the methods of other tasks read pictures."""
        raise ValueError(
            f"{self.spec['name']} reads no pictures ({type(images).__name__}): draw(texts) makes them, and "
            "explain.drawing shows what was read"
        )

    def behind_encoder(self, told: bool = False) -> VisionText:
        """Raise ValueError: there is no image encoder."""
        raise ValueError(f"{self.spec['name']} has no image encoder to be cut off (told={told})")

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
        tokens = self.checked_tokens(texts)
        texts = [texts] if isinstance(texts, (str, bytes)) else list(texts)
        noise = noise_of(texts, self.options["noise"], seed, truncation)
        return self.painted({"noise": noise, "tokens": tokens}, batch_size, size)

    def interpolate(
        self, first: str, last: str, steps: int = 8, *, seed: int = 0, truncation: float = 1.0, batch_size: int = 32
    ) -> np.ndarray:
        """Draw `steps` pictures from the one of text `first` to what the same noise gives with text `last`.

        What is read of the texts, not their letters, goes from one to the other.

        >>> from vtx_keras import zoo
        >>> model = zoo.build("gated_generator", weights=None, width=2, dim=8, image_shape=(16, 16, 3))
        >>> model.interpolate("a cat", "a dog", 3).shape
        (3, 16, 16, 3)
        """
        if isinstance(steps, bool) or not isinstance(steps, Integral) or steps < 2:
            raise ValueError(f"steps={steps!r}: expected a whole number of at least 2, the two ends")
        tokens, share = self.checked_tokens([first, last]), np.linspace(0, 1, int(steps), dtype="float32")
        read = self.in_batches(self.reader(), {"tokens": tokens}, batch_size)
        lengths = (tokens != PAD).sum(axis=1)
        common = math.lcm(*map(int, lengths))  # each word as often as the others: attention is what it was
        words = [read["words"][i, : lengths[i]].repeat(common // lengths[i], axis=0) for i in (0, 1)]
        inputs = {
            "noise": np.repeat(noise_of([first], self.options["noise"], seed, truncation), steps, axis=0),
            "words": _between(words[0], words[1], share),
            "sentence": _between(*read["sentence"], share),
            "seen": np.ones((steps, common), bool),
        }
        return self.painted(inputs, batch_size, None, read=True)

    def painted(
        self, inputs: dict[str, np.ndarray], batch_size: int, size: int | None, read: bool = False
    ) -> np.ndarray:
        """Run the painter on noise and ids, or noise and what was `read`, and return uint8 pictures of this size."""
        sides = self.image_shape[-3:-1]
        size = max(sides) if size is None else size
        sizes = [max(sides) >> halvings for halvings in range(9) if min(sides) >> halvings >= SMALLEST]
        if size not in sizes:
            raise ValueError(f"size={size!r}: this model draws {', '.join(map(str, sizes))} px")
        if isinstance(batch_size, bool) or not isinstance(batch_size, Integral) or batch_size < 1:
            raise ValueError(f"batch_size={batch_size!r}: expected a whole number of at least 1")
        run, times = self.painter(read), max(sides) // int(size)

        def batch(rows: dict[str, np.ndarray]) -> np.ndarray:
            pictures = np.asarray(run.predict_on_batch(rows), "float32")
            if times > 1:  # the mean of squares
                *first, height, width, colours = pictures.shape
                pictures = pictures.reshape(*first, height // times, times, width // times, times, colours)
                pictures = pictures.mean(axis=(-4, -2))
            return as_pixels(pictures)

        return run_in_batches(batch, inputs, int(batch_size))

    def checked_tokens(self, texts: str | Sequence[str]) -> np.ndarray:
        """Return the ids of texts, of which every word is known and every one is read; raise ValueError otherwise."""
        tokens = self.tokens_of(texts, length=self.options["max_length"] + MORE)
        texts = [texts] if isinstance(texts, (str, bytes)) else list(texts)
        for place in self._unreadable_rows(tokens):
            raise ValueError(self._complaint(texts[place], tokens[place]))
        return tokens[:, : self.options["max_length"]]

    def unreadable(self, texts: Sequence[str]) -> dict[int, str]:
        """Return why texts cannot be drawn, by place; those that can are not in it.

        >>> from vtx_keras import zoo
        >>> model = zoo.build("gated_generator", weights=None, width=2, dim=8, vocabulary=["a", "cat"])
        >>> list(model.unreadable(["a cat", "a zebra", ""]))
        [1, 2]
        """
        if not texts:
            return {}
        tokens = self.tokens_of(texts, length=self.options["max_length"] + MORE, allow_empty=True)
        complaints = {place: self._complaint(texts[place], tokens[place]) for place in self._unreadable_rows(tokens)}
        empty = np.flatnonzero((tokens != PAD).sum(axis=1) < 2)
        return {**complaints, **{int(place): "a text without words" for place in empty}}

    def _unreadable_rows(self, tokens: np.ndarray) -> list[int]:
        too_long = (tokens != PAD).sum(axis=1) > self.options["max_length"]
        return [int(place) for place in np.flatnonzero(too_long | (tokens == UNK).any(axis=1))]

    def _complaint(self, words: str | bytes, ids: np.ndarray) -> str:
        """Say why a text cannot be drawn."""
        shown = (words.decode(errors="replace") if isinstance(words, bytes) else words)[:200]
        if UNK in ids:
            vocabulary = self.vocabulary
            unknown = [one for one in dict.fromkeys(tokens_in(shown)) if UNK in vocabulary.encode([one], 32)[0]]
            hint = did_you_mean(unknown[0], [one for one in vocabulary if one.isalpha()]) if unknown else ""
            return f"{shown!r} has words that the model does not know: {', '.join(unknown) or 'its signs'}{hint}"
        count, longest = int((ids != PAD).sum()) - 1, self.options["max_length"] - 1
        more = "or more " if count >= longest + MORE else ""
        return f"{shown!r} has {count} {more}pieces, of which the model reads {longest}: shorten it"

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


def noise_of(texts: Sequence[str | bytes], count: int, seed: int, truncation: float = 1.0) -> np.ndarray:
    """Return noise (texts, count): a function of the seed, the text, and how often it came before.

    >>> first = noise_of(["a", "b", "a"], 2, seed=3)
    >>> bool((first[0] == noise_of(["a"], 2, seed=3)[0]).all()), bool((first[0] == first[2]).all())
    (True, False)
    """
    if isinstance(seed, bool) or not isinstance(seed, Integral) or not 0 <= int(seed) <= LARGEST_SEED:
        raise ValueError(f"seed={seed!r}: expected a whole number from 0 to {LARGEST_SEED}")
    if isinstance(truncation, bool) or not isinstance(truncation, Real) or not 0 <= truncation <= 1:
        raise ValueError(f"truncation={truncation!r}: expected a number from 0 to 1")
    times: Counter[str] = Counter()
    rows = []
    for one in texts:
        words = normalize(one)  # capitals and the form of a letter make no other picture
        number = int.from_bytes(hashlib.sha256(words.encode("utf-8", "surrogatepass")).digest()[:8], "big")
        rows.append(np.random.default_rng([int(seed), times[words], number]).standard_normal(count))
        times[words] += 1
    return (float(truncation) * np.stack(rows)).astype("float32")


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
