"""Pictures, clips and texts to features: from scratch, or by a published backbone.

An encoder is a `keras.Model` of its own inside the task's graph, so it can be frozen, swapped or cached by name.
`Vision` then brings its features to the model's width and lays them out in space and time. Modality ends there: a
picture gives N tokens, a clip of T frames T·N, and every task takes both. Scaling is in the graph: callers pass 0–255.

    >>> encoder = image("vit", image_shape=(32, 32, 3), dim=8, heads=1, depth=1, patch=16)
    >>> encoder.output_shape
    (None, 2, 2, 8)
    >>> Vision(dim=12)(encoder.output).shape
    (None, 4, 12)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import ops

from vtx_keras import architectures, published
from vtx_keras.layers import Block, Dense, Positions, graph, layer_norm, register
from vtx_keras.published import load
from vtx_keras.text import END, PAD

__all__ = ["PerFrame", "Vision", "image", "load", "text"]

# How keras.applications wants its pixels; those not named here scale inside their own graph.
PLUS_MINUS_ONE = {"scale": 1 / 127.5, "offset": -1.0}
IMAGENET = {
    "scale": tuple(1 / (255 * std) for std in (0.229, 0.224, 0.225)),
    "offset": tuple(-mean / std for mean, std in zip((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), strict=True)),
}
SCALED_OUTSIDE: dict[str, Mapping[str, float | tuple[float, ...]]] = {
    **dict.fromkeys(("MobileNet", "MobileNetV2", "Xception", "InceptionV3", "InceptionResNetV2"), PLUS_MINUS_ONE),
    **dict.fromkeys(("NASNetMobile", "NASNetLarge", "ResNet50V2", "ResNet101V2", "ResNet152V2"), PLUS_MINUS_ONE),
    **dict.fromkeys(("DenseNet121", "DenseNet169", "DenseNet201"), IMAGENET),
}
BLUE_FIRST = ("ResNet50", "ResNet101", "ResNet152", "VGG16", "VGG19")
BLUE_FIRST_MEAN = (-103.939, -116.779, -123.68)


def image(
    encoder: str | keras.Model = "vit",
    *,
    image_shape: tuple[int, ...],
    dim: int,
    heads: int,
    depth: int,
    patch: int = 16,
    dropout: float = 0.0,
    pretrained: bool = False,
) -> keras.Model:
    """Pictures (h, w, 3) to features (rows, columns, width) or (tokens, width); clips frame by frame.

    `encoder` is "vit" (patches, from scratch), a published one ("efficientnet_lite0", "mobilenet_v2" ...: see
    `architectures.PUBLISHED`), a name of `keras.applications` ("MobileNetV3Small"), a keras-hub image preset, or a
    model of yours from pictures to features (used as it is, not copied).
    """
    *frames, height, width, channels = image_shape
    if encoder == "vit":
        if pretrained:
            raise ValueError(
                'the "vit" encoder is trained from scratch and has no published weights: name a pretrained '
                'image_encoder (for example "efficientnet_lite0"), or pass weights=None'
            )
        model = vit((height, width, channels), dim=dim, heads=heads, depth=depth, patch=patch, dropout=dropout)
    else:
        model = backbone(encoder, (height, width, channels), pretrained)
    if len(model.output.shape) not in (3, 4):
        raise ValueError(
            f"image_encoder gives a tensor of shape {model.output.shape}: expected a feature map (batch, rows, "
            "columns, width) or tokens (batch, tokens, width). Leave out its pooling and its classifier."
        )
    inputs = keras.Input(image_shape, name="image")
    return graph(inputs, (PerFrame(model, name="per_frame") if frames else model)(inputs), name="image_encoder")


def vit(shape: tuple, *, dim: int, heads: int, depth: int, patch: int, dropout: float) -> keras.Model:
    """A vision transformer from scratch: patches, positions, blocks."""
    height, width, _ = shape
    if height % patch or width % patch:
        raise ValueError(
            f"image_shape {shape} does not divide into patches of {patch} × {patch}: "
            f"choose sides that are multiples of {patch}, or another patch"
        )
    rows, columns = height // patch, width // patch
    pixels = keras.Input(shape, name="image")
    x = keras.layers.Rescaling(1 / 127.5, offset=-1.0, name="rescale")(pixels)
    x = keras.layers.Conv2D(dim, patch, strides=patch, name="patches")(x)
    x = keras.layers.Reshape((rows * columns, dim), name="flatten")(x)
    x = Positions((rows, columns), name="positions")(x)
    for i in range(depth):
        x = Block(dim, heads, dropout=dropout, name=f"block_{i}")(x)
    return graph(pixels, keras.layers.Reshape((rows, columns, dim), name="grid")(x), name="vit")


def backbone(encoder: str | keras.Model, frame_shape: tuple, pretrained: bool) -> keras.Model:
    """A published backbone with its own scaling in front, from 0–255 pixels to features."""
    if isinstance(encoder, keras.Model):
        return encoder
    if encoder in architectures.IMAGES:
        return (
            load(encoder, image_shape=frame_shape)
            if pretrained
            else architectures.features_of(architectures.architecture(encoder, frame_shape))
        )
    pixels = keras.Input(frame_shape, name="image")
    if encoder in KERAS_APPLICATIONS:
        weights = "imagenet" if pretrained else None
        network = getattr(keras.applications, encoder)(include_top=False, weights=weights, input_shape=frame_shape)
        x = pixels
        if encoder in SCALED_OUTSIDE:
            x = keras.layers.Rescaling(**SCALED_OUTSIDE[encoder], name="rescale")(x)
        elif encoder in BLUE_FIRST:
            x = keras.layers.Rescaling(1.0, offset=BLUE_FIRST_MEAN, name="rescale")(ops.flip(x, axis=-1))
        return graph(pixels, network(x), name=encoder)
    return image_preset(encoder, frame_shape, pretrained)


def image_preset(name: str, frame_shape: tuple, pretrained: bool) -> keras.Model:
    """A keras-hub image backbone with its own scaling in front."""
    network, converter = _preset(name, "image_encoder", pretrained)
    pixels = keras.Input(frame_shape, name="image")
    scaling = keras.layers.Rescaling(converter.scale or 1.0, offset=converter.offset or 0.0, name="rescale")
    return graph(pixels, network(scaling(pixels)), name="backbone")


def text_preset(name: str, pretrained: bool) -> keras.Model:
    """A keras-hub text backbone, new: its published weights belong to words that are not the model's."""
    if pretrained:
        raise ValueError(
            f"text_encoder={name!r} has weights for its own vocabulary, whose ids differ from the zoo's: they would "
            'meet the wrong words. Use weights=None, or text_encoder="transformer"'
        )
    return _preset(name, "text_encoder", pretrained)[0]


