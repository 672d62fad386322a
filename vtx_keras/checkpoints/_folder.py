"""Weights folders: written whole or not at all, verified before they are read, never replaced by random numbers.

A weights folder holds `config.json` (name, options, versions, and the sha256 of everything, itself included),
`model.weights.h5` and `vocabulary.txt`. It is data, never code.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from vtx_keras._files import file_hash
from vtx_keras.models.options import ABOUT, MODELS, lookup, options_of, resolve

CONFIG, WEIGHTS, VOCABULARY = "config.json", "model.weights.h5", "vocabulary.txt"
LEAST_PACKED = 256  # numbers: packing fewer saves nothing


class BadWeights(ValueError):
    """A weights folder that is incomplete, altered, or made for another model."""


def released_root() -> Path:
    """Where released models lie: inside an installed package, else in the checkout's `zoo/`."""
    package = Path(__file__).parents[1]
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
        intact = config["sha256"] == config_hash(config)
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


def config_hash(config: dict) -> str:
    """The sha256 of a config's contents, without the hash that it stores of itself."""
    content = {key: value for key, value in config.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def list_models(pattern: str = "*", released: bool | None = None) -> list[str]:
    """Every name that matches; `released=True` those that come with weights, False those that do not yet.

    >>> list_models("co_attn_*_vqa")
    ['co_attn_video_vqa']
    """
    names = fnmatch.filter(MODELS, pattern)
    return [name for name in names if released is None or bool(released_tags(name)) == released]


def describe(name: str) -> dict:
    """What a name stands for: task, fusion, inputs, released tags, and its options with their defaults.

    >>> describe("gated_vqa")["fusion"]
    'gated'
    """
    entry = lookup(name)
    defaults = resolve(entry.task, entry.video, {})
    return {
        "name": name,
        "task": entry.task,
        "fusion": entry.fusion,
        "video": entry.video,
        "about": ABOUT[entry.task],
        "released": released_tags(name),
        "options": {
            option: {"default": defaults[option], "about": row.about, "takes": row.takes}
            for option, row in options_of(entry.task).items()
        },
    }


def facts(name: str, tag: str) -> dict:
    """What a released model is known by: parameters, megabytes, data, licence, and its first figure with its interval.

    >>> facts("cross_attn_captioner", "emoji")["data"]
    'emoji, emoji_more, word_cards'
    """
    path = released_root() / name / tag / "results.json"
    results = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if "headline" not in results:  # it has not been judged yet
        return {}
    return {key: results[key] for key in ("parameters", "megabytes", "data", "licence", "headline")}
