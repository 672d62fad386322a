"""The base class of all models: what a model was built from, freezing, LoRA, compiled helpers.

The class adds only methods to `keras.Model`: `summary`, `fit`, `save` and `.keras` work as in Keras.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from vtx_keras._compat import freeze_kernel, history_of, restore_history, sublayers, train_additions
from vtx_keras.inputs import media
from vtx_keras.inputs.text import Vocabulary
from vtx_keras.models._chat import Seen, look
from vtx_keras.models.blocks import Block
from vtx_keras.models.decode import run_in_batches
from vtx_keras.models.language import is_language
from vtx_keras.models.layers import Composite, register

MAX_CACHED = 16  # helper models kept per model
EAGER_IMAGES = 16  # up to so many images, TensorFlow runs a helper faster than it traces it


@register
class Spec(keras.layers.Layer):
    """Returns its input, and stores what the model was built from (name, options, vocabulary) in its config.

    The config is saved inside `.keras`, so a loaded model can tokenize, resize and decode by itself.
    """

    def __init__(self, spec: dict, **kwargs: Any):
        super().__init__(**kwargs)
        self.spec = spec

    def call(self, tokens: Any) -> Any:
        return tokens

    def get_config(self) -> dict:
        return {**super().get_config(), "spec": self.spec}


class VisionText(keras.Model):
    """A model of the zoo: what it was built from, how it is compiled and frozen, and its helper models."""

    @property
    def spec(self) -> dict:
        """Name, options and vocabulary that the model was built from."""
        return self.get_layer("spec").spec

    @property
    def options(self) -> dict:
        return self.spec["overrides"]

    @property
    def vocabulary(self) -> Vocabulary:
        return Vocabulary(self.spec["vocabulary"], rule=self.spec.get("rule"))

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(h, w, 3), or (frames, h, w, 3) for a video model."""
        return tuple(self.input["image"].shape[1:])

    def compile(
        self,
        optimizer: Any = "rmsprop",
        *args: Any,
        jit_compile: bool | str = "auto",
        auto_scale_loss: bool = True,
        **kwargs: Any,
    ) -> None:
        """Compile as Keras does, drop the cached helpers, and scale the loss under mixed_float16.

        Keras decides about scaling by the container's policy, which is always float32 (see `layers.graph`).
        """
        self.__dict__.pop("_helpers", None)
        optimizer, scaled = keras.optimizers.get(optimizer), keras.optimizers.LossScaleOptimizer
        needs_scaling = self.spec["dtype"] == "mixed_float16" and optimizer is not None
        if auto_scale_loss and needs_scaling and not isinstance(optimizer, scaled):
            optimizer = scaled(optimizer)
        super().compile(optimizer, *args, jit_compile=jit_compile, auto_scale_loss=auto_scale_loss, **kwargs)
        self._requested_jit = jit_compile

    def get_compile_config(self) -> dict:
        """Return Keras' config with the requested `jit_compile`, not the one resolved on this machine.

        Otherwise a file from a CPU would train without XLA on a GPU, and one from TensorFlow uncompiled on JAX.
        """
        config = super().get_compile_config()
        return {**config, "jit_compile": self._requested_jit} if config else config

    def compile_from_config(self, config: dict) -> None:
        """Compile from a saved config; Keras requires this method of a class that overrides `compile`."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.optimizer is not None and self.built:
            self.optimizer.build(self.trainable_variables)

    def make_train_function(self, force: bool = False) -> Any:
        """Build the optimizer first: otherwise TensorFlow traces one step to build it, and then another to train."""
        if self.optimizer is not None and not self.optimizer.built:
            self.optimizer.build(self.trainable_variables)
        return super().make_train_function(force)

    def freeze(self, *parts: str, frozen: bool = True, but_last: int = 0) -> None:
        """Stop (or with `frozen=False` resume) training the "image" or "text" encoder, or a language model's "words".

        The model is compiled again. The last `but_last` layers stay trainable: freeze all, train, freeze all but the
        last few, train at a lower rate. A transformer block counts as one layer.

        >>> from vtx_keras import zoo
        >>> model = zoo.build("gated_vqa", weights=None, dim=32, image_shape=(32, 32, 3))
        >>> model.freeze("image")
        >>> model.get_layer("image_encoder").trainable
        False
        """
        for part in parts:
            of_part = self.layers_of(part)
            for layer in of_part:
                layer.trainable = not frozen or but_last > 0
            layers = [one for layer in of_part for one in leaves(layer, stop_at=Composite) if one.weights]
            for index, layer in enumerate(layers):
                layer.trainable = not frozen or index >= len(layers) - but_last
            for leaf in (leaf for layer in of_part for leaf in leaves(layer)):
                if getattr(leaf, "lora_enabled", False):
                    freeze_kernel(leaf)
                    train_additions(leaf)  # in any case
        self.compile_again()

    def layers_of(self, part: str) -> list:
        """Return the layers of the "image" or "text" encoder, or of a language model ("words"), as `freeze` names them.

        "fusion" are all others: what stands between image and words.
        """
        encoders = {
            name: [self.get_layer(f"{name}_encoder")] for name in ("image", "text") if self.has_layer(f"{name}_encoder")
        }
        if self.has_layer("discriminator"):
            encoders["discriminator"] = [self.get_layer("discriminator")]
        if isinstance(self.options.get("text_decoder"), dict):
            encoders["words"] = [layer for layer in self.layers if is_language(layer.name) and layer.weights]
        if part == "fusion":
            taken = [layer for known in encoders.values() for layer in known]
            return [layer for layer in self.layers if layer.weights and layer not in taken]
        if part not in encoders:
            raise ValueError(f"freeze({part!r}): this model's parts are {', '.join(map(repr, encoders)) or 'none'}")
        return encoders[part]

    def compile_again(self) -> None:
        """Compile with the same arguments, so that changes to the layers take effect."""
        if self.compiled:
            try:
                self.compile_from_config(self.get_compile_config())
            except (TypeError, ValueError):  # Keras cannot serialize unregistered functions
                warnings.warn("compile the model again, so that the change takes effect", stacklevel=3)

    def enable_lora(self, rank: int = 8) -> None:
        """Train low-rank additions to the matrices of the fusion and text blocks, not the matrices themselves (LoRA).

        All other weights stay as `freeze` left them. `merged()` returns a model without additions; saving merges them.

        >>> from vtx_keras import zoo
        >>> model = zoo.build("cross_attn_vqa", weights=None, dim=32, image_shape=(32, 32, 3))
        >>> before = len(model.trainable_variables)
        >>> model.enable_lora(4)
        >>> len(model.trainable_variables) > before
        True
        """
        blocks = [layer for layer in self.layers if isinstance(layer, Block)]
        blocks += [self.get_layer("text_encoder")] if self.has_layer("text_encoder") else []
        dense = [layer for block in blocks for layer in leaves(block) if isinstance(layer, keras.layers.Dense)]
        if not dense:
            raise ValueError(f"a {self.name} has no fusion or text block for LoRA")
        for layer in dense:
            layer.enable_lora(rank)
            train_additions(layer)  # of frozen layers, too
        self.compile_again()

    def merged(self) -> VisionText:
        """Return a copy whose matrices include the LoRA additions.

        >>> from vtx_keras import zoo
        >>> model = zoo.build("cross_attn_vqa", weights=None, dim=32, image_shape=(32, 32, 3))
        >>> model.enable_lora(4)
        >>> model.merged().count_params() < model.count_params()
        True
        """
        copy = type(self).from_config(self.get_config())
        for source, target in zip(leaves(self), leaves(copy), strict=True):
            if getattr(source, "lora_enabled", False):
                target.kernel.assign(source.kernel)  # matrix plus additions
                if source.bias is not None:
                    target.bias.assign(source.bias)
            else:
                for weight, copied in zip(source.weights, target.weights, strict=True):
                    copied.assign(weight)
        if self.compiled:
            copy.compile_from_config(self.get_compile_config())
        return copy

    def behind_encoder(self, told: bool = False) -> VisionText:
        """Return a model of the same layers without the image encoder, compiled alike; its "image" is features.

        The layers are shared, so training it trains this model. `data.features` computes the features once. With
        `told`, for a model with concepts, it has one more input "seen": what `Concepts` would return.

        >>> from vtx_keras import zoo
        >>> model = zoo.build("gated_vqa", weights=None, dim=32, image_shape=(32, 32, 3))
        >>> model.behind_encoder().image_shape
        (2, 2, 32)
        """
        inputs = {**self.input, "image": self.get_layer("vision").input}
        if told:
            inputs["seen"] = self.get_layer("concepts").output
        behind = cut(self, inputs, self.output, type(self), self.name)
        if self.compiled:
            behind.compile_from_config(self.get_compile_config())
        return behind

    def save(self, filepath: Any, *args: Any, **kwargs: Any) -> Any:
        """Save as Keras does; refuse a model without its image encoder."""
        self.check_whole()
        return super().save(filepath, *args, **kwargs)

    def check_whole(self) -> None:
        """Raise ValueError for the result of `behind_encoder`, which could not be loaded."""
        if not (self.has_layer("image_encoder") or self.has_layer("discriminator")):
            raise ValueError(
                "this model has no image encoder: save the model that behind_encoder() was called on, which shares "
                "these weights, or save only the weights with save_weights"
            )

    def quantize(self, *args: Any, **kwargs: Any) -> None:
        """Raise ValueError: models are quantized at export, not in place."""
        raise ValueError('a model is quantized at export, not in place: export.litert(model, path, quantize="int8")')

    def has_layer(self, name: str) -> bool:
        return any(layer.name == name for layer in self.layers)

    def vision_tokens(self, features: Any) -> Any:
        """Return the tokens (batch, tokens, dim) that the fusion reads, from the image encoder's features."""
        vision = self.get_layer("vision")(features)
        vision = self.get_layer("fewer")(vision) if self.has_layer("fewer") else vision
        if self.has_layer("concepts"):
            seen, ids = self.get_layer("concepts")(features), self.has_layer("concept_ids")
            named = [self.get_layer("words")(self.get_layer("concept_ids")(seen))] if ids else []
            vision = self.get_layer("with_concepts")(vision, seen, *named)
        return self.get_layer("image_words")(vision) if self.has_layer("image_words") else vision

    def prepare(self, images: Any) -> tuple[np.ndarray, list[int], dict[int, str]]:
        """Turn images or clips into a batch at the model's size; return it, the indices in it, and errors by index.

        A model behind its encoder reads features as they are.
        """
        if not self.has_layer("image_encoder"):
            features = np.asarray(images, "float32")
            features = features[None] if features.ndim == len(self.image_shape) else features
            if features.shape[1:] != self.image_shape:
                wanted = ", ".join(map(str, self.image_shape))
                raise ValueError(f"features {features.shape}: expected (pictures, {wanted})")
            return features, list(range(len(features))), {}
        return media.batch(images, self.image_shape, self.options["resize"])

    def look(self, images: Any, *, batch_size: int = 32) -> Seen:
        """Return what the image encoder sees in images, which all methods take in place of the images.

        The latest pictures are kept: to look at one again costs little, until the encoder changes.

        >>> from vtx_keras import zoo
        >>> model = zoo.build("gated_captioner", weights=None, dim=32, depth=1, image_shape=(32, 32, 3))
        >>> seen = model.look(np.zeros((1, 32, 32, 3)))
        >>> model.generate(seen, max_length=4) == model.generate(np.zeros((1, 32, 32, 3)), max_length=4)
        True
        """
        return look(self, images, batch_size)

    def tokens_of(
        self, texts: str | bytes | Sequence[str | bytes], length: int | None = None, **kwargs: Any
    ) -> np.ndarray:
        """Return texts as ids: a start token, the pieces and, where a published model reads one, an end token."""
        if texts is None:
            raise TypeError("texts is None: expected a text, or a list of them")
        texts = [texts] if isinstance(texts, (str, bytes)) else list(texts)
        if not texts:
            raise ValueError("there are no texts: expected at least one")
        vocabulary = self.vocabulary
        how = {"end": vocabulary.ends, **kwargs}
        return vocabulary.encode(texts, length or self.options["max_length"], start=True, **how)

    def in_batches(self, run: keras.Model, inputs: dict[str, np.ndarray], batch_size: int) -> Any:
        """Return `run.predict_on_batch` of the inputs, computed `batch_size` rows at a time."""
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}: expected at least 1")
        return run_in_batches(run.predict_on_batch, inputs, batch_size)

    def cached(self, key: Any, make: Callable[[], keras.Model]) -> keras.Model:
        """Return the helper model of `key`, made once. Keras does not see it: it contains this model, not the reverse.

        Only the latest keys are kept, for instance of the lengths that a server is asked for.
        """
        models = self.__dict__.setdefault("_helpers", _Helpers()).models
        helper = models.get(key)
        if helper is None:
            helper = models.setdefault(key, make())
            for old in list(models)[:-MAX_CACHED]:
                models.pop(old, None)
        return helper