def _preset(name: str, option: str, pretrained: bool) -> tuple[keras.Model, Any]:
    """A keras-hub backbone by preset name, URL or folder, and the scaling of its pictures."""
    import keras_hub  # slow to load

    try:
        network = keras_hub.models.Backbone.from_preset(name, load_weights=pretrained)
        image = option == "image_encoder"
        return network, keras_hub.layers.ImageConverter.from_preset(name) if image else None
    except Exception as error:
        raise ValueError(
            f"{option}={name!r} is not one of ours ({', '.join(IMAGE if option == 'image_encoder' else TEXT)}), nor a "
            f"name of keras.applications, and keras-hub could not open it as a preset: {error}"
        ) from error


@register
class PerFrame(keras.layers.Wrapper):
    """Applies an image model to every frame of a clip: (batch, frames, h, w, 3) to `(batch, frames, *features)`."""

    def compute_output_shape(self, shape: tuple) -> tuple:
        return (*shape[:2], *self.layer.output_shape[1:])

    def call(self, clip: Any) -> Any:
        frames, *frame_shape = clip.shape[1:]
        features = self.layer(ops.reshape(clip, (-1, *frame_shape)))
        return ops.reshape(features, (-1, frames, *features.shape[1:]))


@register
class Vision(keras.layers.Layer):
    """Features to tokens (batch, tokens, dim): norm, projection, positions in space and, for a clip, in time.

    `clip` says that the first axis after the batch is frames. With `temporal="gru"` a state runs along the frames, at
    each place of the picture by itself, instead of learned positions per frame.
    """

    def __init__(self, dim: int, clip: bool = False, temporal: str = "positions", **kwargs: Any):
        super().__init__(**kwargs)
        self.dim, self.clip, self.temporal = dim, clip, temporal
        self.norm = layer_norm("norm", dtype=self.dtype_policy)
        self.projection = Dense(dim, dtype=self.dtype_policy, name="projection")
        if temporal == "gru":
            self.memory = keras.layers.GRU(dim, return_sequences=True, dtype=self.dtype_policy, name="memory")

    def compute_output_shape(self, shape: tuple) -> tuple:
        return (shape[0], math.prod(shape[1:-1]), self.dim)

    def build(self, shape: tuple) -> None:
        self.frames = shape[1] if self.clip else 1
        grid = shape[2:-1] if self.clip else shape[1:-1]
        self.places = math.prod(grid)
        self.norm.build(shape)
        self.projection.build(shape)
        self.space = Positions(grid, dtype=self.dtype_policy, name="space")
        self.space.build((None, self.places, self.dim))
        if self.temporal == "gru":
            self.memory.build((None, self.frames, self.dim))
        elif self.clip:
            self.time = Positions((self.frames,), dtype=self.dtype_policy, name="time")
            self.time.build((None, self.frames, self.dim))

    def call(self, features: Any) -> Any:
        x = self.projection(self.norm(ops.reshape(features, (-1, self.places, features.shape[-1]))))
        x = self.space(x)
        if not self.clip:
            return x
        x = ops.reshape(x, (-1, self.frames, self.places, self.dim))
        if self.temporal == "gru":
            paths = ops.reshape(ops.transpose(x, (0, 2, 1, 3)), (-1, self.frames, self.dim))
            remembered = ops.reshape(self.memory(paths), (-1, self.places, self.frames, self.dim))
            x = x + ops.transpose(remembered, (0, 2, 1, 3))
        else:
            x = x + ops.expand_dims(self.time.table(), 1)
        return ops.reshape(x, (-1, self.frames * self.places, self.dim))

    def get_config(self) -> dict:
        return {**super().get_config(), "dim": self.dim, "clip": self.clip, "temporal": self.temporal}


