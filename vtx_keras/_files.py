"""Files: atomic writes, hashes, pinned archives, and a progress bar for long work."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fnmatch
import functools
import glob
import hashlib
import importlib.util
import io
import itertools
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

_numbers = itertools.count()  # of temporary files


@contextlib.contextmanager
def whole(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path to write to; on success it is on disk and replaces `path`; on failure it is removed.

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
    # Each thread has a name of its own. The suffix stays, because some writers depend on it.
    part = path.with_name(f".{os.getpid()}-{next(_numbers)}.{path.name}")
    try:
        yield part
        _sync(part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _sync(file: Path) -> None:
    """Wait until a file is on disk, where the system can: its new name would otherwise get there first."""
    if os.name != "nt":
        with contextlib.suppress(OSError), file.open("rb") as written:
            os.fsync(written.fileno())


def write(path: str | os.PathLike, content: str | bytes) -> None:
    """Write text (as UTF-8) or bytes to a file, completely or not at all."""
    with whole(path) as part:
        part.write_bytes(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder to write to; on success it replaces `folder` and takes over its other files.

    A process that is killed at any point leaves the old folder or the new one, whole (`recovered`).
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    recovered(folder)
    if folder.exists():  # else another process may be about to give it back its name
        for left in _left_by_the_dead(folder):
            shutil.rmtree(left, ignore_errors=True)
    target = Path(tempfile.mkdtemp(prefix=f".{folder.name}.{_mark(os.getpid())}-", dir=folder.parent))
    _being_written.add(target.name)
    try:
        yield target
        target.chmod(0o755)
        if folder.exists():
            for kept in folder.iterdir():
                if not (target / kept.name).exists():
                    (shutil.copytree if kept.is_dir() else shutil.copy2)(kept, target / kept.name)
        for file in filter(Path.is_file, target.rglob("*")):
            _sync(file)
        exchange(target, folder)
    finally:
        shutil.rmtree(target, ignore_errors=True)
        _being_written.discard(target.name)


def exchange(new: Path, name: Path) -> None:
    """Give `new` the name `name`; a folder of that name gets the other's, in one step if the system can.

    >>> new, old = (Path(tempfile.mkdtemp(), one) for one in ("new", "old"))
    >>> for folder in (new, old):
    ...     folder.mkdir()
    ...     _ = (folder / "which").write_text(folder.name)
    >>> exchange(new, old)
    >>> (old / "which").read_text(), (new / "which").read_text()
    ('new', 'old')
    """
    if not name.exists():
        new.rename(name)
        return
    if _exchanged_at_once(new, name):
        return
    aside = new.with_name(new.name + ASIDE)
    try:
        name.rename(aside)
        new.rename(name)
    finally:
        if not name.exists():
            aside.rename(name)
    aside.rename(new)


_being_written: set[str] = set()  # names of this process's temporary folders
ASIDE = ".old"  # the end of the name of a folder that makes room for another


def recovered(folder: Path) -> Path:
    """Return the folder, after undoing half of an `exchange` in two steps that was killed between them."""
    real = folder.resolve()  # a link's target is what is written
    if not real.exists():
        for left in _left_by_the_dead(real):
            if left.name.endswith(ASIDE):
                with contextlib.suppress(FileNotFoundError):  # another process was first
                    left.rename(real)
                break
    return folder


def _mark(process: int | str) -> str:
    """Return what tells a machine's process in the name of a temporary folder."""
    return f"vtx-{re.sub(r'[^A-Za-z0-9]', '', platform.node())}-{process}"


def _left_by_the_dead(folder: Path) -> list[Path]:
    """Return temporary folders of `new_folder` whose process, of this machine, is no more; the last name first."""
    start = f".{folder.name}.{_mark('')}"
    found = [path for path in folder.parent.glob(f"{glob.escape(start)}*-*") if path.is_dir()]

    def dead(path: Path) -> bool:
        process = path.name.removeprefix(start).split("-")[0]
        if process == str(os.getpid()):  # or that of a process before, in a container that began again
            return path.name.removesuffix(ASIDE) not in _being_written
        return not _runs(process)

    return sorted(filter(dead, found), reverse=True)


