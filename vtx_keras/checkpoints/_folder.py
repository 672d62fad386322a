"""Weights folders: written completely or not at all, verified before they are read, never replaced by random weights.

A weights folder holds `config.json` (name, options, versions, the sha256 of the other files and of its own contents),
`model.weights.h5` and `vocabulary.txt`. It holds data, never code.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import math
import os
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vtx_keras._files import file_hash, recovered
from vtx_keras.checkpoints.published._catalogue import CATALOGUE, tags_of
from vtx_keras.inputs.text import SPECIALS, UNK, can_be_piece
from vtx_keras.models.options import ABOUT, MODELS, did_you_mean, lookup, options_of, resolve

CONFIG, WEIGHTS, VOCABULARY = "config.json", "model.weights.h5", "vocabulary.txt"
MOST_JSON = 64_000_000  # bytes of a config: those with the tokenizer of a language model take up to 35 MB
MOST_PACKED = 1_100  # how many times smaller an array may be in an HDF5 file: gzip's limit
KINDS = {"name": str, "overrides": dict, "files": dict, "dtype": str, "lines": dict}  # of a config's entries
MIN_COMPRESSED = 256  # numbers in an array: compressing fewer saves nothing


class BadWeights(ValueError):
    """Raised for weights that are missing, incomplete, altered, or made for another model."""


def released_root() -> Path:
    """Return the folder of released models: inside an installed package, else `zoo/` of the checkout."""
    package = Path(__file__).parents[1]
    installed = package / "released"
    return installed if installed.is_dir() else package.parent / "zoo"


def released_tags(name: str) -> list[str]:
    """Return the released tags of a model."""
    return sorted(path.parent.name for path in released_root().glob(f"{name}/*/{CONFIG}"))


def find(name: str, weights: str | os.PathLike, default: str | None) -> Path:
    """Return the folder that `weights=` means for the model `name`: its default release, a tag, or a folder."""
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
    folder = recovered(Path(weights))
    recovered(folder / "best")
    if (folder / "best" / CONFIG).is_file() and not (folder / CONFIG).is_file():
        folder = folder / "best"
    if not (folder / CONFIG).is_file():
        problem = f"is a folder without {CONFIG}" if folder.is_dir() else "is neither a folder here nor a released tag"
        raise BadWeights(
            f"weights={str(weights)!r} {problem}. Released tags of {name}: {', '.join(tags) or 'none'}. Other values "
            'are None, "default", "encoders", a folder written by zoo.save or by training, "hf://owner/name", or '
            f"the tag of a published checkpoint{did_you_mean(str(weights), CATALOGUE)}: vtx list --published."
        )
    return folder


def parse_config(path: Path) -> dict:
    """Read a config.json, after checking its contents against the hash in it."""
    if (size := path.stat().st_size) > MOST_JSON:
        raise BadWeights(f"{path} has {size:,d} bytes: expected at most {MOST_JSON:,d}")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise BadWeights(f"{path} is no JSON, or is cut off: {error}. Copy or download it again.") from error
    if not isinstance(config, dict) or config.get("sha256") != config_hash(config):
        raise BadWeights(f"{path} is damaged or was edited: its contents do not match its hash. Copy the folder again.")
    return config


def read_config(folder: Path) -> dict:
    """Read the config of a weights folder, after checking the hash of every file."""
    config = parse_config(folder / CONFIG)
    for key, kind in KINDS.items():
        if not isinstance(config.get(key, kind() if key in ("dtype", "lines") else None), kind):
            raise BadWeights(f"{folder / CONFIG} has {key} {config.get(key)!r:.80}: it was not written by zoo.save")
    if not {WEIGHTS, VOCABULARY} <= set(config.get("files") or ()):
        raise BadWeights(f"{folder / CONFIG} has no sha256 of {WEIGHTS} and {VOCABULARY}. Copy the folder again.")
    for name, wanted in config["files"].items():
        if Path(name).name != name:
            raise BadWeights(f"{folder / CONFIG} names {name!r}, which is not in the folder")
        if not (folder / name).is_file():
            raise BadWeights(f"{folder / name} is missing. Copy the folder again.")
        if file_hash(folder / name) != wanted:
            raise BadWeights(
                f"{folder / name} is damaged: its sha256 is not the one in {CONFIG}. Copy the folder again."
            )
    try:
        pieces = (folder / VOCABULARY).read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise BadWeights(f"{folder / VOCABULARY} is not UTF-8: {error}. Copy the folder again.") from error
    if not config.get("rule") and not (SPECIALS[UNK] in pieces and all(map(can_be_piece, pieces))):
        lines = [number for number, piece in enumerate(pieces, start=1) if not can_be_piece(piece)]
        what = f"line {lines[0]}, is no piece of a text" if lines else f"has no {SPECIALS[UNK]}"
        raise BadWeights(f"{folder / VOCABULARY} {what}. Copy the folder again.")
    config["vocabulary"] = [config.get("lines", {}).get(str(i), piece) for i, piece in enumerate(pieces)]
    return config


def keras_config(path: Path) -> bytes:
    """Return the config in a `.keras` file, after checking that the file is whole and as large as what it unpacks."""
    if path.is_dir() or not zipfile.is_zipfile(path):
        raise BadWeights(f"{path} is not a .keras file (or is cut short), nor a weights folder")
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = {one.filename: one.file_size for one in archive.infolist()}
            if sizes.get(CONFIG, 0) > MOST_JSON or sum(sizes.values()) > MOST_JSON + 4 * path.stat().st_size:
                raise BadWeights(f"{path} unpacks to {sum(sizes.values()):,d} bytes: Keras stores them as they are")
            damaged, config = archive.testzip(), archive.read(CONFIG)
            with archive.open(WEIGHTS) as weights:
                check_arrays(weights, path, packed=4)
    except BadWeights:
        raise
    except Exception as error:  # those of zipfile, zlib and HDF5 have no common class
        raise BadWeights(f"{path} is damaged or not a .keras file: {error}") from error
    if damaged:
        raise BadWeights(f"{path} is damaged: {damaged} in it does not match its checksum. Copy it again.")
    return config


def check_arrays(file: Any, where: Path, most: float = math.inf, packed: int = MOST_PACKED) -> int:
    """Return how many numbers an HDF5 file has; raise `BadWeights` for an array that would fill memory in vain.

    That is one of more than `most` numbers, or of more than its place in the file can hold.
    """
    import h5py

    total = 0

    def check(name: str, item: Any) -> None:
        nonlocal total
        if isinstance(item, h5py.Dataset):
            bound = min(most, (packed * item.id.get_storage_size() + 4096) / max(1, item.dtype.itemsize))
            if item.size is not None and item.size > bound:
                raise BadWeights(
                    f"{where}: {name} has shape {item.shape}, and {bound:,.0f} numbers are expected at most"
                )
            total += item.size or 0

    try:
        with h5py.File(file, "r") as weights:
            weights.visititems(check)
    except BadWeights:
        raise
    except Exception as error:  # HDF5 raises many
        raise BadWeights(f"{where} is no HDF5 file, or is damaged: {error}. Copy it again.") from error
    return total


def check_size(options: Mapping[str, Any], folder: Path) -> None:
    """Raise `BadWeights` if a config describes more than its weights file holds, before a model is built of it."""
    held = check_arrays(folder / WEIGHTS, folder / WEIGHTS)
    own = {"depth": "text_decoder", "text_depth": "text_encoder", "vision_depth": "image_encoder"}
    usual = ("blocks", "transformer", "vit")
    blocks = [
        options.get(depth) or 0
        for (depth, part), name in zip(own.items(), usual, strict=True)
        if options.get(part, name) == name
    ]
    wanted = sum(blocks) * options["dim"] ** 2  # of twelve times that, unless it was made smaller
    if wanted > held:
        raise BadWeights(
            f"{folder / CONFIG} describes {sum(blocks)} blocks of width {options['dim']}, of more than {wanted:,d} "
            f"numbers, and {WEIGHTS} holds {held:,d}: they are not of one model"
        )


def halve(path: Path, vectors: bool = True) -> None:
    """Rewrite an HDF5 weights file in place, compressed, float32 as float16 where it fits; HDF5 reads it as is.

    Without `vectors`, only arrays of two or more axes become float16, not norms and biases.
    """
    import h5py

    temporary = path.with_name(path.name + ".half")
    with h5py.File(path, "r") as source, h5py.File(temporary, "w", libver=("v108", "v110")) as target:

        def copy(name: str, item: Any) -> None:
            if isinstance(item, h5py.Dataset):
                value = item[()]
                if getattr(value, "dtype", None) == np.float32 and (vectors or value.ndim > 1):
                    with np.errstate(over="ignore"):
                        small = value.astype("float16")
                    value = small if np.isfinite(small).all() else value  # some variances are beyond 65,504
                compression = {"compression": "gzip", "compression_opts": 9, "shuffle": True}
                options = compression if np.size(value) >= MIN_COMPRESSED else {}
                copied = target.create_dataset(name, data=value, **options)
            else:
                copied = target.require_group(name)
            for key, attribute in item.attrs.items():
                copied.attrs[key] = attribute

        source.visititems(copy)
        for key, attribute in source.attrs.items():
            target.attrs[key] = attribute
    os.replace(temporary, path)


def config_hash(config: dict) -> str:
    """Return the sha256 of a config's contents, without the hash stored in it."""
    content = {key: value for key, value in config.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def digest(model: Any) -> str:
    """Return a hash of all weights, equal for bitwise equal models.

    >>> import keras
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    >>> digest(model) == digest(model)
    True
    """
    import keras

    sha256 = hashlib.sha256()
    for weight in model.weights:
        bits: Any = np.ascontiguousarray(as_bits(np.asarray(keras.ops.convert_to_numpy(weight))))  # a buffer
        sha256.update(bits)
    return sha256.hexdigest()


def as_bits(value: np.ndarray) -> np.ndarray:
    """Return a bfloat16 array as 16-bit integers, because NumPy's files have no bfloat16."""
    return value.view("uint16") if value.dtype.name == "bfloat16" else value


def check_decoder(saved: Mapping[str, Any], given: Mapping[str, Any], vocabulary: Any, folder: Path) -> None:
    """Raise an error for options that the language model of a saved captioner decides, or that would bring one in."""
    has = isinstance(saved.get("text_decoder"), dict)
    if "text_decoder" in given and given["text_decoder"] != saved.get("text_decoder", "blocks"):
        raise ValueError(
            f"text_decoder=: the weights of {folder} have text blocks of their own: build with weights='encoders', "
            "which loads the language model and leaves what stands between new"
        )
    decided = [name for name in ("dim", "heads", "depth", "size") if name in given and given[name] != saved.get(name)]
    if has and (decided or vocabulary is not None):
        what = decided[0] if decided else "vocabulary"
        raise BadWeights(f"{what}=: the language model of {folder} decides it: leave it out")


class NotFinite(BadWeights):
    """Raised for weights that are NaN or infinite."""


def check_finite(model: Any, where: Path) -> None:
    """Raise `NotFinite` if a weight is NaN or infinite, with its name."""
    import keras

    for weight in model.weights:
        if "float" in weight.dtype and not bool(keras.ops.all(keras.ops.isfinite(weight))):
            raise NotFinite(
                f"{where}: {weight.path} has values that are NaN or infinite, and the model would say nothing of use. "
                "Take weights of an earlier epoch, or train with a smaller learning rate"
            )


def list_models(pattern: str = "*", released: bool | None = None, published: bool | None = None) -> list[str]:
    """Return the names that match a pattern; `released` True or False: only those with or without released weights.

    `published` likewise: those that the tags of published checkpoints belong to (docs/checkpoints.md).

    >>> list_models("co_attn_*_vqa"), list_models("*_matcher", published=True)
    (['co_attn_video_vqa'], ['cross_attn_matcher'])
    """
    names = fnmatch.filter(MODELS, pattern)
    names = [name for name in names if released is None or bool(released_tags(name)) == released]
    return [name for name in names if published is None or bool(tags_of(name)) == published]


def describe(name: str) -> dict:
    """Describe a name: its task, fusion, inputs, released tags, and options with their defaults.

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
        "published": tags_of(name),
        "options": {
            option: {"default": defaults[option], "about": row.about, "takes": row.takes}
            for option, row in options_of(entry.task).items()
        },
    }


def facts(name: str, tag: str) -> dict:
    """Return a released model's parameters, megabytes, data, licence, and headline figure with its interval.

    >>> facts("cross_attn_captioner", "emoji")["data"]
    'emoji, emoji_more, word_cards'
    """
    path = released_root() / name / tag / "results.json"
    results = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if "headline" not in results:  # not evaluated yet
        return {}
    return {key: results[key] for key in ("parameters", "megabytes", "data", "licence", "headline")}


# --- transfer of weights between models: by path, matched to another grid, length or vocabulary where they can be


def transfer(source: Any, target: Any, *, new_head: bool) -> None:
    """Copy weights by path. With `new_head` the head stays new.

    Positions are matched to another grid or length and embeddings by piece to another vocabulary, with a warning;
    anything else that does not fit is an error.
    """
    stored = dict(by_path(source))
    misfits, copies = [], []
    notes: list[str] = []
    for path, variable in by_path(target):
        if new_head and path.startswith("head/"):
            continue
        weight = stored.get(path)
        value = None if weight is None else _adapted(path, np.array(weight), np.array(variable), source, target, notes)
        if value is None:
            misfits.append((path, tuple(variable.shape), "nothing" if weight is None else tuple(weight.shape)))
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
        notes.append("the head is new (its classes changed); all else keeps its weights")
    if notes:
        warnings.warn(f"{target.name}: {'; '.join(dict.fromkeys(notes))}", stacklevel=4)


def _adapted(
    path: str, stored: np.ndarray, new: np.ndarray, source: Any, target: Any, notes: list[str]
) -> np.ndarray | None:
    """Return a weight in the form that the target has, or None if it does not fit; add to `notes` what was changed."""
    before, after = source.vocabulary, target.vocabulary
    if before != after and after.axis_of(path) is not None:
        value, count = after.moved(path, stored, new, before)
        notes.append(f"{count:,d} of {len(after):,d} pieces keep their embeddings, the rest start new")
        return value
    if stored.shape == new.shape:
        return stored
    if "/axis_" not in path or stored.ndim != 2 or stored.shape[1] != new.shape[1]:
        return None
    of_words, places = not path.startswith(("image_encoder/", "vision/")), np.arange(len(new), dtype="float64")
    notes.append(f"texts have {len(new)} positions" if of_words else "positions are interpolated to the new size")
    places = places if of_words else (places + 0.5) * len(stored) / len(new) - 0.5  # beyond the last word: the last
    return np.stack([np.interp(places, np.arange(len(stored)), column) for column in stored.T], axis=1)


def by_path(model: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the weights of a model and of models inside it, with their paths."""
    for layer in model.layers:
        if hasattr(layer, "layers"):
            yield from by_path(layer, f"{prefix}{layer.name}/")
        else:
            yield from ((prefix + weight.path, weight) for weight in layer.weights)


def other_classes(saved: dict, wanted: dict) -> bool:
    """Return whether the classes differ, in number or names, so that the head must be new."""
    before, after = saved.get("classes"), wanted.get("classes")
    numbers = [value if isinstance(value, int) or value is None else len(value) for value in (before, after)]
    renamed = isinstance(before, list) and isinstance(after, list) and before != after
    return numbers[0] != numbers[1] or renamed
