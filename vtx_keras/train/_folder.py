"""Manage a run's folder: choose and lock it, write `run.json`, and save and restore states."""

from __future__ import annotations

import contextlib
import json
import math
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from vtx_keras._files import alone, file_hash, version_of, write
from vtx_keras.checkpoints._folder import NotFinite, as_bits

RUN, STATES = "run.json", "states"
PACKAGES = ("vtx_keras", "keras", "keras-hub", "tensorflow", "tensorflow-text", "tensorflow-datasets", "jax", "numpy")


class BadRun(ValueError):
    """Raised for a run folder that cannot be used."""


def choose(folder: str | os.PathLike | None, name: str, identity: Mapping[str, Any], new: bool) -> tuple[Path, bool]:
    """Return the folder of this run, and whether it resumes a run.

    Without `folder`, it is that of the unfinished run with the same `identity` in `runs/`, or else the next free
    `runs/name-N`.
    """
    if folder is not None:
        folder = Path(folder)
        if not (folder / RUN).is_file():
            if folder.exists() and (not folder.is_dir() or not _empty(folder)):
                raise BadRun(f"{folder} holds something that is not a run: choose another place")
            return folder, False
        if new:
            raise BadRun(f"{folder} holds a run already: a new one needs another place")
        _check_same(read(folder), identity, folder)
        return folder, True
    root = Path("runs")
    if not new:
        for path in sorted(root.glob(f"{name}*/{RUN}"), key=lambda path: path.stat().st_mtime, reverse=True):
            with contextlib.suppress(BadRun, OSError):
                about = read(path.parent)
                if _without_modules(about["identity"]) == _as_json(identity) and about["state"] != "finished":
                    return path.parent, True
    taken = {path.name for path in root.glob(f"{name}*") if not path.is_dir() or not _empty(path)}
    number = next(number for number in range(1, 10_000) if _numbered(name, number) not in taken)
    return root / _numbered(name, number), False


def _empty(folder: Path) -> bool:
    """Return whether a folder holds no visible files; a dry run may have left a lock."""
    return all(one.startswith(".") for one in os.listdir(folder))


def _numbered(name: str, number: int) -> str:
    return name if number == 1 else f"{name}-{number}"


def _check_same(about: dict, identity: Mapping[str, Any], folder: Path) -> None:
    """Raise `BadRun` if the folder's run has another identity."""
    stored, current = _without_modules(about["identity"]), _as_json(identity)
    changed = [key for key in sorted({*stored, *current} - {"start"}) if stored.get(key) != current.get(key)]
    if changed:
        differences = "; ".join(
            f"{key} was {_short(stored.get(key))}, now is {_short(current.get(key))}" for key in changed
        )
        raise BadRun(
            f"{folder} holds a run with other settings ({differences}). Repeat its command, or give another folder"
        )