def _runs(process: str) -> bool:
    """Return whether a process of this number exists; what is no number belongs to something else, and counts as one.

    >>> _runs(str(os.getpid())), _runs("4194999"), _runs("backup")
    (True, False, True)
    """
    if os.name == "nt":  # where signal 0 is Ctrl-C
        return True
    try:
        os.kill(int(process), 0)  # signal 0 only tests whether the process exists
    except (ValueError, OSError, OverflowError) as error:  # else it belongs to another user
        return not isinstance(error, ProcessLookupError)
    return True


def _exchanged_at_once(first: Path, second: Path) -> bool:
    """Exchange two names by one call of the system; return False where it has none."""
    here, swap = -100, 2  # AT_FDCWD; RENAME_EXCHANGE of Linux, RENAME_SWAP of macOS
    try:
        system = ctypes.CDLL(None)
        if sys.platform == "darwin":
            return bool(system.renamex_np(os.fsencode(first), os.fsencode(second), swap) == 0)
        return bool(system.renameat2(here, os.fsencode(first), here, os.fsencode(second), swap) == 0)
    except (AttributeError, OSError, TypeError):  # Windows, old systems
        return False


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[bool]:
    """Create a folder and lock it; yield False if another process has. The system unlocks it however this one ends."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "a") as lock:
        first = True
        with contextlib.suppress(ImportError):  # Windows has no flock: a second process is not detected
            import fcntl

            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                first = False
        yield first


def reserve(folder: Path, size: int) -> None:
    """Raise OSError if a folder has no room for `size` bytes.

    Try it before writing HDF5: the library cannot close a file that a full disk has cut short, and dies later.

    >>> reserve(Path(tempfile.mkdtemp()), 1000)
    """
    try:
        with tempfile.NamedTemporaryFile(prefix=".room-", dir=folder) as room:
            if hasattr(os, "posix_fallocate"):  # heeds quotas, too
                os.posix_fallocate(room.fileno(), 0, max(1, size))
            elif shutil.disk_usage(folder).free < size:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError as error:
        what = f"{error.strerror}: {size / 1e6:,.1f} MB are needed. Free some space, or choose another place"
        raise OSError(error.errno, what, str(folder)) from error


def file_hash(path: Path) -> str:
    """Return the sha256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cache() -> Path:
    """Return the folder of what is made once: $VTX_KERAS_CACHE, else ~/.cache/vtx_keras/encoders.

    >>> cache().is_absolute()
    True
    """
    return Path(os.environ.get("VTX_KERAS_CACHE") or "~/.cache/vtx_keras/encoders").expanduser().absolute()


def version_of(package: str) -> str | None:
    """Return the installed version of a package, or None."""
    with contextlib.suppress(PackageNotFoundError):
        return version(package)
    return None


@functools.cache
def error_console() -> Any:
    """Return the rich console on standard error that all progress bars share."""
    from rich.console import Console

    return Console(stderr=True)


@contextlib.contextmanager
def progress(what: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """Yield a function of the number done, which updates a progress bar if standard error is a terminal.

    >>> with progress("pictures", 3) as update:
    ...     update(1)
    """
    if not sys.stderr.isatty():
        yield lambda done: None
        return
    from rich.errors import LiveError
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=error_console(), transient=True)
    task = bar.add_task(what, total=total)
    with contextlib.suppress(LiveError):  # inside another bar, which stays
        bar.start()
    try:
        yield lambda done: bar.update(task, completed=done)
    finally:
        bar.stop()


class BadArchive(OSError):
    """Raised for an archive that is missing, cannot be fetched, or is not the pinned one."""


class Archive(NamedTuple):
    """One published file. `client` is "npm", "pip" or "apt"; `file` is the name that client gives it."""

    client: str
    package: str
    version: str
    file: str
    sha256: str
    licence: str


