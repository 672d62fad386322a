"""A run's folder: which one, that it is ours alone, that there is room, and what it says of the run."""

from __future__ import annotations

import contextlib
import json
import math
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vtx_keras._files import version_of, write

RUN, STATES, LOCK = "run.json", "states", ".lock"
PACKAGES = ("vtx_keras", "keras", "keras-hub", "tensorflow", "tensorflow-text", "tensorflow-datasets", "jax", "numpy")


class BadRun(ValueError):
    """A run folder that cannot be used, and why."""


def choose(folder: str | os.PathLike | None, name: str, identity: Mapping[str, Any], new: bool) -> tuple[Path, bool]:
    """The folder of this run, and whether it goes on with one that was begun.

    Without a `folder` it is the unfinished run of the same `identity` in `runs/`, else the next free `runs/name-N`.
    """
    if folder is not None:
        folder = Path(folder)
        if not (folder / RUN).is_file():
            if folder.exists() and (not folder.is_dir() or not _empty(folder)):
                raise BadRun(f"{folder} holds something that is not a run: choose another place")
            return folder, False
        if new:
            raise BadRun(f"{folder} holds a run already: a new one needs another place")
        _same(read(folder), identity, folder)
        return folder, True
    root = Path("runs")
    if not new:
        for path in sorted(root.glob(f"{name}*/{RUN}"), key=lambda path: path.stat().st_mtime, reverse=True):
            with contextlib.suppress(BadRun, OSError):
                about = read(path.parent)
                if about["identity"] == _plain(identity) and about["state"] != "finished":
                    return path.parent, True
    taken = {path.name for path in root.glob(f"{name}*") if not path.is_dir() or not _empty(path)}
    number = next(number for number in range(1, 10_000) if _numbered(name, number) not in taken)
    return root / _numbered(name, number), False


def _empty(folder: Path) -> bool:
    """Without files that anyone sees: a lock may be there, such as a dry run leaves."""
    return all(one.startswith(".") for one in os.listdir(folder))


def _numbered(name: str, number: int) -> str:
    return name if number == 1 else f"{name}-{number}"


def _same(about: dict, identity: Mapping[str, Any], folder: Path) -> None:
    was, now = about["identity"], _plain(identity)
    changed = [key for key in sorted({*was, *now} - {"start"}) if was.get(key) != now.get(key)]
    if changed:
        told = "; ".join(f"{key} was {_short(was.get(key))}, now is {_short(now.get(key))}" for key in changed)
        raise BadRun(f"{folder} holds a run with other settings ({told}). Repeat its command, or give another folder")


def _short(value: Any) -> str:
    told = json.dumps(value)
    return told if len(told) <= 60 else told[:57] + "..."


def _plain(value: Any) -> Any:
    """As JSON gives it back; what JSON has no number for, as a word."""
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, (bool, int, float, str, type(None))) else str(value)


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Makes the folder, and keeps any other process out of it; the system lets go of it however this one ends."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / LOCK, "a")  # noqa: SIM115 (held open as long as the run lasts)
    except OSError as error:
        raise BadRun(f"cannot write in {folder} ({error.strerror}): choose another place") from error
    try:
        import fcntl

        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except ImportError:  # Windows has no flock; there a second process is not noticed
        pass
    except OSError as error:
        lock.close()
        raise BadRun(f"another process is training in {folder}: wait for it, or give another folder") from error
    with lock:
        for name in ("best", "last"):  # what a killed process left half-written, or put aside
            for old in () if (folder / name).exists() else sorted(folder.glob(f".{name}.*.old"))[-1:]:
                old.rename(folder / name)
            for part in folder.glob(f".{name}.*"):
                shutil.rmtree(part, ignore_errors=True)
        yield


def check_room(folder: Path, needed: int) -> None:
    """Say at once if the disk cannot hold the run's files."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise BadRun(f"{folder} has {free / 1e6:,.0f} MB free: this run needs about {needed / 1e6:,.0f} MB")


def read(folder: Path) -> dict:
    """What `run.json` says."""
    try:
        about = json.loads((folder / RUN).read_text(encoding="utf-8"))
        assert isinstance(about["identity"], dict)
        assert isinstance(about["state"], str)
    except (ValueError, KeyError, TypeError, AssertionError) as error:
        raise BadRun(f"{folder / RUN} is damaged or not of a run: give another folder") from error
    return about


def tell(folder: Path, **changes: Any) -> None:
    """Change what `run.json` says."""
    about = read(folder) if (folder / RUN).is_file() else {}
    write(folder / RUN, json.dumps(_plain({**about, **changes}), indent=1, ensure_ascii=False) + "\n")


def surroundings() -> dict[str, Any]:
    """Versions, backend, machine and the commit of the checkout this runs in, if it is one."""
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
        told = [
            subprocess.run(["git", *words], capture_output=True, text=True, check=True, timeout=10).stdout.strip()
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        ]
    except (OSError, subprocess.SubprocessError):
        return None
    return told[0] + (" and changes that are not committed" if told[1] else "")
