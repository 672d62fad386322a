"""Captions: a left-to-right decoder over a picture or clip."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from vtx_keras.inputs import media, text
from vtx_keras.models import decode
from vtx_keras.models._base import VisionText
from vtx_keras.models.layers import Block, register


@register
class Captioner(VisionText):
    """A left-to-right decoder over an image."""

    def generate(
        self,
        images: Any,
        prompt: str | Sequence[str] | None = None,
        *,
        beams: int = 1,
        sampler: str = "greedy",
        top_k: int | None = None,
        top_p: float | None = None,
        temperature: float | None = None,
        max_length: int | None = None,
        seed: int | None = None,
        batch_size: int = 32,
        on_error: str = "raise",
    ) -> list[str]:
        """Captions: a list of strings, one per picture (or clip), beginning with `prompt` where one is given.

        `images` is a path, bytes, a PIL image or an array (0–255), or many of them. `beams` above 1 searches;
        `sampler` "random", "top_k" or "top_p" draws instead, repeatably when `seed` is given. An unreadable picture
        does not lose the others: see `media.BadItems`, or pass `on_error="none"`.

        >>> from vtx_keras import zoo
        >>> model = zoo.build("cross_attn_captioner", weights=None, dim=32, image_shape=(32, 32, 3))
        >>> len(model.generate(np.zeros((2, 32, 32, 3)), prompt="a", max_length=4))
        2
        """
        sampling = _sampling(sampler, beams, top_k, top_p, temperature, seed)
        length = self.check_length(max_length)
        pixels, good, errors = self.prepare(images)
        total = len(good) + len(errors)
        inputs = {"image": pixels, "prompt": self.prompts(prompt, total, length)[good]}
        if sampler != "greedy":
            seed = random.SystemRandom().randrange(2**32) if seed is None else seed
            inputs["noise"] = np.random.default_rng(seed).random((total, length), "float32")[good]
            # Numbers of any value: as inputs they need no function of their own.
            told = {"top_p": sampling["top_p"], "temperature": sampling["temperature"]}
            inputs |= {name: np.full((len(good), 1, 1), value, "float32") for name, value in told.items() if value}
        if not good:
            return media.settle([], good, errors, total, on_error)
        settings = {"beams": int(beams), "length": length, "top_k": sampling["top_k"]}
        key = ("generate", self.run_eagerly, *settings.items(), *inputs)
        run = self.kept(key, lambda: _Generate(self, settings))
        ids, _ = self.in_batches(run, inputs, batch_size)
        return media.settle(text.decode(ids, self.vocabulary), good, errors, total, on_error)

    def generate_ids(
        self,
        images: Any,
        prompt_ids: Any = None,
        *,
        beams: int = 1,
        max_length: int | None = None,
        length_penalty: float = 1.0,
        sampler: str = "greedy",
        top_k: int | None = None,
        top_p: float | None = None,
        temperature: float | None = None,
        seed: int | None = None,
        noise: Any = None,
    ) -> tuple[Any, Any]:
        """(ids, scores): the words' ids (batch, max_length), 0-padded, and their length-normalised log-probability.

        Pure `keras.ops`: it compiles in `tf.function(jit_compile=True)` and `jax.jit`, and converts to LiteRT and
        ONNX. `images` is a float batch of 0–255 at the model's size, `prompt_ids` (batch, n) is 0-padded; one row
        is for all pictures. A sampler draws by `noise` (batch, max_length) in [0, 1), or makes it from `seed` with the
        backend's own generator (so its draws are not those of `generate`); inside `jax.jit` give one of the two.
        """
        sampling = _sampling(sampler, beams, top_k, top_p, temperature, seed)
        length = self.check_length(max_length)
        images = ops.convert_to_tensor(images, "float32")
        draw = None
        if sampler != "greedy":
            if noise is None:
                noise = keras.random.uniform((ops.shape(images)[0], length), seed=seed)
            draw = decode.drawing(noise, **{name: sampling[name] for name in ("top_k", "top_p", "temperature")})
        return self.written(images, prompt_ids, draw, length=length, beams=int(beams), length_penalty=length_penalty)

    def written(
        self, images: Any, prompt_ids: Any, draw: Any, *, length: int, beams: int, length_penalty: float = 1.0
    ) -> tuple[Any, Any]:
        """`generate_ids` once all is checked; `draw` is what `decode.drawing` gives, or None."""
        begin = self.beginnings(ops.shape(images)[0], length, prompt_ids)
        step, cache = self.decoder(images, length, beams)
        return decode.search(step, cache, begin, length=length, beams=beams, length_penalty=length_penalty, draw=draw)

    def decoder(self, images: Any, length: int, beams: int) -> tuple[Callable, Any]:
        """The step form of the graph for these images, and an empty cache for it."""
        cache = [block.empty_cache(ops.shape(images)[0], length, beams) for block in self.blocks]
        return self.stepper(self.begun(self.get_layer("image_encoder")(images))), cache

    @property
    def blocks(self) -> list[Block]:
        """The decoder's blocks, in order."""
        return [layer for layer in self.layers if isinstance(layer, Block)]

    def begun(self, features: Any) -> list:
        """What every block's step needs of the image encoder's features: once per picture."""
        vision, states = self.get_layer("vision")(features), []
        for block in self.blocks:
            state, vision = block.begin(vision)
            states.append(state)
        return states

    def stepper(self, states: list) -> Callable:
        """The function for `decode.search` that takes these states one token further."""
        words, positions, norm = (self.get_layer(name) for name in ("words", "positions", "norm"))
        # The output head is the word table; turned once here, not in every step.
        head = ops.transpose(ops.cast(words.embeddings, "float32"))

        def step(tokens: Any, index: Any, cache: list, now: Any, visible: Any) -> tuple[Any, list]:
            x, after = positions.step(words(tokens), index), []
            for block, block_cache, state in zip(self.blocks, cache, states, strict=True):
                x, block_cache = block.step(x, block_cache, now, visible, state)
                after.append(block_cache)
            return ops.matmul(ops.cast(norm(x), "float32"), head), after

        return step

    def check_length(self, max_length: int | None) -> int:
        most = self.options["max_length"]
        if max_length is None:
            return most
        if not decode.whole_number(max_length) or not 1 <= max_length <= most:
            raise ValueError(
                f"max_length={max_length!r}: expected a whole number from 1 to {most}, the length the model was built "
                "for. For longer texts build it with a greater max_length."
            )
        return int(max_length)

    def beginnings(self, rows: Any, length: int, prompt_ids: Any = None) -> Any:
        """Prompts as (rows, length), 0-padded; `rows` may be a tensor."""
        nothing = ops.zeros((rows, length), "int32")
        if prompt_ids is None:
            return nothing
        prompt_ids = ops.cast(prompt_ids, "int32")[:, :length]
        if isinstance(rows, int) and prompt_ids.shape[0] not in (None, 1, rows):
            raise ValueError(f"{prompt_ids.shape[0]} rows of prompt_ids for {rows} pictures: give one, or one for each")
        return nothing + ops.pad(prompt_ids, [[0, 0], [0, length - prompt_ids.shape[1]]])

    def prompts(self, prompt: str | Sequence[str] | None, total: int, length: int) -> np.ndarray:
        """Prompts as ids (total, length), 0-padded: one for all, or one for each."""
        if prompt is None:
            return np.zeros((total, length), "int32")
        prompts = [prompt] * total if isinstance(prompt, (str, bytes)) else list(prompt)
        if len(prompts) != total:
            raise ValueError(f"{len(prompts)} prompts for {total} pictures: give one for all, or one for each")
        ids = text.encode(prompts, self.vocabulary, length, allow_empty=True)
        if (ids == text.UNK).any():
            row = int((ids == text.UNK).any(axis=1).argmax())
            warnings.warn(f"prompt {prompts[row]!r} has words the model does not know: left out", stacklevel=3)
        return ids


def _sampling(
    sampler: str, beams: int, top_k: int | None, top_p: float | None, temperature: float | None, seed: int | None
) -> dict:
    decode.check_sampling(sampler, beams, top_k, top_p, temperature, seed)
    if sampler == "top_k":
        top_k = top_k or 50
    if sampler == "top_p":
        top_p = top_p or 0.9
    return {"sampler": sampler, "top_k": top_k, "top_p": top_p, "temperature": temperature}


class _Generate(keras.Model):
    """`generate_ids` behind `predict_on_batch`: Keras compiles it for the backend at hand, so this file names none."""

    def __init__(self, captioner: Captioner, settings: dict):
        super().__init__(name="generate", dtype="float32")
        self.captioner, self.settings = captioner, settings
        self.compile(run_eagerly=captioner.run_eagerly)

    def call(self, inputs: dict) -> tuple[Any, Any]:
        draw, how = None, dict(self.settings)
        top_k = how.pop("top_k")
        if "noise" in inputs:
            draw = decode.drawing(
                inputs["noise"], top_k=top_k, top_p=inputs.get("top_p"), temperature=inputs.get("temperature")
            )
        return self.captioner.written(inputs["image"], inputs["prompt"], draw, **how)
