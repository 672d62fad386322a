"""What a model of each task can do: captions, answers and labels, matches, similarities.

The captioner's graph is also here as a step of one token over a key-value cache, for decoding.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from vtx_keras.inputs import media, text
from vtx_keras.models import decode
from vtx_keras.models._base import PairModel, VisionText, cut, graph, paired
from vtx_keras.models._chat import Chat, Reader, asked, chooser, stream, takes_seen, words_of
from vtx_keras.models.blocks import Block
from vtx_keras.models.language import Adapter
from vtx_keras.models.layers import register


@register
class Captioner(VisionText):
    """A left-to-right decoder over an image or clip."""

    @takes_seen
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
        **rules: Any,
    ) -> list[str]:
        """Return captions: a list of strings, one per image (or clip), each beginning with `prompt` if one is given.

        `images` is a path, bytes, a PIL image or an array (0–255), or a list of these. `beams` above 1 searches;
        `sampler` "random", "top_k" or "top_p" samples instead, reproducibly when `seed` is given. If an image cannot be
        read, the error holds the results of the others (`media.BadItems`); `on_error="none"` returns None for it.
        A published model takes rules of its authors' search: see docs/checkpoints.md.

        >>> from vtx_keras import zoo
        >>> model = zoo.build("cross_attn_captioner", weights=None, dim=32, image_shape=(32, 32, 3))
        >>> len(model.generate(np.zeros((2, 32, 32, 3)), prompt="a", max_length=4))
        2
        """
        media.check_on_error(on_error)
        sampling = decode.sampling(sampler, beams, top_k, top_p, temperature, seed)
        length, rules = self.check_length(max_length), self.check_rules(rules)
        pixels, good, errors = self.prepare(images)
        total = len(good) + len(errors)
        inputs = {"image": pixels, "prompt": self.prompts(prompt, total, length)[good]}
        if sampler != "greedy":
            seed = random.SystemRandom().randrange(2**32) if seed is None else seed
            inputs["noise"] = np.random.default_rng(seed).random((total, length), "float32")[good]
            # As inputs, not constants, so that other values need no other compiled function.
            options = {"top_p": sampling["top_p"], "temperature": sampling["temperature"]}
            inputs |= {name: np.full((len(good), 1, 1), value, "float32") for name, value in options.items() if value}
        if not good:
            return media.settle([], good, errors, total, on_error)
        settings = {"beams": int(beams), "length": length, "top_k": sampling["top_k"], **rules}
        ids = self.written(inputs, settings, batch_size)
        return media.settle(text.decode(ids, self.vocabulary), good, errors, total, on_error)

    def stream(
        self,
        image: Any,
        prompt: str | None = None,
        *,
        sampler: str = "greedy",
        top_k: int | None = None,
        top_p: float | None = None,
        temperature: float | None = None,
        max_length: int | None = None,
        seed: int | None = None,
    ) -> Iterator[str]:
        """Yield the caption of one picture word by word, as they come; joined, they are what `generate` returns.

        >>> from vtx_keras import zoo
        >>> model = zoo.build("cross_attn_captioner", weights=None, dim=32, image_shape=(32, 32, 3))
        >>> black = np.zeros((32, 32, 3))
        >>> "".join(model.stream(black, max_length=4)) == model.generate(black, max_length=4)[0]
        True
        """
        how = decode.sampling(sampler, 1, top_k, top_p, temperature, seed)
        length = self.check_length(max_length)
        seed = random.SystemRandom().randrange(2**32) if seed is None else seed
        given = [int(one) for one in self.prompts(prompt, 1, length)[0] if one]
        if len(given) == length:  # nothing is left to write
            return words_of([], self.vocabulary, given)
        reader, choose = Reader(self, image), chooser(seed, length, len(given), how)
        ids = stream(reader, [text.START, *given], length - len(given), choose)
        return words_of(ids, self.vocabulary, given)

    def chat(self, image: Any, system: str | None = None) -> Chat:
        """Begin a conversation about a picture, which is encoded once: `chat.ask(text)`, `chat.history`.

        chat = model.chat("photo.jpg")     # a captioner with text_decoder="smollm2_135m", say
        chat.ask("What is it?")            # or: for word in chat.stream("What is it?"): …
        """
        return Chat(self, image, system)

    @takes_seen
    def answer(
        self, images: Any, questions: str | Sequence[str], *, max_length: int = 32, on_error: str = "raise"
    ) -> list[str | None]:
        """Return the answer of a language model to each question about its picture, each a conversation of its own.

        One picture may be asked many questions, and one question be asked of many pictures.
        """
        media.check_on_error(on_error)
        questions = [questions] if isinstance(questions, (str, bytes)) else list(questions)
        inputs, good, errors, total = paired(self, images, {"at": np.arange(len(questions))[:, None]})
        answers = asked(self, inputs["image"], [questions[at] for at in inputs["at"][:, 0]], max_length)
        errors |= {place: str(one) for place, one in zip(good, answers, strict=True) if isinstance(one, ValueError)}
        kept = [(place, one) for place, one in zip(good, answers, strict=True) if place not in errors]
        return media.settle([one for _, one in kept], [place for place, _ in kept], errors, total, on_error)

    @property
    def context(self) -> int:
        """How many tokens of a text the model can read."""
        positions = self.get_layer("positions").grid[0] if self.has_layer("positions") else 0
        return positions or self.options["text_decoder"]["context"]

    def written(self, inputs: dict[str, np.ndarray], settings: dict[str, Any], batch_size: int) -> np.ndarray:
        """Return the ids that `generate` writes, prompts included, from its inputs and settings."""
        key = ("generate", self.run_eagerly, *settings.items(), *inputs)
        run = self.cached(key, lambda: decode.Generate(self, settings))
        return self.in_batches(run, inputs, batch_size)[0]

    @takes_seen
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
        **rules: Any,
    ) -> tuple[Any, Any]:
        """Return (ids, scores): token ids (batch, max_length), 0-padded, and their length-normalized log-probability.

        Pure `keras.ops`: it compiles in `tf.function(jit_compile=True)` and `jax.jit`, and converts to LiteRT and
        ONNX. `images` is a float batch of 0–255 at the model's size, `prompt_ids` (batch, n) is 0-padded; a single row
        serves all images. Sampling uses `noise` (batch, max_length) in [0, 1), or draws it from `seed` with the
        backend's own generator (so samples differ from those of `generate`); inside `jax.jit` pass one of the two.
        """
        sampling = decode.sampling(sampler, beams, top_k, top_p, temperature, seed)
        length = self.check_length(max_length)
        images = ops.convert_to_tensor(images, "float32")
        draw = None
        if sampler != "greedy":
            if noise is None:
                noise = keras.random.uniform((ops.shape(images)[0], length), seed=seed)
            draw = decode.make_draw(noise, **{name: sampling[name] for name in ("top_k", "top_p", "temperature")})
        settings = {"beams": int(beams), "length_penalty": length_penalty, **self.check_rules(rules)}
        return self.search(images, prompt_ids, draw, length=length, **settings)

    @takes_seen
    def likelihood(
        self, images: Any, texts: str | Sequence[str], *, batch_size: int = 32, on_error: str = "raise"
    ) -> list[float]:
        """Return, per pair, the log-probability of the text, given the image: of two images, it tells the higher one.

        One image may be paired with many texts, and one text with many images. Words outside the vocabulary do not
        count. Longer texts are less likely, so compare images of one text, or texts with what they have elsewhere.

        >>> from vtx_keras import zoo
        >>> model = zoo.build("cross_attn_captioner", weights=None, dim=32, image_shape=(32, 32, 3))
        >>> len(model.likelihood(np.zeros((2, 32, 32, 3)), "a cat"))
        2
        """
        media.check_on_error(on_error)
        ids = self.tokens_of(texts, self.options["max_length"] + 1, end=True)
        inputs, good, errors, total = paired(self, images, {"ids": ids})
        run = self.cached(("likelihood", self.run_eagerly), lambda: decode.Likelihood(self))
        sums = self.in_batches(run, inputs, batch_size) if good else np.zeros(0)
        return media.settle([float(one) for one in sums], good, errors, total, on_error)

    def search(
        self, images: Any, prompt_ids: Any, draw: Any, *, length: int, beams: int, **settings: Any
    ) -> tuple[Any, Any]:
        """Run `generate_ids` with checked arguments; `draw` comes from `decode.make_draw`, or is None."""
        prompt = self.padded_prompt(ops.shape(images)[0], length, prompt_ids)
        step, cache = self.decoder(images, length, beams)
        return self.find(step, cache, prompt, length=length, beams=beams, draw=draw, **settings)

    def check_rules(self, rules: dict[str, Any]) -> dict[str, Any]:
        """Raise TypeError for rules of search: only a published model has some."""
        if rules:
            raise TypeError(f"generate() got {', '.join(rules)}: only a published model takes rules of its search")
        return rules

    def find(self, step: Callable, cache: Any, prompt: Any, **settings: Any) -> tuple[Any, Any]:
        """Search for the likeliest caption, given the step form of the graph; a published model has its own rules."""
        return decode.search(step, cache, prompt, **settings)

    def decoder(self, images: Any, length: int, beams: int) -> tuple[Callable, Any]:
        """Return the step form of the graph for these images, and its empty cache."""
        cache = [block.empty_cache(ops.shape(images)[0], length, beams) for block in self.blocks]
        features = self.get_layer("image_encoder")(images) if self.has_layer("image_encoder") else images
        return self.make_step(self.image_states(features)), cache

    @property
    def blocks(self) -> list:
        """The blocks of the decoder, and what stands between those of a language model, in order."""
        return [layer for layer in self.layers if isinstance(layer, (Block, Adapter))]

    def image_states(self, features: Any) -> list:
        """Return what the step of each block needs of the image, from the image encoder's features."""
        vision, states = self.vision_tokens(features), []
        for block in self.blocks:
            state, vision = block.begin(vision)
            states.append(state)
        return states

    def make_step(self, states: list) -> Callable:
        """Return the `step` for `decode.search`, given the `image_states`."""

        def step(tokens: Any, index: Any, cache: list, now: Any, visible: Any) -> tuple[Any, list]:
            x, next_cache = self.embedded(tokens, index), []  # (batch, beams, dim)
            for block, block_cache, state in zip(self.blocks, cache, states, strict=True):
                x, block_cache = block.step(x, block_cache, now, visible, state)
                next_cache.append(block_cache)
            return finish(x), next_cache  # (batch, beams, vocabulary)

        finish = self.word_logits()
        return step

    def word_logits(self) -> Callable:
        """Return the function from tokens after the last block to logits; its matrix is computed once, not per step."""
        words, norm = self.get_layer("words"), self.get_layer("norm")
        # The output head is the transposed word table, or a matrix of its own.
        own = self.get_layer("word_head").kernel if self.has_layer("word_head") else ops.transpose(words.embeddings)
        head = ops.cast(own, "float32")  # (dim, vocabulary)
        bias = self.get_layer("word_bias") if self.has_layer("word_bias") else None

        def finish(x: Any) -> Any:
            logits = ops.matmul(ops.cast(norm(x), "float32"), head)
            return bias(logits) if bias else logits

        return finish

    def embedded(self, tokens: Any, index: Any) -> Any:
        """Return words (batch, n, dim) that stand at places `index` of a text: one for all, or one for each."""
        x = self.get_layer("words")(tokens)
        x = self.get_layer("word_scale")(x) if self.has_layer("word_scale") else x
        return self.get_layer("positions").step(x, index) if self.has_layer("positions") else x

    def check_length(self, max_length: int | None) -> int:
        """Return `max_length` if the model can write so many tokens; by default, as many as it can."""
        most = self.options["max_length"]
        if max_length is None:
            return most
        if not decode.whole_number(max_length) or not 1 <= max_length <= most:
            raise ValueError(
                f"max_length={max_length!r}: expected a whole number from 1 to {most}, the length the model was built "
                "for. For longer texts build it with a greater max_length."
            )
        return int(max_length)

    def padded_prompt(self, rows: Any, length: int, prompt_ids: Any = None) -> Any:
        """Return the prompts as (rows, length), 0-padded; `rows` may be a tensor."""
        empty = ops.zeros((rows, length), "int32")
        if prompt_ids is None:
            return empty
        prompt_ids = ops.cast(prompt_ids, "int32")[:, :length]
        if isinstance(rows, int) and prompt_ids.shape[0] not in (None, 1, rows):
            raise ValueError(f"{prompt_ids.shape[0]} rows of prompt_ids for {rows} pictures: give one, or one for each")
        return empty + ops.pad(prompt_ids, [[0, 0], [0, length - prompt_ids.shape[1]]])

    def prompts(self, prompt: str | Sequence[str] | None, total: int, length: int) -> np.ndarray:
        """Return prompts as ids (total, length), 0-padded, from one prompt for all images or one for each."""
        if prompt is None:
            return np.zeros((total, length), "int32")
        prompts = [prompt] * total if isinstance(prompt, (str, bytes)) else list(prompt)
        if len(prompts) != total:
            raise ValueError(f"{len(prompts)} prompts for {total} pictures: give one for all, or one for each")
        ids = text.encode(prompts, self.vocabulary, length, allow_empty=True)
        if (ids == text.UNK).any():
            row = int((ids == text.UNK).any(axis=1).argmax())
            warnings.warn(f"prompt {prompts[row]!r} has words outside the vocabulary: they are left out", stacklevel=3)
        return ids


@register
class Answerer(PairModel):
    """Classifies an image and a text together: answers to questions, or labels."""

    @property
    def class_names(self) -> list[str]:
        classes = self.options["classes"]
        return [str(i) for i in range(classes)] if isinstance(classes, int) else list(classes)

    @takes_seen
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

    @takes_seen
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

    @takes_seen
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
        name, first = {"image": ("image", "vision"), "text": ("tokens", "spec")}[modality]

        def make() -> keras.Model:
            output = self.get_layer(f"{modality}_embedding").output
            if self.has_layer("image_encoder"):
                tower = graph({name: self.input[name]}, output, modality)
            else:
                tower = cut(self, {name: self.get_layer(first).input}, output, name=modality)
            tower.run_eagerly = self.run_eagerly
            return tower

        return self.cached((modality, self.run_eagerly), make)
