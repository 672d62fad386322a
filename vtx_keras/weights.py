"""Weights folders: written whole or not at all, verified before they are read, never replaced by random numbers.

A weights folder holds `config.json` (name, options, versions, and the sha256 of everything, itself included),
`model.weights.h5` and `vocabulary.txt`. It is data, never code.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

CONFIG, WEIGHTS, VOCABULARY = "config.json", "model.weights.h5", "vocabulary.txt"
LEAST_PACKED = 256  # numbers: packing fewer saves nothing


class BadWeights(ValueError):
    """A weights folder that is incomplete, altered, or made for another model."""


def released_root() -> Path:
    """Where released models lie: inside an installed package, else in the checkout's `zoo/`."""
    package = Path(__file__).parent
    installed = package / "released"
    return installed if installed.is_dir() else package.parent / "zoo"


def released_tags(name: str) -> list[str]:
    """The released tags of a model."""
    return sorted(path.parent.name for path in released_root().glob(f"{name}/*/{CONFIG}"))


def find(name: str, weights: str | os.PathLike, default: str | None) -> Path:
    """The folder that `weights=` means for the model `name`: its default release, a released tag, or a folder."""
    tags = released_tags(name)
    if weights == "default":
        if default not in tags:
            others = f"released tags are {', '.join(tags)}" if tags else "none are released yet"
            raise BadWeights(
                f'{name} has no default weights ({others}). Pass weights=None for a new model, or weights="a/folder" '
                "that training or zoo.save wrote; zoo.list_models(released=True) names the models that have some."
            )
        weights = default
    if isinstance(weights, str) and weights in tags:
        return released_root() / name / str(weights)
    folder = Path(weights)
    if (folder / "best" / CONFIG).is_file() and not (folder / CONFIG).is_file():
        folder = folder / "best"
    if not (folder / CONFIG).is_file():
        what = f"is a folder without {CONFIG}" if folder.is_dir() else "is neither a folder here nor a released tag"
        raise BadWeights(
            f"weights={str(weights)!r} {what}. Released tags of {name}: {', '.join(tags) or 'none'}. Other values are "
            'None, "default", "encoders", or a folder written by zoo.save or by training.'
        )
    return folder


def parse_config(path: Path) -> dict:
    """A config.json whose contents match the hash it holds of itself."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        intact = config["sha256"] == _config_hash(config)
    except (ValueError, KeyError, TypeError, AttributeError):
        intact = False
    if not intact:
        raise BadWeights(
            f"{path} is damaged or was edited: its contents do not match its hash. Copy the folder afresh."
        )
    return config


def read_config(folder: Path) -> dict:
    """The config of a weights folder, after checking the hash of every file in it."""
    config = parse_config(folder / CONFIG)
    for name, wanted in config["files"].items():
        if not (folder / name).is_file():
            raise BadWeights(f"{folder / name} is missing. Copy the folder afresh.")
        if file_hash(folder / name) != wanted:
            raise BadWeights(
                f"{folder / name} is damaged: its sha256 is not the one in {CONFIG}. Copy the folder afresh."
            )
    config["vocabulary"] = (folder / VOCABULARY).read_text(encoding="utf-8").removesuffix("\n").split("\n")
    return config


def save(model: Any, folder: str | os.PathLike, *, half: bool = False, encoder: dict[str, str] | None = None) -> Path:
    """Write a model's weights folder, all of it or nothing. `half` stores float16, as releases do.

    `encoder` {"name", "sha256"} says that the image encoder is a published one, unchanged: then only its name is kept.
    """
    folder = Path(folder).resolve()  # what a link points to is replaced, not the link
    if folder.exists() and not (folder / CONFIG).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} holds something that is not a weights folder: choose another place")

    def write(target: Path) -> None:
        _bare(model, without_encoder=encoder is not None).save_weights(target / WEIGHTS)
        if half:
            halve(target / WEIGHTS)
        (target / VOCABULARY).write_text("\n".join(model.vocabulary) + "\n", encoding="utf-8")
        spec = model.spec
        config = {
            "name": spec["name"],
            "overrides": spec["overrides"],
            "dtype": spec["dtype"],
            "files": {name: file_hash(target / name) for name in (WEIGHTS, VOCABULARY)},
            "versions": {name: version_of(name) for name in ("vtx_keras", "keras", "keras-hub", "tensorflow")},
        }
        if encoder is not None:
            config["image_encoder"] = encoder
        config["sha256"] = _config_hash(config)
        (target / CONFIG).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")

    with new_folder(folder) as target:
        write(target)
    return folder


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder that takes the place of `folder` when all went well, with its other files."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    target = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    old = target.with_name(target.name + ".old")
    try:
        yield target
        target.chmod(0o755)
        if folder.exists():
            for kept in folder.iterdir():
                if not (target / kept.name).exists():
                    (shutil.copytree if kept.is_dir() else shutil.copy2)(kept, target / kept.name)
            folder.rename(old)
        target.rename(folder)
    finally:
        if old.exists() and not folder.exists():
            old.rename(folder)
        shutil.rmtree(target, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def load(model: Any, folder: Path, *, without_encoder: bool = False) -> None:
    """Read verified weights into a model built from that folder's own config."""
    try:
        _bare(model, without_encoder=without_encoder).load_weights(folder / WEIGHTS)
    except Exception as error:
        raise BadWeights(f"{folder / WEIGHTS} does not fit the model that its {CONFIG} describes: {error}") from error


