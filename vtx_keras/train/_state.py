"""The state of a run in one file: every variable, and where the run stands. Written whole or not at all.

The file's name ends in a hash of its contents, so that a cut or altered one is known for what it is. Two are kept.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from vtx_keras._files import file_hash

KEPT = 2
HASH = 16  # characters of the sha256 in a file's name


class NotFinite(ArithmeticError):
    """Some variable is NaN or infinite: nothing to go on from."""


def variables(model: keras.Model) -> list[Any]:
    """All that changes while `model` trains: weights, seeds, the optimizer's and the metrics' variables, each once.

    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1), keras.layers.Dropout(0.5)])
    >>> model.compile("adam", "mse")
    >>> len(variables(model)) > len(model.weights)
    True
    """
    found: dict[int, Any] = {}
    for variable in [*model.variables, *model.optimizer.variables, *model.metrics_variables]:
        found.setdefault(id(variable), variable)
    return list(found.values())


def values_of(model: keras.Model) -> list[np.ndarray]:
    """The values of `variables`, bit for bit."""
    return [np.asarray(keras.ops.convert_to_numpy(variable)) for variable in variables(model)]


def size_of(model: keras.Model) -> int:
    """How many bytes `save` will write, nearly."""
    return sum(value.nbytes for value in values_of(model))


def save(folder: Path, model: keras.Model, position: dict[str, Any], step: int) -> Path:
    """Write the state after `step` steps; of older ones all but the last go."""
    values = values_of(model)
    if not all(np.isfinite(value.astype("float32")).all() for value in values if _is_float(value)):
        raise NotFinite(f"after {step} steps some weights are NaN or infinite")
    about = {"position": position, "step": step, "variables": [_told(value) for value in values]}
    folder.mkdir(exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=".step-", dir=folder)
    part = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            arrays: dict[str, Any] = {str(place): _as_bits(value) for place, value in enumerate(values)}
            np.savez(file, about=np.frombuffer(json.dumps(about).encode(), "uint8"), **arrays)
            file.flush()
            os.fsync(file.fileno())
        path = folder / f"step-{step:09d}-{file_hash(part)[:HASH]}.npz"
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    for old in states(folder)[KEPT:]:
        old.unlink()
    return path


def states(folder: Path) -> list[Path]:
    """State files, the latest first."""
    return sorted(folder.glob("step-*.npz"), reverse=True)


def latest(folder: Path) -> tuple[dict[str, Any], list[np.ndarray], list[str]]:
    """Position and values of the latest sound state, and what was wrong with those passed over.

    An empty position means that there is none.
    """
    complaints = []
    for path in states(folder):
        if file_hash(path)[:HASH] != path.stem.rsplit("-", 1)[-1]:
            complaints.append(f"{path} is damaged (its contents do not match its name): the one before it is used")
            path.replace(path.with_name(path.name + ".damaged"))  # out of the way of those to come
            continue
        with np.load(path, allow_pickle=False) as stored:
            about = json.loads(stored["about"].tobytes())
            values = [_from_bits(stored[str(place)], dtype) for place, (_, dtype) in enumerate(about["variables"])]
        return about["position"], values, complaints
    return {}, [], complaints


def clean(folder: Path) -> None:
    """Remove what a killed process left half-written. Only for who holds the folder."""
    for part in folder.glob(".step-*"):
        part.unlink()


def restore(model: keras.Model, values: list[np.ndarray]) -> None:
    """Give a model, built and compiled as the one that was saved, its values back."""
    ours = variables(model)
    if [_told(value) for value in values] != [_told(value) for value in values_of(model)]:
        raise ValueError(
            f"the saved state has {len(values)} variables that do not match this model's {len(ours)}: it was saved by "
            "another model, optimizer or version of Keras. Start a new run"
        )
    for variable, value in zip(ours, values, strict=True):
        variable.assign(value)


def digest(model: keras.Model) -> str:
    """A hash of all weights, to say that two models are the same to the bit.

    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    >>> digest(model) == digest(model)
    True
    """
    return _hash(keras.ops.convert_to_numpy(weight) for weight in model.weights)


def _hash(values: Iterable[np.ndarray]) -> str:
    told = hashlib.sha256()
    for value in values:
        bits: Any = np.ascontiguousarray(_as_bits(np.asarray(value)))  # a buffer, which NumPy's types do not say
        told.update(bits)
    return told.hexdigest()


def _is_float(value: np.ndarray) -> bool:
    return value.dtype.kind == "f" or value.dtype.name == "bfloat16"


def _told(value: np.ndarray) -> list:
    return [list(value.shape), value.dtype.name]


def _as_bits(value: np.ndarray) -> np.ndarray:
    return value.view("uint16") if value.dtype.name == "bfloat16" else value  # which NumPy's files do not know


def _from_bits(value: np.ndarray, dtype: str) -> np.ndarray:
    return value if value.dtype.name == dtype else value.view(np.dtype(dtype))
