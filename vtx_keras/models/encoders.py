"""Encoders from images, clips and texts to features: from scratch, or published backbones.

An encoder is a `keras.Model` of its own inside the task's graph, so it can be frozen, swapped or cached by name.
Scaling is in the graph: callers pass 0–255. A `Loader` returns a published network with its weights; without one the
network is new.

    >>> image("vit", image_shape=(32, 32, 3), dim=8, heads=1, depth=1, patch=16).output_shape
    (None, 2, 2, 8)
    >>> architecture("mobilenet_v2", (96, 128, 3)).get_layer("features").output.shape
    (None, 3, 4, 1280)
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import keras
from keras import layers, ops

from vtx_keras.inputs.text import END, PAD
from vtx_keras.models._base import graph
from vtx_keras.models.blocks import Block
from vtx_keras.models.layers import Positions, exact_gelu, layer_norm, masked_mean, register
from vtx_keras.models.options import shape_of

__all__ = [
    "BACKBONES", "IMAGE", "IMAGES", "KERAS_APPLICATIONS", "NAMES", "SCALING", "SCRATCH", "TEXT", "TEXTS", "Backbone",
    "Loader", "PerFrame", "architecture", "backbone", "backbone_of", "exact_gelu", "features_of", "image",
    "image_preset", "minilm", "text", "text_preset", "vit",
]  # fmt: skip
Loader = Callable[..., keras.Model]  # (name, image_shape=) or (name, vocabulary=): a published encoder with its weights


class Backbone(NamedTuple):
    """A published network: modality, native side in pixels (or longest text in tokens), whose architecture it has.

    One that was trained here from another may still have that one's head, which names ImageNet's classes.
    """

    modality: str
    size: int
    like: str = ""
    kept_head: bool = False

    @property
    def has_head(self) -> bool:
        return self.modality == "image" and (not self.like or self.kept_head)


BACKBONES = {
    "efficientnet_lite0": Backbone("image", 224),
    "efficientnet_lite1": Backbone("image", 240),
    "efficientnet_lite2": Backbone("image", 260),
    "efficientnet_lite2_photos": Backbone("image", 224, like="efficientnet_lite2", kept_head=True),
    "mobilenet_v2": Backbone("image", 224),
    "mobilenet_v2_emoji": Backbone("image", 97, like="mobilenet_v2"),
    "resnet50": Backbone("image", 224),
    "minilm_l6": Backbone("text", 512),
}
IMAGES = tuple(name for name, entry in BACKBONES.items() if entry.modality == "image")
TEXTS = tuple(name for name, entry in BACKBONES.items() if entry.modality == "text")

# The scaling that keras.applications expects; networks not named here scale inside their own graph.
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
    load: Loader | None = None,
    shapes: Mapping[str, Any] = {},
) -> keras.Model:
    """Build an encoder from images (h, w, 3) to features (rows, columns, width) or (tokens, width); clips by frame.

    `encoder` is "vit" (patches, from scratch), a published one ("efficientnet_lite0", "mobilenet_v2" ...: see
    `BACKBONES`), a name of `keras.applications` ("MobileNetV3Small"), a keras-hub image preset, or your own model from
    images to features (used as it is, not copied). `shapes` are those of single blocks: see `compress`.
    """
    *frames, height, width, channels = image_shape
    if encoder == "vit":
        if load:
            problem = 'the "vit" encoder is trained from scratch and has no published weights'
            raise ValueError(f'{problem}: name a pretrained image_encoder ("efficientnet_lite0"), or pass weights=None')
        model = vit((height, width, channels), dim, heads, depth, patch, dropout, shapes)
    else:
        model = backbone(encoder, (height, width, channels), load, shapes)
    if len(model.output.shape) not in (3, 4):
        expected = "a feature map (batch, rows, columns, width) or tokens (batch, tokens, width)"
        problem = f"image_encoder gives a tensor of shape {model.output.shape}: expected {expected}"
        raise ValueError(f"{problem}. Leave out its pooling and its classifier.")
    inputs = keras.Input(image_shape, name="image")
    return graph(inputs, (PerFrame(model, name="per_frame") if frames else model)(inputs), name="image_encoder")


def vit(
    shape: tuple, dim: int, heads: int, depth: int, patch: int, dropout: float, shapes: Mapping[str, Any] = {}
) -> keras.Model:
    """Build a vision transformer from scratch: patches, positions, blocks."""
    height, width, _ = shape
    if height % patch or width % patch:
        problem = f"image_shape {shape} does not divide into patches of {patch} × {patch}"
        raise ValueError(f"{problem}: choose sides that are multiples of {patch}, or another patch")
    rows, columns = height // patch, width // patch
    pixels = keras.Input(shape, name="image")  # (batch, height, width, 3)
    x = keras.layers.Rescaling(1 / 127.5, offset=-1.0, name="rescale")(pixels)
    x = keras.layers.Conv2D(dim, patch, strides=patch, name="patches")(x)  # (batch, rows, columns, dim)
    x = keras.layers.Reshape((rows * columns, dim), name="flatten")(x)  # (batch, rows * columns, dim)
    x = Positions((rows, columns), name="positions")(x)
    for i in range(depth):
        shape_here = shape_of(shapes, f"image_encoder/block_{i}", dim, heads)
        x = Block(dim, **shape_here, dropout=dropout, name=f"block_{i}")(x)
    return graph(pixels, keras.layers.Reshape((rows, columns, dim), name="grid")(x), name="vit")


def backbone(
    encoder: str | keras.Model, frame_shape: tuple, load: Loader | None, shapes: Mapping[str, Any] = {}
) -> keras.Model:
    """Build a backbone from 0–255 pixels to features, with the scaling that it expects."""
    if isinstance(encoder, keras.Model):
        return encoder
    if encoder in IMAGES:
        if load and any(name.startswith("image_encoder/") for name in shapes):
            raise ValueError(f"shapes= of {encoder}: its published weights do not fit smaller shapes: compress.prune")
        return (
            load(encoder, image_shape=frame_shape) if load else features_of(architecture(encoder, frame_shape, shapes))
        )
    pixels = keras.Input(frame_shape, name="image")
    if encoder in KERAS_APPLICATIONS:
        weights = "imagenet" if load else None
        network = getattr(keras.applications, encoder)(include_top=False, weights=weights, input_shape=frame_shape)
        x = pixels
        if encoder in SCALED_OUTSIDE:
            x = keras.layers.Rescaling(**SCALED_OUTSIDE[encoder], name="rescale")(x)
        elif encoder in BLUE_FIRST:
            x = keras.layers.Rescaling(1.0, offset=BLUE_FIRST_MEAN, name="rescale")(ops.flip(x, axis=-1))
        return graph(pixels, network(x), name=encoder)
    return image_preset(encoder, frame_shape, load is not None)


def image_preset(name: str, frame_shape: tuple, pretrained: bool) -> keras.Model:
    """Build a keras-hub image backbone, with the scaling that it expects."""
    network, converter = _preset(name, "image_encoder", pretrained)
    if converter is None or len(keras.tree.flatten(network.input)) != 1:
        problem = "does not say how it scales pixels" if converter is None else "has other inputs than an image"
        raise ValueError(
            f"image_encoder={name!r} {problem} in keras-hub: pass a keras.Model from 0-255 pixels to features"
        )
    pixels = keras.Input(frame_shape, name="image")
    scaling = keras.layers.Rescaling(converter.scale or 1.0, offset=converter.offset or 0.0, name="rescale")
    return graph(pixels, network(scaling(pixels)), name="backbone")


def text_preset(name: str, pretrained: bool) -> keras.Model:
    """Build a new keras-hub text backbone: its published weights belong to another vocabulary."""
    if pretrained:
        raise ValueError(
            f"text_encoder={name!r} has weights for its own vocabulary, whose ids differ from the zoo's: "
            'use weights=None, or text_encoder="transformer"'
        )
    return _preset(name, "text_encoder", pretrained)[0]


def _preset(name: str, option: str, pretrained: bool) -> tuple[keras.Model, Any]:
    """Return a keras-hub backbone by preset name, URL or folder, and the converter that scales its images."""
    import keras_hub  # slow to load

    try:
        network = keras_hub.models.Backbone.from_preset(name, load_weights=pretrained)
        image = option == "image_encoder"
        return network, keras_hub.layers.ImageConverter.from_preset(name) if image else None
    except Exception as error:
        raise ValueError(
            f"{option}={name!r} is none of {', '.join(IMAGE if option == 'image_encoder' else TEXT)}, nor a "
            f"name of keras.applications, and keras-hub could not open it as a preset: {error}"
        ) from error


@register
class PerFrame(keras.layers.Wrapper):
    """Applies an image model to every frame of a clip (batch, frames, h, w, 3)."""

    def compute_output_shape(self, shape: tuple) -> tuple:
        return (*shape[:2], *self.layer.output_shape[1:])

    def call(self, clip: Any) -> Any:
        frames, *frame_shape = clip.shape[1:]
        features = self.layer(ops.reshape(clip, (-1, *frame_shape)))  # (batch * frames, rows, columns, width)
        return ops.reshape(features, (-1, frames, *features.shape[1:]))  # (batch, frames, rows, columns, width)


def text(
    encoder: str | keras.Model = "transformer",
    *,
    vocabulary: Sequence[str],
    max_length: int,
    dim: int,
    heads: int,
    depth: int,
    dropout: float = 0.0,
    load: Loader | None = None,
    shapes: Mapping[str, Any] = {},
) -> keras.Model:
    """Build an encoder from token ids (batch, words), 0 = padding, to (batch, words, width).

    `encoder` is "transformer", "lstm" or "gru" (from scratch; the recurrent ones are for small devices), a published
    one ("minilm_l6"), a keras-hub text preset, or your own model. Padding never changes a token before it.

    >>> text("gru", vocabulary=["[PAD]", "a", "cat"], max_length=8, dim=16, heads=1, depth=1).output_shape
    (None, None, 16)
    """
    tokens = keras.Input((None,), dtype="int32", name="tokens")
    mask = ops.not_equal(tokens, PAD)
    if encoder in SCRATCH:
        x = keras.layers.Embedding(len(vocabulary), dim, name="words")(tokens)  # (batch, words, dim)
        if encoder == "transformer":
            x = Positions((max_length,), name="positions")(x)
        for i in range(depth):
            if encoder == "transformer":
                shape = shape_of(shapes, f"text_encoder/block_{i}", dim, heads)
                x = Block(dim, **shape, dropout=dropout, name=f"block_{i}")(x, mask)
            else:  # left to right, so padding, which comes last, affects no word
                recurrent = {"lstm": keras.layers.LSTM, "gru": keras.layers.GRU}[encoder]
                x = recurrent(dim, return_sequences=True, name=f"{encoder}_{i}")(x)
        return graph(tokens, layer_norm("norm")(x), name="text_encoder")
    if encoder in TEXTS:
        # It was trained on texts that end in END: END is appended to the words, and its position is cut off again.
        network = load(encoder, vocabulary=vocabulary) if load else features_of(minilm(encoder, len(vocabulary)))
        longer = ops.pad(tokens, [[0, 0], [0, 1]])  # (batch, words + 1)
        after_a_word = ops.pad(ops.cast(mask, "int32"), [[0, 0], [1, 0]]) > 0  # (batch, words + 1)
        x = network(ops.where(ops.logical_and(after_a_word, ops.equal(longer, PAD)), END, longer))
        return graph(tokens, x[:, :-1], name="text_encoder")  # (batch, words, 384)
    network = encoder if isinstance(encoder, keras.Model) else text_preset(encoder, load is not None)
    inputs = network.input
    if isinstance(inputs, dict):
        padding_mask = ops.cast(mask, "int32")
        available = {"token_ids": tokens, "padding_mask": padding_mask, "segment_ids": ops.zeros_like(tokens)}
        missing = sorted(set(inputs) - set(available))
        if missing:
            raise ValueError(f"text_encoder has inputs {missing}: expected inputs among {sorted(available)}")
        x = network({name: available[name] for name in inputs})
    else:
        x = network(tokens)
    if isinstance(x, dict):
        x = x["sequence_output"]
    if len(x.shape) != 3:
        raise ValueError(f"text_encoder gives shape {x.shape}: expected tokens (batch, tokens, dim)")
    return graph(tokens, x, name="text_encoder")


SCRATCH = ("transformer", "lstm", "gru")
IMAGE = ("vit", *IMAGES)
TEXT = (*SCRATCH, *TEXTS)
KERAS_APPLICATIONS = tuple(name for name in dir(keras.applications) if name[0].isupper())
NAMES = (*IMAGE, *TEXT, *KERAS_APPLICATIONS)
# Inverted residual networks, stage by stage; every block but the first expands its channels sixfold.
STRIDES = (1, 2, 2, 2, 1, 2, 1)
MOBILENET_V2 = {"widths": (16, 24, 32, 64, 96, 160, 320), "depths": (1, 2, 3, 4, 3, 3, 1), "kernels": (3,) * 7}
LITE = {"widths": (16, 24, 40, 80, 112, 192, 320), "depths": (1, 2, 2, 3, 3, 4, 1), "kernels": (3, 3, 5, 3, 5, 5, 3)}
LITE_GROWTH = {"efficientnet_lite0": (1.0, 1.0), "efficientnet_lite1": (1.0, 1.1), "efficientnet_lite2": (1.1, 1.2)}
# The scaling that each network was trained with: x * scale + offset, per channel.
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SCALING: dict[str, Mapping[str, float | list[float]]] = {
    **{name: {"scale": 1 / 128, "offset": -127 / 128} for name in LITE_GROWTH},
    "mobilenet_v2": {
        "scale": [1 / (255 * std) for std in IMAGENET_STD],
        "offset": [-mean / std for mean, std in zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)],
    },
    # RGB: the first kernel, trained on BGR, is reversed when it is converted.
    "resnet50": {"scale": 1.0, "offset": [-123.68, -116.779, -103.939]},
}


def architecture(name: str, image_shape: tuple[int, ...] | None = None, shapes: Mapping[str, Any] = {}) -> keras.Model:
    """Build the whole network of an encoder, without weights: layer "features", then the head.

    An encoder that was trained here may have no head; its output is the mean of the features.

    >>> architecture("resnet50", (64, 64, 3)).output_shape
    (None, 1000)
    """
    if backbone_of(name).modality == "text":
        return minilm(name, 30522)
    image_shape = tuple(image_shape or (BACKBONES[name].size, BACKBONES[name].size, 3))
    if len(image_shape) != 3 or image_shape[2] != 3 or any(side and side < 32 for side in image_shape[:2]):
        raise ValueError(f"image_shape={image_shape}: {name} takes (height, width, 3), sides of at least 32 px")
    kind = BACKBONES[name].like or name
    pixels = keras.Input(image_shape, name="image")
    x = layers.Rescaling(**SCALING[kind], name="rescale")(pixels)
    if kind == "resnet50":
        network = keras.applications.ResNet50(include_top=False, weights=None, input_tensor=x)
        for layer in network.layers:
            if isinstance(layer, layers.BatchNormalization):
                layer.epsilon = 1e-3  # as in the published network; Keras has since changed it to 1.001e-5
        x = network.output
    elif kind == "mobilenet_v2":
        x = _inverted_residuals(x, **MOBILENET_V2, epsilon=1e-5, symmetric=True, shapes=shapes)
    else:
        x = _inverted_residuals(x, **_scaled(*LITE_GROWTH[kind]), epsilon=1e-3, symmetric=False, shapes=shapes)
    x = layers.Identity(name="features")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return graph(pixels, layers.Dense(1000, name="logits")(x) if BACKBONES[name].has_head else x, name=name)


def _scaled(width: float, depth: float) -> dict[str, Sequence[int]]:
    """Scale the stages of EfficientNet-Lite by width and depth; the first and last stage keep their depth."""
    widths = [int(old * width + 4) // 8 * 8 for old in LITE["widths"]]
    widths = [new + 8 * (new < 0.9 * old * width) for new, old in zip(widths, LITE["widths"], strict=True)]
    first, *middle, last = LITE["depths"]
    return {**LITE, "widths": widths, "depths": (first, *(math.ceil(old * depth) for old in middle), last)}


def _inverted_residuals(
    x: Any, widths: Any, depths: Any, kernels: Any, epsilon: float, symmetric: bool, shapes: Mapping[str, Any]
) -> Any:
    """Build MobileNetV2's blocks. With stride 2, PyTorch pads all sides (`symmetric`), TensorFlow only where needed."""

    def conv(x: Any, kind: Callable, name: str, *size: int, stride: int = 1, relu: bool = True) -> Any:
        padding = "same"
        if symmetric and stride > 1:
            x, padding = layers.ZeroPadding2D(size[-1] // 2, name=f"{name}_pad")(x), "valid"
        x = kind(*size, strides=stride, padding=padding, use_bias=False, name=name)(x)
        x = layers.BatchNormalization(epsilon=epsilon, name=f"{name}_bn")(x)
        return layers.ReLU(max_value=6, name=f"{name}_relu")(x) if relu else x

    x = conv(x, layers.Conv2D, "stem", 32, 3, stride=2)
    blocks = [
        (width, kernel, stride if first else 1)
        for width, depth, kernel, stride in zip(widths, depths, kernels, STRIDES, strict=True)
        for first in [True] + [False] * (depth - 1)
    ]
    for i, (width, kernel, stride) in enumerate(blocks):
        before, channels = x, x.shape[-1]
        if i:
            between = shapes.get(f"image_encoder/block_{i}", {}).get("channels", 6 * channels)
            x = conv(x, layers.Conv2D, f"block_{i}_expand", between, 1)
        x = conv(x, layers.DepthwiseConv2D, f"block_{i}_depthwise", kernel, stride=stride)
        x = conv(x, layers.Conv2D, f"block_{i}_project", width, 1, relu=False)
        if stride == 1 and channels == width:
            x = layers.Add(name=f"block_{i}_add")([before, x])
    return conv(x, layers.Conv2D, "top", 1280, 1)


def minilm(name: str, pieces: int) -> keras.Model:
    """Build BERT with 6 layers; its output is the sentence embedding, the mean of its tokens at unit length."""
    from keras_hub.layers import PositionEmbedding, TransformerEncoder  # slow to load

    tokens = keras.Input((None,), dtype="int32", name="tokens")
    mask = ops.not_equal(tokens, 0)
    words = layers.Embedding(pieces, 384, name="words")(tokens)
    segments = layers.Embedding(2, 384, name="segments")(ops.zeros_like(tokens))
    x = layers.Add(name="add")([words, PositionEmbedding(BACKBONES[name].size, name="positions")(words), segments])
    x = layers.LayerNormalization(epsilon=1e-12, name="norm")(x)  # (batch, words, 384)
    for i in range(6):
        block = TransformerEncoder(1536, 12, activation=exact_gelu, layer_norm_epsilon=1e-12, name=f"block_{i}")
        x = block(x, padding_mask=mask)
    x = layers.Identity(name="features")(x)
    sentence = ops.squeeze(masked_mean(x, mask), axis=1)  # (batch, 384)
    return graph(tokens, layers.UnitNormalization(name="unit")(sentence), name=name)


def features_of(model: keras.Model) -> keras.Model:
    """Return an architecture without its head.

    >>> features_of(architecture("mobilenet_v2", (64, 64, 3))).output_shape
    (None, 2, 2, 1280)
    """
    return graph(model.input, model.get_layer("features").output, name=model.name)


def backbone_of(name: str) -> Backbone:
    """Return the entry of a published network, or raise an error that suggests a name.

    >>> backbone_of("mobilenet_v2_emoji").like
    'mobilenet_v2'
    """
    if name not in BACKBONES:
        close = difflib.get_close_matches(str(name), BACKBONES, 1)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(BACKBONES)}"
        raise ValueError(f"no encoder is called {name!r}: {hint}")
    return BACKBONES[name]