def paired(
    model: VisionText, images: Any, texts: dict[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], list[int], dict[int, str], int]:
    """Return inputs of the pairs with a valid image, their indices, errors by index, and the number of pairs."""
    ((name, tokens),) = texts.items()
    pixels, good, errors = model.prepare(images)
    pictures = len(good) + len(errors)
    total = max(pictures, len(tokens))
    if pictures not in (1, total) or len(tokens) not in (1, total):
        raise ValueError(f"{pictures} pictures and {len(tokens)} texts: expected equally many, or one of either")
    if pictures == 1 and total > 1:
        good, errors = (list(range(total)), {}) if good else ([], dict.fromkeys(range(total), errors[0]))
        pixels = np.broadcast_to(pixels, (len(good), *pixels.shape[1:]))
    tokens = np.broadcast_to(tokens, (total, tokens.shape[1]))[good]
    return {"image": pixels, name: tokens}, good, errors, total


class PairModel(VisionText):
    """A model from pairs of image and text to logits."""

    def logits(
        self, images: Any, texts: Any, batch_size: int, *, allow_empty: bool = False
    ) -> tuple[np.ndarray, list[int], dict[int, str], int]:
        """Return logits of the pairs with a valid image, their indices, errors by index, and the number of pairs.

        One image may be paired with many texts, and one text with many images. With `allow_empty`, None is no image.
        """
        tokens = self.tokens_of(texts, allow_empty=allow_empty)
        images = media.or_white(images, len(self.image_shape)) if allow_empty else images
        inputs, good, errors, total = paired(self, images, {"tokens": tokens})
        if not good:
            return np.zeros((0, 1), "float32"), good, errors, total
        outputs = self.in_batches(self, inputs, batch_size)
        return (outputs["logits"] if isinstance(outputs, dict) else outputs), good, errors, total