def _without_modules(identity: Any) -> Any:
    """Remove the modules of classes from an identity; older runs stored them."""
    if not isinstance(identity, dict):
        return identity
    return {key: _without_modules(value) for key, value in identity.items() if key != "module"}


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _as_json(value: Any) -> Any:
    """Convert a value to what JSON returns for it; numbers that are not finite become strings."""
    if isinstance(value, Mapping):
        return {str(key): _as_json(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_as_json(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, (bool, int, float, str, type(None))) else str(value)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Create the folder and lock it against other processes; the system releases the lock however this one ends."""
    with contextlib.ExitStack() as held:
        try:
            first = held.enter_context(alone(folder))
        except OSError as error:
            raise BadRun(f"cannot write in {folder} ({error.strerror}): choose another place") from error
        if not first:
            raise BadRun(f"another process is training in {folder}: wait for it, or give another folder")
        for name in ("best", "last"):  # restore or remove what a killed process left
            for old in () if (folder / name).exists() else sorted(folder.glob(f".{name}.*.old"))[-1:]:
                old.rename(folder / name)
            for part in folder.glob(f".{name}.*"):
                shutil.rmtree(part, ignore_errors=True)
        yield


def check_room(folder: Path, needed: int) -> None:
    """Raise `BadRun` if the disk has no room for the run's files."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise BadRun(f"{folder} has {free / 1e6:,.0f} MB free: this run needs about {needed / 1e6:,.0f} MB")


def read(folder: Path) -> dict:
    """Read `run.json`."""
    try:
        about = json.loads((folder / RUN).read_text(encoding="utf-8"))
        assert isinstance(about["identity"], dict)
        assert isinstance(about["state"], str)
    except (ValueError, KeyError, TypeError, AssertionError) as error:
        raise BadRun(f"{folder / RUN} is damaged or not of a run: give another folder") from error
    return about


def update(folder: Path, **changes: Any) -> None:
    """Change fields of `run.json`."""
    about = read(folder) if (folder / RUN).is_file() else {}
    write(folder / RUN, json.dumps(_as_json({**about, **changes}), indent=1, ensure_ascii=False) + "\n")


def surroundings() -> dict[str, Any]:
    """Return versions, backend, machine and, in a git checkout, the commit."""
    import keras

    return {
        "versions": {name: version_of(name) for name in PACKAGES},
        "backend": keras.backend.backend(),
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors",
        "git": _commit(),
    }


def _commit() -> str | None:
    try:
        outputs = [
            subprocess.run(["git", *arguments], capture_output=True, text=True, check=True, timeout=10).stdout.strip()
            for arguments in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        ]
    except (OSError, subprocess.SubprocessError):
        return None
    return outputs[0] + (" and changes that are not committed" if outputs[1] else "")


# --- states

KEPT = 2  # state files in a folder
HASH = 16  # characters of the sha256 in a file's name


def variables(model: keras.Model) -> list[Any]:
    """Return all variables that training changes, each once: weights, seeds, and those of the optimizer and metrics.

    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1), keras.layers.Dropout(0.5)])
    >>> model.compile("adam", "mse")
    >>> len(variables(model)) > len(model.weights)
    True
    """
    by_id: dict[int, Any] = {}
    for variable in [*model.variables, *model.optimizer.variables, *model.metrics_variables]:
        by_id.setdefault(id(variable), variable)
    return list(by_id.values())


def values_of(model: keras.Model) -> list[np.ndarray]:
    """Return the exact values of `variables`."""
    return [np.asarray(keras.ops.convert_to_numpy(variable)) for variable in variables(model)]


def size_of(model: keras.Model) -> int:
    """Return about how many bytes a state file takes."""
    return sum(value.nbytes for value in values_of(model))


def save_state(folder: Path, model: keras.Model, position: dict[str, Any], step: int) -> Path:
    """Write the state after `step` steps, and remove all but the newest KEPT."""
    values = values_of(model)
    if not all(np.isfinite(value.astype("float32")).all() for value in values if _is_float(value)):
        raise NotFinite(f"after {step} steps some weights are NaN or infinite")
    about = {"position": position, "step": step, "variables": [_shape_and_dtype(value) for value in values]}
    folder.mkdir(exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=".step-", dir=folder)
    part = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            arrays: dict[str, Any] = {str(place): as_bits(value) for place, value in enumerate(values)}
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
    """Return the state files, newest first."""
    return sorted(folder.glob("step-*.npz"), reverse=True)


def latest(folder: Path) -> tuple[dict[str, Any], list[np.ndarray], list[str]]:
    """Return position and values of the newest intact state, and messages about damaged ones.

    Without an intact state the position is empty.
    """
    messages = []
    for path in states(folder):
        if file_hash(path)[:HASH] != path.stem.rsplit("-", 1)[-1]:
            messages.append(f"{path} is damaged (its contents do not match its name): the one before it is used")
            path.replace(path.with_name(path.name + ".damaged"))  # no longer listed as a state
            continue
        with np.load(path, allow_pickle=False) as stored:
            about = json.loads(stored["about"].tobytes())
            values = [_from_bits(stored[str(place)], dtype) for place, (_, dtype) in enumerate(about["variables"])]
        return about["position"], values, messages
    return {}, [], messages


def clean(folder: Path) -> None:
    """Remove partial state files of a killed process; the folder must be locked."""
    for part in folder.glob(".step-*"):
        part.unlink()


def restore(model: keras.Model, values: list[np.ndarray]) -> None:
    """Assign saved values to a model that is built and compiled like the saved one."""
    current = variables(model)
    if [_shape_and_dtype(value) for value in values] != [_shape_and_dtype(value) for value in values_of(model)]:
        raise ValueError(
            f"the saved state has {len(values)} variables that do not match this model's {len(current)}: it was saved "
            "by another model, optimizer or version of Keras. Start a new run"
        )
    for variable, value in zip(current, values, strict=True):
        variable.assign(value)


def _is_float(value: np.ndarray) -> bool:
    return value.dtype.kind == "f" or value.dtype.name == "bfloat16"


def _shape_and_dtype(value: np.ndarray) -> list:
    return [list(value.shape), value.dtype.name]


def _from_bits(value: np.ndarray, dtype: str) -> np.ndarray:
    return value if value.dtype.name == dtype else value.view(np.dtype(dtype))
