"""Small files that declare much: refused before memory is taken, in a process that may take 500 MB more than it has."""

from __future__ import annotations

import json
import pickle
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import h5py
import pytest
from images import encoded, plain
from paths import SUPPORT
from toys import toy

from vtx_keras import zoo
from vtx_keras.checkpoints import _folder

MEGABYTES, SECONDS = 500, 15  # the budget; and thrice the budget's 5 s, on a machine that does much else
CHILD = """
import json, resource, sys, time
sys.path.insert(0, sys.argv[1])
import toys
from pathlib import Path
from vtx_keras import data, zoo
from vtx_keras.checkpoints.published import _readers
from vtx_keras.inputs import media

toys.toy("gated_vqa")  # what a first model loads once is not the file's
read = {
    "model": zoo.load,
    "pth": lambda path: _readers.read({path.name: path.read_bytes()}),
    "table": data.from_csv,
    "clip": lambda path: media.prepare(path, (4, 32, 32, 3)),
}
for line in sys.stdin:
    kind, path = json.loads(line)
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + %d_000_000, resource.RLIM_INFINITY))
    start = time.process_time()
    try:
        found = ("read", repr(read[kind](Path(path)))[:100])
    except Exception as error:
        found = (type(error).__name__, str(error))
    print(json.dumps([*found, time.process_time() - start]), flush=True)
"""
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS is kept by Linux alone")


@pytest.fixture(scope="module")
def tried():
    """A function from a kind and a file to what reading it raised and said, in a process of a bounded size."""
    with subprocess.Popen(
        [sys.executable, "-c", CHILD % MEGABYTES, str(SUPPORT)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:

        def ask(target: Path, kind: str = "model") -> tuple[str, str]:
            print(json.dumps([kind, str(target)]), file=child.stdin, flush=True)
            what, said, seconds = json.loads(child.stdout.readline())
            assert seconds < SECONDS, f"{seconds:.1f} s of processor time"
            assert "MemoryError" not in what + said, said
            return what, said

        yield ask


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    return zoo.save(toy("gated_vqa"), tmp_path_factory.mktemp("saved") / "model")


def resealed(saved: Path, folder: Path, **changes) -> Path:
    """A copy of a weights folder by someone who can compute hashes: other options, and its files as they are."""
    if not folder.exists():
        folder.mkdir()
        for file in saved.iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    config["overrides"] |= changes
    config["files"] = {name: _folder.file_hash(folder / name) for name in config["files"]}
    config["sha256"] = _folder.config_hash(config)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def declare(file: Path) -> None:
    """Give the first array of an HDF5 file the shape 2^29, whose numbers were never written."""
    with h5py.File(file, "a") as weights:
        names: list[str] = []
        weights.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
        del weights[names[0]]
        weights.create_dataset(names[0], (2**29,), "float32", chunks=(2**20,))


def test_an_array_of_gigabytes_in_a_weights_folder(tried, saved, tmp_path):
    resealed(saved, tmp_path / "big")
    declare(tmp_path / "big" / _folder.WEIGHTS)
    what, said = tried(resealed(saved, tmp_path / "big"))
    assert (what, "has shape (536870912,)" in said) == ("BadWeights", True)


@pytest.mark.parametrize(
    "changes", [{"depth": 400}, {"text_depth": 10**9}, {"dim": 16_384}, {"image_shape": [9000, 9000, 3]}]
)
def test_a_config_that_describes_a_vast_model(tried, saved, tmp_path, changes):
    what, said = tried(resealed(saved, tmp_path / "vast", **changes))
    assert what in ("BadWeights", "ValueError"), said
    assert "expected" in said or "not of one model" in said


@pytest.fixture(scope="module")
def keras_file(tmp_path_factory) -> Path:
    return zoo.save(toy("gated_vqa"), tmp_path_factory.mktemp("saved") / "model.keras")


def repacked(source: Path, target: Path, name: str, content: bytes, how: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for one in old.namelist():
            new.writestr(one, content if one == name else old.read(one), how if one == name else zipfile.ZIP_STORED)
    return target


@pytest.mark.parametrize("name", ["config.json", "model.weights.h5", "metadata.json"])
def test_a_member_of_a_keras_file_that_unpacks_to_gigabytes(tried, keras_file, tmp_path, name):
    content = bytes(600_000_000)
    path = repacked(keras_file, tmp_path / "bomb.keras", name, content, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 2_000_000
    what, said = tried(path)
    assert (what, "unpacks to" in said) == ("BadWeights", True)


def test_an_array_of_gigabytes_in_a_keras_file(tried, keras_file, tmp_path):
    weights = tmp_path / "weights.h5"
    with zipfile.ZipFile(keras_file) as archive:
        weights.write_bytes(archive.read("model.weights.h5"))
    declare(weights)
    what, said = tried(repacked(keras_file, tmp_path / "big.keras", "model.weights.h5", weights.read_bytes()))
    assert (what, "has shape (536870912,)" in said) == ("BadWeights", True)


def test_a_tiny_checkpoint_that_declares_gigabytes(tried, tmp_path):
    remembers = b"\x80\x02}r" + struct.pack("<I", 2**28) + b"."  # LONG_BINPUT: a table of that many places
    counts = b"\x80\x04\x8e" + struct.pack("<Q", 2**32) + b"."  # BINBYTES8
    for number, content in enumerate((remembers, counts, pickle.dumps({"a": 1}, 2))):
        with zipfile.ZipFile(tmp_path / f"{number}.pth", "w") as archive:
            archive.writestr("model/data.pkl", content)
        assert tried(tmp_path / f"{number}.pth", "pth")[0] == "BadWeights"


def test_a_vast_sparse_picture_in_a_table(tried, tmp_path):
    whole = encoded(plain())
    (tmp_path / "good.png").write_bytes(whole)
    for name, start in (("text", whole[:33] + struct.pack(">I", 0x7FFFFFF0) + b"tEXt"), ("tail", whole)):
        with (tmp_path / f"{name}.png").open("wb") as file:
            file.write(start)
            file.truncate(5_000_000_000)
    (tmp_path / "set.csv").write_text("image,text\ntext.png,a\ntail.png,b\ngood.png,c\n")
    what, said = tried(tmp_path / "set.csv", "table")
    assert (what, "5,000,000,000 bytes: expected 200,000,000 at most" in said) == ("BadData", True)


@pytest.mark.parametrize("side", [3500, 7000])
def test_a_clip_of_vast_frames(tried, tmp_path, side):
    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    rows = zlib.compress(bytes((side + 1) * side), 1)
    parts, number = (
        [chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)), chunk(b"acTL", struct.pack(">II", 4, 0))],
        0,
    )
    for frame in range(4):
        parts.append(chunk(b"fcTL", struct.pack(">IIIIIHHBB", number, side, side, 0, 0, 1, 10, 0, 0)))
        parts.append(chunk(b"fdAT", struct.pack(">I", number + 1) + rows) if frame else chunk(b"IDAT", rows))
        number += 2 if frame else 1
    (tmp_path / "clip.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IEND", b""))
    what, said = tried(tmp_path / "clip.png", "clip")
    assert what == ("read" if side == 3500 else "BadPicture"), said