def graph(inputs: Any, outputs: Any, name: str, kind: type = keras.Model) -> Any:
    """Build a functional model whose own dtype policy is float32: the policies of its layers decide the precision.

    Keras does not save a container's policy, so a model loaded under another global policy would round its images.
    """
    model = kind(inputs, outputs, name=name)
    model.dtype_policy = "float32"
    return model


def cut(model: keras.Model, inputs: dict, outputs: Any, kind: type = keras.Model, name: str = "part") -> Any:
    """Return the part of a model's graph from `inputs`, possibly intermediate tensors, to `outputs`; layers are shared.

    Keras then overwrites the history of the model's inputs; unless it is restored, the model cannot be saved.

    >>> x = keras.Input((2,), name="x")
    >>> middle = keras.layers.Dense(3, name="first")(x)
    >>> model = keras.Model({"x": x}, keras.layers.Dense(1)(middle))
    >>> cut(model, {"middle": middle}, model.output, name="rest").output_shape
    (None, 1)
    """
    history = history_of(keras.tree.flatten(model.input))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the names of inputs and their keys differ
            return graph(inputs, outputs, name, kind)
    finally:
        restore_history(history)


def eager_is_faster(count: int) -> bool:
    """Return whether `count` images run faster than TensorFlow traces a function for them; JAX always compiles."""
    return count <= EAGER_IMAGES and keras.backend.backend() == "tensorflow"


def leaves(layer: Any, stop_at: Any = ()) -> list:
    """Return the layers inside that contain no others, in order; layers of the class `stop_at` count as leaves.

    >>> pair = keras.Sequential([keras.layers.Dense(1, name="a"), keras.layers.ReLU(name="b")])
    >>> [layer.name for layer in leaves(pair)]
    ['a', 'b']
    """
    inner = sublayers(layer)
    if not inner or isinstance(layer, stop_at):
        return [layer]
    return [leaf for child in inner for leaf in leaves(child, stop_at)]


class _Helpers:
    """A container that Keras neither tracks nor saves."""

    def __init__(self) -> None:
        self.models: dict = {}
