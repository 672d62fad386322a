"""Files: written whole or not at all, hashed, and a line that says how far long work is."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


@contextlib.contextmanager
def whole(path: str | os.PathLike) -> Iterator[Path]:
    """The name to write under; it takes the place of `path` when all went well, and is gone otherwise.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "new folder", "a.txt")
    >>> with whole(path) as part:
    ...     _ = part.write_text("all of it")
    >>> path.read_text(), len(list(path.parent.iterdir()))
    ('all of it', 1)
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: expected a file's name")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{os.getpid()}.{path.name}")  # its suffix is kept, for some writers go by it
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write(path: str | os.PathLike, content: str | bytes) -> None:
    """Text (as UTF-8) or bytes into a file."""
    with whole(path) as part:
        part.write_bytes(content.encode() if isinstance(content, str) else content)


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


def file_hash(path: Path) -> str:
    """sha256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def version_of(package: str) -> str | None:
    """The installed version of a package, or None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


PATIENCE, PAUSE = 2.0, 0.2  # seconds without a line, and between two


@contextlib.contextmanager
def telling(what: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """A function to be told how many are done: on a terminal it says so in one line, after two seconds.

    >>> with telling("pictures", 3) as tell:
    ...     tell(1)
    """
    start = said = time.monotonic()
    told = False

    def tell(done: int) -> None:
        nonlocal said, told
        now = time.monotonic()
        if sys.stderr.isatty() and now - start > PATIENCE and (now - said > PAUSE or done == total):
            said, told = now, True
            of = "" if total is None else f" of {total:,d}"
            print(f"\r{what}: {done:,d}{of}", end="", file=sys.stderr, flush=True)

    try:
        yield tell
    finally:
        if told:
            print(file=sys.stderr)