def transfer(source: Any, target: Any, *, new_head: bool) -> None:
    """Copy weights by path. With `new_head` the head stays new.

    Positions of pictures and clips are interpolated to another grid, embeddings are matched by piece to another
    vocabulary, and both are said; anything else that does not fit is an error.
    """
    have = dict(_by_path(source))
    misfits, copies = [], []
    said: list[str] = []
    for path, variable in _by_path(target):
        if new_head and path.startswith("head/"):
            continue
        found = have.get(path)
        value = None if found is None else _adapted(path, np.array(found), np.array(variable), source, target, said)
        if value is None:
            misfits.append((path, tuple(variable.shape), "nothing" if found is None else tuple(found.shape)))
        else:
            copies.append((variable, value))
    if misfits:
        rows = "\n".join(f"  {path}: expected {expected}, found {found}" for path, expected, found in misfits[:10])
        more = f"\n  … and {len(misfits) - 10} more" if len(misfits) > 10 else ""
        raise BadWeights(
            f"the weights do not fit the options given, in {len(misfits)} places:\n{rows}{more}\n"
            "Leave out the options that change these layers, or train anew with weights=None."
        )
    for variable, value in copies:
        variable.assign(value)
    if new_head:
        said.append("the head is new (its classes changed); all else keeps its weights")
    if said:
        warnings.warn(f"{target.name}: {'; '.join(dict.fromkeys(said))}", stacklevel=4)


def _adapted(
    path: str, found: np.ndarray, wanted: np.ndarray, source: Any, target: Any, said: list[str]
) -> np.ndarray | None:
    """A weight as the target has it; None where it cannot be."""
    before, after = source.vocabulary, target.vocabulary
    axis = next((axis for axis, size in enumerate(wanted.shape) if size == len(after)), None)
    of_words = path.split("/")[-2:-1] in (["words"], ["words_head"])
    if axis is not None and of_words and before != after:
        rows = {piece: row for row, piece in enumerate(before)}
        kept = [(new, rows[piece]) for new, piece in enumerate(after) if piece in rows]
        said.append(f"{len(kept):,d} of {len(after):,d} pieces keep their embeddings, the rest start new")
        new, old = np.array(kept).T
        value = np.moveaxis(wanted.copy(), axis, 0)
        value[new] = np.moveaxis(found, axis, 0)[old]
        return np.moveaxis(value, 0, axis)
    if found.shape == wanted.shape:
        return found
    if "/axis_" in path and found.ndim == 2 and found.shape[1] == wanted.shape[1] and _of_pictures(path):
        said.append("positions are interpolated to the new size")
        places = (np.arange(len(wanted)) + 0.5) * len(found) / len(wanted) - 0.5
        return np.stack([np.interp(places, np.arange(len(found)), column) for column in found.T], axis=1)
    return None


def _of_pictures(path: str) -> bool:
    return path.startswith(("image_encoder/", "vision/"))


def _by_path(model: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Weights by path, from the outermost model inwards."""
    for layer in model.layers:
        if hasattr(layer, "layers"):
            yield from _by_path(layer, f"{prefix}{layer.name}/")
        else:
            yield from ((prefix + weight.path, weight) for weight in layer.weights)


def _bare(model: Any, *, without_encoder: bool = False) -> Any:
    """The same layers without the optimizer, whose state Keras would store among the weights."""
    import keras

    from vtx_keras.layers import cut

    if without_encoder:
        features = model.get_layer("vision").input
        return cut(model, {"tokens": model.input["tokens"], features.name: features}, model.output)
    return keras.Model(model.input, model.output)


def halve(path: Path, vectors: bool = True) -> None:
    """Rewrite an HDF5 weights file with float16 in place of float32, the bytes packed: HDF5 unpacks as it reads.

    Without `vectors` only what multiplies is halved, not norms and biases.
    """
    import h5py

    small = path.with_name(path.name + ".half")
    with h5py.File(path, "r") as source, h5py.File(small, "w", libver=("v108", "v110")) as target:

        def copy(name: str, item: Any) -> None:
            if isinstance(item, h5py.Dataset):
                value = item[()]
                if getattr(value, "dtype", None) == np.float32 and (vectors or value.ndim > 1):
                    value = value.astype("float16")
                packed = (
                    {"compression": "gzip", "compression_opts": 9, "shuffle": True}
                    if np.size(value) >= LEAST_PACKED
                    else {}
                )
                copied = target.create_dataset(name, data=value, **packed)
            else:
                copied = target.require_group(name)
            for key, attribute in item.attrs.items():
                copied.attrs[key] = attribute

        source.visititems(copy)
        for key, attribute in source.attrs.items():
            target.attrs[key] = attribute
    os.replace(small, path)


def file_hash(path: Path) -> str:
    """sha256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _config_hash(config: dict) -> str:
    content = {key: value for key, value in config.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def version_of(package: str) -> str | None:
    """The installed version of a package, or None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


if __name__ == "__main__":  # python -m vtx_keras.weights convert NAME
    import sys

    from vtx_keras.published import main

    sys.exit(main())
