"""A line that says how far long work is, where a person waits for it."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

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
