"""Pictures from words: how a generator draws, and how a discriminator judges.

Both halves are convolutions whose feature maps are conditioned on the text. Generator: noise and sentence become a map
of 4 x 4, which is doubled until it is the picture (Reed et al. 2016, https://arxiv.org/abs/1605.05396; residual and
modulated as in DF-GAN, https://arxiv.org/abs/2008.05865). Discriminator: the same way back, with the sentence at the
end. With `cross_attn`, cells of both attend to words (AttnGAN, https://arxiv.org/abs/1711.10485).

Maps are (batch, h, w, channels); of clips the frames are rows, (batch * frames, h, w, channels). Values are -1 to 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import keras
from keras import layers, ops

from vtx_keras._compat import input_gradients
from vtx_keras.models.layers import NEVER, masked_mean, register
from vtx_keras.models.maps import Affine, Clip, EachFrame, Gating, OverTime, OverWords, Shrink, leaky

__all__ = ["START", "Discriminator", "Noise", "channels", "drawn"]
START = 4  # side of the first map
READ_AT = (8, 16)  # sides of the maps whose cells attend to words
PENALIZED = 4  # the gradient penalty is computed on one of so many rows: as dear as on all rows at each fourth step
SHARPNESS = 10.0  # of the softmax over texts
RATE = 2.0  # of the discriminator, over the generator's (two time scales, https://arxiv.org/abs/1706.08500)


def channels(side: int, picture: int, width: int) -> int:
    """Return the channels of a map with this side: `width` of the picture itself, twice as many of each half, up to 8.

    >>> [channels(side, 64, 16) for side in (4, 8, 16, 32, 64)]
    [128, 128, 64, 32, 16]
    """
    return width * min(8, picture // side)


# --- the generator


def drawn(fusion: str, noise: Any, sentence: Any, words: Any, keep: Any, o: SimpleNamespace) -> Any:
    """Draw pictures (batch, h, w, 3), or clips (batch, frames, h, w, 3), from noise (batch, noise) and a text.

    The text is `words` (batch, words, dim) with their mask `keep`, and their mean, `sentence` (batch, dim).
    """
    *frames, height, width, _ = o.image_shape
    both = layers.Concatenate(name="noise_and_sentence")([noise, sentence])
    if fusion == "concat_mlp":  # the conditional GAN: all that is read comes in here
        both = layers.Dense(4 * o.dim, activation=leaky, name="joined")(both)
    condition = layers.Dense(o.dim, activation=leaky, name="condition")(both)  # (batch, dim)
    side = max(height, width)
    doublings = (min(height, width) // START).bit_length() - 1
    rows, columns = height >> doublings, width >> doublings
    first = channels(START, side, o.width)
    x = layers.Dense(rows * columns * first, name="start")(both)
    x = layers.Reshape((rows, columns, first), name="start_map")(x)
    if frames:
        x, condition = EachFrame(frames[0], name="frames")(x), EachFrame(frames[0], True, name="moments")(condition)
    for _ in range(doublings):
        rows, columns = 2 * rows, 2 * columns
        name, count = f"map_{min(rows, columns)}", channels(max(rows, columns), side, o.width)
        x = layers.UpSampling2D(interpolation="bilinear", name=f"{name}_doubled")(x)  # (…, rows, columns, channels)
        skip = layers.Conv2D(count, 1, use_bias=False, name=f"{name}_skip")(x)
        for i in (1, 2):
            x = conditioned(fusion, x, condition, f"{name}_condition_{i}")
            x = layers.Conv2D(count, 3, padding="same", name=f"{name}_conv_{i}")(layers.Activation(leaky)(x))
        x = layers.Add(name=f"{name}_sum")([skip, x])
        if min(rows, columns) in READ_AT:
            x = OverTime(frames[0], name=f"{name}_time")(x) if frames else x
            if fusion == "cross_attn":
                x = OverWords(count, o.dim, frames[0] if frames else 1, name=f"{name}_words")(x, words, keep)
    x = layers.Conv2D(3, 3, padding="same", dtype="float32", name="colours")(layers.Activation(leaky)(x))
    x = layers.Reshape(tuple(o.image_shape), name="picture")(x) if not frames else Clip(frames[0], name="clip")(x)
    return layers.Activation("tanh", dtype="float32", name="drawn")(x)


def conditioned(fusion: str, x: Any, condition: Any, name: str) -> Any:
    """Change a map by the condition: not at all, by the gate of a GRU, or by a scale and a shift for each channel."""
    if fusion == "concat_mlp":
        return x
    kind = {"gated": Gating, "cross_attn": Affine}[fusion]
    return kind(x.shape[-1], condition.shape[-1], name=name)(x, condition)


@register
class Noise(keras.layers.Layer):
    """Draws random numbers (batch, count) for each row of its input, anew each time.

    >>> tuple(Noise(3)(ops.ones((2, 5))).shape)
    (2, 3)
    """

    def __init__(self, count: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.count = count
        self.seed_generator = keras.random.SeedGenerator()

    def compute_output_shape(self, shape: tuple) -> tuple:
        return (shape[0], self.count)

    def call(self, x: Any) -> Any:
        return keras.random.normal((ops.shape(x)[0], self.count), dtype=self.compute_dtype, seed=self.seed_generator)

    def get_config(self) -> dict:
        return {**super().get_config(), "count": self.count}


# --- the discriminator


@register
class Discriminator(keras.layers.Layer):
    """Judges whether pictures are real and fit their texts: one logit for each, above 0 if so.

    It also looks for the text of each picture among all texts of the batch, which is what makes it read every word:
    most texts of other pictures can be refused by one word alone (XMC-GAN, https://arxiv.org/abs/2101.04702).

    `role` says what a call is for. "real": the logits of the text and of the text of the row before, which does not
    fit, the log probability of the own text, and in training how steeply the logit changes. "drawn": the logit.
    "held": the logit and the log probability through weights that stay as they are, from which the generator learns.
    All are columns of the result: on JAX, a loss that a layer adds is lost when the layer is called again.
    """

    def __init__(
        self, image_shape: Sequence[int], width: int, dim: int, fusion: str, penalized: bool = True, **kwargs: Any
    ):
        super().__init__(**kwargs)
        self.image_shape, self.width, self.dim = tuple(image_shape), width, dim
        self.fusion, self.penalized = fusion, penalized
        *self.clip, height, across, _ = self.image_shape
        side, more = max(height, across), {"dtype": self.dtype_policy}
        self.first = layers.Conv2D(width, 3, padding="same", name="first", **more)
        self.halvings = (min(height, across) // START).bit_length() - 1
        sides = [side >> (i + 1) for i in range(self.halvings)]
        self.stages = [Shrink(channels(one, side, width), name=f"map_{one}", **more) for one in sides]
        self.last = channels(2 * sides[-1], side, width)
        frames = self.clip[0] if self.clip else 1
        if fusion == "cross_attn":
            self.over = OverWords(self.last, dim, frames, name="words", **more)
        if self.clip:
            self.time = OverTime(frames, name="time", **more)
        self.picture = layers.Dense(dim, name="picture", dtype="float32")
        self.text = layers.Dense(dim, name="text", dtype="float32")
        self.joined = layers.Conv2D(2 * width, 3, padding="same", name="joined", **more)
        self.logit = layers.Dense(1, name="logit", dtype="float32")

    def build(self, shape: tuple) -> None:
        shape = (None, *self.image_shape[-3:])
        self.first.build(shape)
        shape = (None, *shape[1:3], self.width)
        for stage in self.stages:
            stage.build(shape)
            shape = stage.compute_output_shape(shape)
            if stage is self.stages[-2]:
                self.picture.build((None, shape[3]))
                self.text.build((None, self.dim))
                if self.fusion == "cross_attn":
                    self.over.build(shape)
        if self.clip:
            self.time.build(shape)
        self.joined.build((None, *shape[1:3], shape[3] + self.dim))
        self.logit.build((None, shape[1] * shape[2] * 2 * self.width))
        for variable in self.weights:
            variable.pace = RATE

    def call(
        self,
        image: Any,
        words: Any,
        sentence: Any,
        keep: Any,
        rivals: Any,
        role: str = "drawn",
        training: bool | None = None,
    ) -> Any:
        if role == "held":
            held = [ops.stop_gradient(variable.value) for variable in self.trainable_variables]
            others = [variable.value for variable in self.non_trainable_variables]
            inputs = (image, words, sentence, keep, rivals)
            return self.stateless_call(held, others, *inputs, role="read", training=training)[0]
        early = self.early(image)
        fits = self.late(early, words, sentence, keep)
        if role == "drawn":
            return fits  # (batch, 1)
        found = self.found(early, sentence, rivals)
        if role == "read":
            return ops.concatenate([fits, found], axis=-1)  # (batch, 2)
        penalized = self.penalized and training
        steep = self.steepness(image, words, sentence, keep) if penalized else ops.zeros_like(found)
        other = (ops.roll(one, 1, axis=0) for one in (words, sentence, keep))
        return ops.concatenate([fits, self.late(early, *other), found, steep], axis=-1)  # (batch, 4)

    def found(self, x: Any, sentence: Any, rivals: Any) -> Any:
        """Return the log probability (batch, 1) of each picture's own text among it and its `rivals` (batch, batch)."""
        pooled = ops.mean(leaky(x), axis=(1, 2))  # (batch [* frames], channels)
        pooled = masked_mean(ops.reshape(pooled, (-1, self.clip[0], self.last)))[:, 0] if self.clip else pooled
        pictures, texts = ops.normalize(self.picture(pooled)), ops.normalize(self.text(sentence))
        logits = ops.cast(ops.matmul(pictures, ops.transpose(texts)), "float32") * SHARPNESS  # (pictures, texts)
        rows = ops.arange(ops.shape(logits)[0])
        own = ops.cast(rows[:, None] == rows[None, :], "float32")
        return ops.sum(own * ops.log_softmax(ops.where(rivals, logits, NEVER), axis=-1), axis=-1, keepdims=True)

    def early(self, image: Any) -> Any:
        """Return the map before the words come in."""
        x = self.first(ops.reshape(image, (-1, *self.image_shape[-3:])))  # frames of clips are rows
        for stage in self.stages[:-1]:
            x = stage(x)
        return x

    def late(self, x: Any, words: Any, sentence: Any, keep: Any) -> Any:
        """Return the logits (batch, 1) of maps and texts."""
        x = self.over(x, words, keep) if self.fusion == "cross_attn" else x
        x = leaky(self.stages[-1](x))  # (batch, rows, columns, channels)
        if self.clip:
            x, sentence = self.time(x), ops.repeat(sentence, self.clip[0], axis=0)
        beside = ops.broadcast_to(sentence[:, None, None], (ops.shape(x)[0], *x.shape[1:3], self.dim))
        x = leaky(self.joined(ops.concatenate([x, ops.cast(beside, x.dtype)], axis=-1)))
        logit = self.logit(ops.reshape(x, (-1, x.shape[1] * x.shape[2] * x.shape[3])))
        return masked_mean(ops.reshape(logit, (-1, self.clip[0], 1)))[:, 0] if self.clip else logit

    def steepness(self, image: Any, words: Any, sentence: Any, keep: Any) -> Any:
        """Return how steeply the logit of real pairs changes with picture and sentence, to the sixth power (DF-GAN).

        It is computed for the first rows (batch, 1), and counts for those that are left at 0.
        """
        batch = ops.shape(image)[0]
        rows = -(-batch // PENALIZED)
        image, words, sentence, keep = (one[:rows] for one in (image, words, sentence, keep))

        def total(inputs: tuple) -> Any:
            return ops.sum(self.late(self.early(inputs[0]), words, inputs[1], keep))

        squares = [ops.square(ops.cast(one, "float32")) for one in input_gradients(total, (image, sentence))]
        norms = [ops.sum(one, axis=tuple(range(1, len(one.shape)))) for one in squares]  # (rows,) each
        steep = (norms[0] + norms[1]) ** 3 * (ops.cast(batch, "float32") / ops.cast(rows, "float32"))
        return ops.concatenate([steep, ops.zeros((batch - rows,), "float32")])[:, None]

    def get_config(self) -> dict:
        names = ("image_shape", "width", "dim", "fusion", "penalized")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}