CLIENTS = {  # the command, without the package; how to install it; the separator of package and version
    "npm": (["npm", "pack", "--silent"], "Node.js (nodejs.org, or your system's package nodejs)", "@"),
    "pip": ([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"], "python -m ensurepip", "=="),
    "apt": (["apt-get", "download", "--quiet"], "a Debian or Ubuntu system (a container will do)", "="),
}


def fetch(archive: Archive, folder: str | os.PathLike, say: Callable[[str], object] = print) -> Path:
    """Return the path of an archive in `folder`, fetching it if it is not there; its hash is checked every time.

    A file put there by hand is accepted too. Downloads lie in a hidden folder until they are complete and verified, so
    an interrupted run leaves nothing that a later one could take for an archive.

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
        files = [entry for entry in part.iterdir() if entry.is_file()]
        if len(files) != 1:
            raise BadArchive(f"{archive.client} made {len(files)} files for {archive.package}: expected one")
        return _verified(files[0], archive, "Try again, or fetch it from a mirror you trust").replace(path)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _download(archive: Archive, part: Path, path: Path) -> None:
    """Run the archive's client in the folder `part`; `path` is where the file belongs, for error messages."""
    command, provider, separator = CLIENTS[archive.client]
    by_hand = f"Or put {archive.file} (sha256 {archive.sha256[:16]}...) into {path.parent} by hand"
    missing = importlib.util.find_spec("pip") is None if archive.client == "pip" else not shutil.which(command[0])
    if missing:
        raise BadArchive(
            f"{archive.file} comes through {archive.client}, which is missing: install {provider}. {by_hand}"
        )
    release = f"{archive.package}{separator}{archive.version}"
    run = subprocess.run([*command, release], cwd=part, capture_output=True, text=True)
    if run.returncode:
        output = " ".join((run.stderr or run.stdout).split())[-300:]
        raise BadArchive(f"{archive.client} could not fetch {release}: {output}. Is there a network? {by_hand}")


def _verified(path: Path, archive: Archive, advice: str) -> Path:
    """Return `path` if its hash is that of the archive."""
    sha256 = file_hash(path)
    if sha256 != archive.sha256:
        raise BadArchive(
            f"{path} is not {archive.package} {archive.version} as pinned: its sha256 begins {sha256[:16]}, expected "
            f"{archive.sha256[:16]}. {advice}"
        )
    return path


def _sweep(folder: Path) -> None:
    """Remove the hidden folders of killed runs."""
    for part in folder.glob(".fetch-*"):
        if not _runs(part.name.split("-")[1]):
            shutil.rmtree(part, ignore_errors=True)


def read_archive(path: str | os.PathLike, pattern: str) -> Iterator[tuple[str, bytes]]:
    """Yield names and contents of the files in a .tgz, .whl or .deb whose names match a shell `pattern`, in order.

    >>> folder = tempfile.mkdtemp()
    >>> with zipfile.ZipFile(folder + "/a.whl", "w") as wheel:
    ...     wheel.writestr("images/1.png", b"one")
    >>> list(read_archive(folder + "/a.whl", "images/*.png"))
    [('images/1.png', b'one')]
    """
    path = Path(path)
    try:
        if path.suffix == ".whl":
            with zipfile.ZipFile(path) as wheel:
                for name in fnmatch.filter(wheel.namelist(), pattern):
                    yield name, wheel.read(name)
            return
        source = io.BytesIO(_deb_data(path)) if path.suffix == ".deb" else path.open("rb")
        with source, tarfile.open(fileobj=source, mode="r|*") as tar:  # as a stream: nothing is read twice
            for member in tar:
                if member.isfile() and fnmatch.fnmatchcase(member.name, pattern):
                    content = tar.extractfile(member)
                    assert content is not None  # None only for members that are not files
                    yield member.name, content.read()
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise BadArchive(f"{path} is damaged ({error}): remove it, and run again") from error


def _deb_data(path: Path) -> bytes:
    """Return the data.tar.* of a Debian package, an `ar` archive: 60-byte headers, members padded to even sizes."""
    with path.open("rb") as file:
        file.seek(8)
        while len(header := file.read(60)) == 60:
            size = int(header[48:58]) if header[48:58].strip().isdigit() else -1
            if size < 0:
                break
            if header.startswith(b"data.tar"):
                return file.read(size)
            file.seek(size + size % 2, os.SEEK_CUR)
    raise BadArchive(f"{path} holds no data: it is not a whole Debian package. Remove it and run again")
