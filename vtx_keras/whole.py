"""Files that are there whole or not at all: written under a temporary name beside their own, then renamed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
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