def text(
    encoder: str | keras.Model = "transformer",
    *,
    vocabulary: Sequence[str],
    max_length: int,
    dim: int,
    heads: int,
    depth: int,
    dropout: float = 0.0,
    pretrained: bool = False,
) -> keras.Model:
    """Token ids (0 = padding) to (batch, tokens, dim).

    `encoder` is "transformer", "lstm" or "gru" (from scratch; the recurrent ones are for small devices), a published
    one ("minilm_l6"), a keras-hub text preset, or a model of yours. Padding never changes a token before it.

    >>> text("gru", vocabulary=["[PAD]", "a", "cat"], max_length=8, dim=16, heads=1, depth=1).output_shape
    (None, None, 16)
    """
    tokens = keras.Input((None,), dtype="int32", name="tokens")
    mask = ops.not_equal(tokens, PAD)
    if encoder in SCRATCH:
        x = keras.layers.Embedding(len(vocabulary), dim, name="words")(tokens)
        if encoder == "transformer":
            x = Positions((max_length,), name="positions")(x)
        for i in range(depth):
            if encoder == "transformer":
                x = Block(dim, heads, dropout=dropout, name=f"block_{i}")(x, mask)
            else:  # forward in time, so that padding, which comes last, is never seen
                recurrent = {"lstm": keras.layers.LSTM, "gru": keras.layers.GRU}[encoder]
                x = recurrent(dim, return_sequences=True, name=f"{encoder}_{i}")(x)
        return graph(tokens, layer_norm("norm")(x), name="text_encoder")
    if encoder in architectures.TEXTS:
        # It learned from texts that end in a special piece: one is put behind the last, and its place left out again.
        network = published.reader(encoder, vocabulary, pretrained=pretrained)
        longer = ops.pad(tokens, [[0, 0], [0, 1]])
        after_a_piece = ops.pad(ops.cast(mask, "int32"), [[0, 0], [1, 0]]) > 0
        x = network(ops.where(ops.logical_and(after_a_piece, ops.equal(longer, PAD)), END, longer))
        return graph(tokens, x[:, :-1], name="text_encoder")
    network = encoder if isinstance(encoder, keras.Model) else text_preset(encoder, pretrained)
    inputs = network.input
    if isinstance(inputs, dict):
        padding_mask = ops.cast(mask, "int32")
        known = {"token_ids": tokens, "padding_mask": padding_mask, "segment_ids": ops.zeros_like(tokens)}
        missing = sorted(set(inputs) - set(known))
        if missing:
            raise ValueError(f"text_encoder asks for {missing}: expected inputs among {sorted(known)}")
        x = network({name: known[name] for name in inputs})
    else:
        x = network(tokens)
    if isinstance(x, dict):
        x = x["sequence_output"]
    if len(x.shape) != 3:
        raise ValueError(f"text_encoder gives shape {x.shape}: expected tokens (batch, tokens, dim)")
    return graph(tokens, x, name="text_encoder")


SCRATCH = ("transformer", "lstm", "gru")
IMAGE = ("vit", *architectures.IMAGES)
TEXT = (*SCRATCH, *architectures.TEXTS)
KERAS_APPLICATIONS = tuple(name for name in dir(keras.applications) if name[0].isupper())
NAMES = (*IMAGE, *TEXT, *KERAS_APPLICATIONS)
