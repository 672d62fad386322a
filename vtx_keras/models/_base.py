"""What all models of the zoo have in common: what they were built from, freezing, low-rank additions, helpers.

The class adds methods and nothing else, so `summary`, `fit`, `save` and `.keras` are Keras' own.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from vtx_keras._compat import freeze_kernel, sublayers
from vtx_keras.inputs import media
from vtx_keras.inputs.text import Vocabulary
from vtx_keras.models.layers import Block, Composite, cut

MOST_KEPT = 16  # helpers of a model
FEW = 16  # pictures


class VisionText(keras.Model):
    """The common part: what the model was built from, its compiled functions, freezing."""

    @property
    def spec(self) -> dict:
        """Name, options and vocabulary, as built."""
        return self.get_layer("spec").spec

    @property
    def options(self) -> dict:
        return self.spec["overrides"]

    @property
    def vocabulary(self) -> Vocabulary:
        return Vocabulary(self.spec["vocabulary"])

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
        """Keras' own. Helpers are traced anew, and gradients of mixed_float16 are scaled.

        Keras would ask the container's policy whether to scale, which is always float32 (see `layers.graph`).
        """
        self.__dict__.pop("_kept", None)
        optimizer, scaled = keras.optimizers.get(optimizer), keras.optimizers.LossScaleOptimizer
        small = self.spec["dtype"] == "mixed_float16" and optimizer is not None
        if auto_scale_loss and small and not isinstance(optimizer, scaled):
            optimizer = scaled(optimizer)
        super().compile(optimizer, *args, jit_compile=jit_compile, auto_scale_loss=auto_scale_loss, **kwargs)
        self._jit_asked = jit_compile

    def get_compile_config(self) -> dict:
        """Keras' own, with "auto" where it was asked: Keras keeps what that was worth on the machine that saved.

        A file from a CPU would train without XLA on a GPU, and one from TensorFlow step by step on JAX.
        """
        config = super().get_compile_config()
        return {**config, "jit_compile": self._jit_asked} if config else config

    def compile_from_config(self, config: dict) -> None:
        """Keras' own, which a class with a `compile` of its own must say again."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.optimizer is not None and self.built:
            self.optimizer.build(self.trainable_variables)

    def make_train_function(self, force: bool = False) -> Any:
        """Keras' own, once the optimizer has its variables.

        TensorFlow would trace a first step to make them and then another, twice the time until `fit` begins.
        """
        if self.optimizer is not None and not self.optimizer.built:
            self.optimizer.build(self.trainable_variables)
        return super().make_train_function(force)

    def freeze(self, *parts: str, frozen: bool = True, but_last: int = 0) -> None:
        """Stop (or with `frozen=False` resume) training the "image" or the "text" encoder, and compile again.

        `but_last` layers at its end go on learning: freeze all, train, freeze all but the last few, train slower. A
        transformer block is one layer.

        >>> from vtx_keras import zoo
        >>> model = zoo.build("gated_vqa", weights=None, dim=32, image_shape=(32, 32, 3))
        >>> model.freeze("image")
        >>> model.get_layer("image_encoder").trainable
        False
        """
        for part in parts:
            if part not in ("image", "text") or not self.has_layer(f"{part}_encoder"):
                have = [known for known in ("image", "text") if self.has_layer(f"{known}_encoder")]
                raise ValueError(f"freeze({part!r}): this model's encoders are {', '.join(map(repr, have))}")
            encoder = self.get_layer(f"{part}_encoder")
            encoder.trainable = not frozen or but_last > 0
            layers = [layer for layer in leaves(encoder, whole=Composite) if layer.weights]
            for place, layer in enumerate(layers):
                layer.trainable = not frozen or place >= len(layers) - but_last
            for layer in leaves(encoder):
                if getattr(layer, "lora_enabled", False):
                    freeze_kernel(layer)  # its additions learn, whatever becomes of the layer
        self.compile_again()

    def compile_again(self) -> None:
        """Compile as before, so that what changed about the layers takes effect."""
        if self.compiled:
            try:
                self.compile_from_config(self.get_compile_config())
            except (TypeError, ValueError):  # Keras cannot repeat a compile with functions it does not know
                warnings.warn("compile the model again, so that the change takes effect", stacklevel=3)

    def enable_lora(self, rank: int = 8) -> None:
        """Learn low-rank additions to the matrices of the fusion and text blocks in place of the matrices (LoRA).

        Both encoders' own weights and the rest stay as `freeze` left them. `merged()` gives a model without additions;
        saving merges by itself.

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
        self.compile_again()

    def merged(self) -> VisionText:
        """A copy whose matrices hold what LoRA added to them.

        >>> from vtx_keras import zoo
        >>> model = zoo.build("cross_attn_vqa", weights=None, dim=32, image_shape=(32, 32, 3))
        >>> model.enable_lora(4)
        >>> model.merged().count_params() < model.count_params()
        True
        """
        copy = type(self).from_config(self.get_config())
        for ours, theirs in zip(leaves(self), leaves(copy), strict=True):
            if getattr(ours, "lora_enabled", False):
                theirs.kernel.assign(ours.kernel)  # the sum
                if ours.bias is not None:
                    theirs.bias.assign(ours.bias)
            else:
                for one, other in zip(ours.weights, theirs.weights, strict=True):
                    other.assign(one)
        if self.compiled:
            copy.compile_from_config(self.get_compile_config())
        return copy

    def behind_encoder(self) -> VisionText:
        """The same layers without the image encoder, compiled alike; it reads features where this model reads pictures.

        What it learns this model knows, for the layers are shared. `data.features` makes the features once.

        >>> from vtx_keras import zoo
        >>> model = zoo.build("gated_vqa", weights=None, dim=32, image_shape=(32, 32, 3))
        >>> model.behind_encoder().image_shape
        (2, 2, 32)
        """
        inputs = {**self.input, "image": self.get_layer("vision").input}
        behind = cut(self, inputs, self.output, type(self), self.name)
        if self.compiled:
            behind.compile_from_config(self.get_compile_config())
        return behind

    def save(self, filepath: Any, *args: Any, **kwargs: Any) -> Any:
        """Keras' own, of a whole model."""
        self.check_whole()
        return super().save(filepath, *args, **kwargs)

    def check_whole(self) -> None:
        """Refuses what lies behind an encoder, which nobody could load."""
        if not self.has_layer("image_encoder"):
            raise ValueError(
                "this is the part behind the image encoder: save the model that it was cut from, which has learned the "
                "same, or with save_weights the weights alone"
            )

    def quantize(self, *args: Any, **kwargs: Any) -> None:
        """Not in place: files are made smaller when they are exported."""
        raise ValueError('a model here stays as precise as it was trained: export.litert(model, path, quantize="int8")')

    def has_layer(self, name: str) -> bool:
        return any(layer.name == name for layer in self.layers)

    def prepare(self, images: Any) -> tuple[np.ndarray, list[int], dict[int, str]]:
        """Pictures or clips to a batch at the model's size; which items are in it, and what ails the others."""
        return media.batch(images, self.image_shape, self.options["resize"])

    def tokens_of(self, texts: str | bytes | Sequence[str | bytes], **kwargs: Any) -> np.ndarray:
        """Texts as ids: a start token, then the pieces."""
        texts = [texts] if isinstance(texts, (str, bytes)) else list(texts)
        if not texts:
            raise ValueError("there are no texts: expected at least one")
        return self.vocabulary.encode(texts, self.options["max_length"], start=True, **kwargs)

    def in_batches(self, run: keras.Model, inputs: dict[str, np.ndarray], batch_size: int) -> Any:
        """`run.predict_on_batch` of the inputs, `batch_size` rows at a time."""
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}: expected at least 1")
        return in_pieces(run.predict_on_batch, inputs, batch_size)

    def kept(self, key: Any, make: Callable[[], keras.Model]) -> keras.Model:
        """A helper model made once per `key`, out of Keras' sight: it holds this model and must not be saved in it.

        Of many keys, such as lengths that a server is asked for, the latest are kept.
        """
        keep = self.__dict__.setdefault("_kept", _Kept()).models
        found = keep.get(key)
        if found is None:
            found = keep.setdefault(key, make())
            for old in list(keep)[:-MOST_KEPT]:
                keep.pop(old, None)
        return found


