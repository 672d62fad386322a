"""Where pictures come from on a command line: files, folders, patterns, addresses, standard input."""

from __future__ import annotations

import glob
import http.client
import re
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vtx_keras import media

MOST_BYTES = 64_000_000  # of a picture that is fetched or piped
SECONDS = 30  # to wait for a server


class Source(NamedTuple):
    """A picture's name and where it is: a path, its bytes, or None and what was wrong."""

    name: str
    picture: Any
    error: str = ""


def sources(given: Sequence[str], *, clips: bool = False) -> Iterator[Source]:
    """What each of `given` means, one after another; an address is fetched when its turn comes.

    A folder means the pictures in it, or with `clips` one clip whose frames they are. A pattern is expanded where the
    shell did not. "-" is one picture on standard input.

    >>> [source.error for source in sources(["nowhere/*.png"])]
    ['the pattern matches nothing']
    """
    for one in given:
        if one == "-":
            yield _held("-", _piped)
        elif re.match(r"https?://", one):
            yield _held(one, lambda one=one: _fetched(one))
        elif Path(one).is_dir() and not clips:
            yield from _in_folder(Path(one))
        elif not Path(one).exists() and glob.has_magic(one):
            found = sorted(glob.glob(one, recursive=True))
            yield from (Source(path, Path(path)) for path in found if clips or not Path(path).is_dir())
            if not found:
                yield Source(one, None, "the pattern matches nothing")
        else:
            yield Source(one, Path(one))


def _in_folder(folder: Path) -> Iterator[Source]:
    visible = (path for path in sorted(folder.iterdir()) if not path.name.startswith("."))
    found = [path for path in visible if path.suffix.lower() in media.SUFFIXES]
    yield from (Source(str(path), path) for path in found)
    if not found:
        yield Source(str(folder), None, f"the folder holds no picture ({', '.join(media.SUFFIXES)})")


def _held(name: str, read: Any) -> Source:
    try:
        data = read()
    except (OSError, ValueError, http.client.HTTPException) as error:  # no network, no such page, no such host
        return Source(name, None, f"could not be fetched: {error}")
    if len(data) > MOST_BYTES:
        return Source(name, None, f"more than {MOST_BYTES // 1_000_000} MB: fetch it and make it smaller")
    return Source(name, data) if data else Source(name, None, "nothing came")


def _piped() -> bytes:
    if sys.stdin is None:
        raise OSError("standard input is closed")
    return sys.stdin.buffer.read(MOST_BYTES + 1)


def _fetched(address: str) -> bytes:
    address = urllib.parse.quote(address, safe="%/:=&?~#+!$,;'@()*[]")  # as people write them, with spaces and accents
    request = urllib.request.Request(address, headers={"User-Agent": "vtx"})
    with urllib.request.urlopen(request, timeout=SECONDS) as answer:
        return answer.read(MOST_BYTES + 1)
