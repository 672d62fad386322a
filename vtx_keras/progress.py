"""A line that says how far long work is, where a person waits for it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

PATIENCE, PAUSE = 2.0, 0.2  # seconds without a line, and between two


def telling(what: str, total: int | None = None) -> Callable[[int], None]:
    """A function to be told how many are done: on a terminal it says so in one line, after two seconds.

    Its line ends with the last of `total`; without one, call it with a negative number at the end.

    >>> tell = telling("pictures", 3)
    >>> tell(1)
    """
    start = said = time.monotonic()
    begun = False

    def tell(done: int) -> None:
        nonlocal said, begun
        now, last = time.monotonic(), done < 0 or done == total
        if not sys.stderr.isatty() or now - start < PATIENCE or (now - said < PAUSE and not last):
            return
        if done >= 0:
            said, begun = now, True
            of = "" if total is None else f" of {total:,d}"
            print(f"\r{what}: {done:,d}{of}", end="", file=sys.stderr, flush=True)
        if last and begun:
            begun = False
            print(file=sys.stderr)

    return tell
