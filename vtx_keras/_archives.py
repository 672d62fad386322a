"""Published archives: fetched by their registry's own client, pinned by version and sha256, read without unpacking."""

from __future__ import annotations

import fnmatch
import importlib.util
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from vtx_keras._files import file_hash


class BadArchive(OSError):
    """An archive that is missing, cannot be fetched, or is not the one that was pinned."""


class Archive(NamedTuple):
    """One published file. `client` is "npm", "pip" or "apt"; `file` is what that client calls it."""

    client: str
    package: str
    version: str
    file: str
    sha256: str
    licence: str


CLIENTS = {  # the command, without the package; who brings it; how a package and a version are joined
    "npm": (["npm", "pack", "--silent"], "Node.js (nodejs.org, or your system's package nodejs)", "@"),
    "pip": ([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"], "python -m ensurepip", "=="),
    "apt": (["apt-get", "download", "--quiet"], "a Debian or Ubuntu system (a container will do)", "="),
}


def fetch(archive: Archive, folder: str | os.PathLike, say: Callable[[str], object] = print) -> Path:
    """The archive's path in `folder`, fetched if it is not there; its hash is checked every time.

    A file put there by hand is as good. What is being fetched lies in a hidden folder until it is whole and right, so
    a broken run leaves nothing that a later one could take for an archive.

    >>> folder = tempfile.mkdtemp()
    >>> _ = Path(folder, "a.tgz").write_bytes(b"put here by hand")
    >>> fetch(Archive("npm", "a", "1.0", "a.tgz", file_hash(Path(folder, "a.tgz")), "MIT"), folder).name
    'a.tgz'
    """
    path = Path(folder) / archive.file
    if path.exists():
        return _verified(path, archive, "Remove it and run again")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path.parent)
        part = Path(tempfile.mkdtemp(prefix=f".fetch-{os.getpid()}-", dir=path.parent))
    except OSError as error:
        raise BadArchive(f"cannot write to {path.parent} ({error.strerror}): choose another folder") from error
    try:
        say(f"fetching {archive.package} {archive.version} ({archive.licence}) with {archive.client}")
        _download(archive, part, path)
        found = [entry for entry in part.iterdir() if entry.is_file()]
        if len(found) != 1:
            raise BadArchive(f"{archive.client} made {len(found)} files for {archive.package}: expected one")
        return _verified(found[0], archive, "Try again, or fetch it from a mirror you trust").replace(path)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _download(archive: Archive, part: Path, path: Path) -> None:
    command, provider, joint = CLIENTS[archive.client]
    by_hand = f"Or put {archive.file} (sha256 {archive.sha256[:16]}...) into {path.parent} by hand"
    missing = importlib.util.find_spec("pip") is None if archive.client == "pip" else not shutil.which(command[0])
    if missing:
        raise BadArchive(
            f"{archive.file} comes through {archive.client}, which is missing: install {provider}. {by_hand}"
        )
    wanted = f"{archive.package}{joint}{archive.version}"
    run = subprocess.run([*command, wanted], cwd=part, capture_output=True, text=True)
    if run.returncode:
        said = " ".join((run.stderr or run.stdout).split())[-300:]
        raise BadArchive(f"{archive.client} could not fetch {wanted}: {said}. Is there a network? {by_hand}")


def _verified(path: Path, archive: Archive, advice: str) -> Path:
    found = file_hash(path)
    if found != archive.sha256:
        raise BadArchive(
            f"{path} is not {archive.package} {archive.version} as pinned: its sha256 begins {found[:16]}, expected "
            f"{archive.sha256[:16]}. {advice}"
        )
    return path


def _sweep(folder: Path) -> None:
    """Removes what killed runs left behind."""
    for part in folder.glob(".fetch-*"):
        try:
            os.kill(int(part.name.split("-")[1]), 0)  # asks whether that process lives, no more
        except (ValueError, ProcessLookupError):
            shutil.rmtree(part, ignore_errors=True)
        except PermissionError:
            pass  # it lives, and is another user's


def read(path: str | os.PathLike, pattern: str) -> Iterator[tuple[str, bytes]]:
    """Names and contents of the files in a .tgz, .whl or .deb whose name fits a shell `pattern`, in their order there.

    >>> folder = tempfile.mkdtemp()
    >>> with zipfile.ZipFile(folder + "/a.whl", "w") as wheel:
    ...     wheel.writestr("images/1.png", b"one")
    >>> list(read(folder + "/a.whl", "images/*.png"))
    [('images/1.png', b'one')]
    """
    path = Path(path)
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as wheel:
            for name in fnmatch.filter(wheel.namelist(), pattern):
                yield name, wheel.read(name)
        return
    source = io.BytesIO(_deb_data(path)) if path.suffix == ".deb" else path.open("rb")
    with source, tarfile.open(fileobj=source, mode="r|*") as tar:  # a stream: nothing is read twice
        for member in tar:
            if member.isfile() and fnmatch.fnmatchcase(member.name, pattern):
                content = tar.extractfile(member)
                assert content is not None  # of a file there is one
                yield member.name, content.read()


def _deb_data(path: Path) -> bytes:
    """The data.tar.* of a Debian package, which is an `ar` archive: headers of 60 bytes, members padded to even."""
    with path.open("rb") as file:
        file.seek(8)
        while len(header := file.read(60)) == 60:
            size = int(header[48:58])
            if header.startswith(b"data.tar"):
                return file.read(size)
            file.seek(size + size % 2, os.SEEK_CUR)
    raise BadArchive(f"{path} holds no data: it is not a whole Debian package. Remove it and run again")