def soon_seen(count: int) -> bool:
    """Whether so few pictures are looked at before TensorFlow would have traced how; JAX compiles in any case."""
    return count <= FEW and keras.backend.backend() == "tensorflow"


def in_pieces(run: Callable[[Any], Any], inputs: Any, size: int) -> Any:
    """What `run` says of arrays, in pieces of one shape, so that it is traced once: a short last piece is filled up.

    >>> in_pieces(lambda x: {"sum": x.sum(axis=1)}, np.ones((5, 3)), 2)
    {'sum': array([3., 3., 3., 3., 3.])}
    """
    total = len(keras.tree.flatten(inputs)[0])
    size, results = min(size, total), []
    for start in range(0, total, size):
        rows = np.minimum(np.arange(start, start + size), total - 1)
        results.append(run(keras.tree.map_structure(lambda array, rows=rows: array[rows], inputs)))
    return keras.tree.map_structure(lambda *parts: np.concatenate(parts)[:total], *results)


def leaves(layer: Any, whole: Any = ()) -> list:
    """All layers inside that hold no others, in order; those of the kind `whole` are not looked into.

    >>> pair = keras.Sequential([keras.layers.Dense(1, name="a"), keras.layers.ReLU(name="b")])
    >>> [layer.name for layer in leaves(pair)]
    ['a', 'b']
    """
    inner = sublayers(layer)
    return [leaf for one in inner for leaf in leaves(one, whole)] if inner and not isinstance(layer, whole) else [layer]


class _Kept:
    """A box that Keras neither tracks nor saves."""

    def __init__(self) -> None:
        self.models: dict = {}
