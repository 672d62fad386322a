"""Tensors of a transformers folder, by name: files are mapped, and a tensor is read when it is asked for.

Reads `model.safetensors`, else `pytorch_model.bin`, whole or in shards, without PyTorch.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vtx_keras.checkpoints._folder import BadWeights
from vtx_keras.checkpoints.published._readers import from_bfloat16, torch_tensors

SAFETENSORS, TORCH = "model.safetensors", "pytorch_model.bin"
ADAPTER_CONFIG = "adapter_config.json"
DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "|i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "|u1", "BOOL": "|b1",
}  # fmt: skip
MAX_HEADER = 100_000_000  # bytes of the header of a safetensors file: the limit of the format's own library
MAX_JSON = 32_000_000  # bytes of an index of shards
# What a repository may hold instead of weights that are read here: the end of a file's name, in words.
OTHERS = {
    "adapter_model.safetensors": "an adapter without its base model",
    "adapter_model.bin": "an adapter without its base model",
    ".h5": "TensorFlow or Keras",
    ".msgpack": "Flax",
    ".gguf": "GGUF",
    ".onnx": "ONNX",
    ".ckpt.index": "TensorFlow 1",
    ".safetensors": "safetensors by another name",
    ".bin": "another .bin",
    ".pt": "PyTorch by another name",
}

Read = Callable[[], np.ndarray]


class Tensors(Mapping[str, np.ndarray]):
    """Tensors by name. Names and shapes are known; `tensors[name]` maps or reads the numbers.

    >>> tensors = Tensors({"a": ((2,), lambda: np.zeros(2))})
    >>> list(tensors), tensors.shape("a"), tensors["a"]
    (['a'], (2,), array([0., 0.]))
    """

    def __init__(self, entries: dict[str, tuple[tuple[int, ...], Read]]):
        self._entries = entries

    def __getitem__(self, name: str) -> np.ndarray:
        return self._entries[name][1]()

    def __contains__(self, name: object) -> bool:  # Mapping's own reads the tensor
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor without reading it."""
        return self._entries[name][0]


def open_tensors(folder: Path) -> Tensors:
    """Open the weights of a transformers folder: safetensors if it has them, else PyTorch's.

    float32, float16 and integers are read-only views of the mapped file; bfloat16 becomes float32 when it is read.

    >>> import tempfile, safetensors.numpy
    >>> folder = Path(tempfile.mkdtemp())
    >>> safetensors.numpy.save_file({"a": np.ones((2, 1), "float32")}, folder / "model.safetensors")
    >>> open_tensors(folder)["a"].tolist()
    [[1.0], [1.0]]
    """
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    first, *_ = weight_files(names, folder)
    if not first.endswith(".index.json"):
        return Tensors(_opened(folder / first))
    entries = {}
    by_shard = read_index(folder / first)
    missing = sorted(shard for shard in by_shard if not (folder / shard).is_file())
    if missing:
        raise BadWeights(
            f"{folder} lacks {len(missing)} of the {len(by_shard)} shards that {first} names, such as {missing[0]}: "
            "download it again"
        )
    for shard, tensors in by_shard.items():
        opened = _opened(folder / shard)
        lacking = sorted(tensors - set(opened))
        if lacking:
            raise BadWeights(f"{folder / shard} lacks {lacking[0]}, which {first} says it holds: download it again")
        entries.update({name: opened[name] for name in opened if name in tensors})
    return Tensors(entries)


def weight_files(names: Collection[str], where: object) -> list[str]:
    """Return the name of the file with the weights, or of the index of its shards; `where` is for error messages.

    >>> weight_files(["pytorch_model.bin", "model.safetensors.index.json", "tf_model.h5"], "here")
    ['model.safetensors.index.json']
    """
    for kind in (SAFETENSORS, TORCH):
        for name in (kind, f"{kind}.index.json"):
            if name in names:
                return [name]
    others = []
    for name in sorted(names):
        words = next((words for end, words in OTHERS.items() if name.endswith(end)), "")
        others += [f"{name} ({words})"] if words else []
    found = ", ".join(others[:5]) if others else f"only {', '.join(sorted(names)[:8])}" if names else "no file"
    raise BadWeights(f"{where} has no weights that can be read here ({SAFETENSORS} or {TORCH}); it has {found}")


def read_index(path: Path) -> dict[str, set[str]]:
    """Return the names of the tensors in each shard, by the shard's name, that an index lists."""
    kind = path.name.removesuffix(".index.json").rpartition(".")[2]
    listed = read_json(path, MAX_JSON).get("weight_map")
    if not isinstance(listed, dict) or not listed:
        raise BadWeights(f"{path} lists no shards: download it again")
    shards: dict[str, set[str]] = {}
    for name, shard in listed.items():
        if not isinstance(shard, str) or not re.fullmatch(rf"[A-Za-z0-9_][A-Za-z0-9._-]*\.{kind}", shard):
            raise BadWeights(
                f"{path} names {shard!r:.80} as a shard: expected a .{kind} file beside it. It was not read"
            )
        shards.setdefault(shard, set()).add(name)
    return shards


def read_json(path: Path, most: int) -> dict[str, Any]:
    """Read a JSON object of at most `most` bytes; anything else is `BadWeights`."""
    size = path.stat().st_size
    if size > most:
        raise BadWeights(f"{path} is too large: {size:,} bytes, and {most:,} are allowed")
    try:
        content = json.loads(path.read_text("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise BadWeights(f"{path} is not JSON ({type(error).__name__}): it is damaged, download it again") from error
    if not isinstance(content, dict):
        raise BadWeights(f"{path} holds {type(content).__name__}: expected names and values")
    return content


def _opened(path: Path) -> dict[str, tuple[tuple[int, ...], Read]]:
    """Map a file of weights and return the shape and the reader of each tensor."""
    if path.stat().st_size < 8:
        raise BadWeights(f"{path} is empty: download it again")
    data = np.asarray(np.memmap(path, np.uint8, "r"))
    if bytes(data[:19]) == b"version https://git":
        raise BadWeights(f"{path} is a pointer of Git LFS, not the weights: run `git lfs pull` in its folder")
    if path.suffix == ".safetensors":
        return _safetensors(path, data)
    try:
        with path.open("rb") as file:
            return torch_tensors(file, data)
    except BadWeights as error:
        raise BadWeights(f"{path}: {error}") from error
    except Exception as error:  # a damaged file can fail anywhere in its reader
        raise BadWeights(
            f"{path} is damaged or is no checkpoint: {type(error).__name__}: {error}. Download it again"
        ) from error


def _safetensors(path: Path, data: np.ndarray) -> dict[str, tuple[tuple[int, ...], Read]]:
    """Check the header of a safetensors file: tensors must fill the rest of the file, one after the other."""
    length = int.from_bytes(data[:8].tobytes(), "little")
    if length > MAX_HEADER:
        raise BadWeights(f"{path} has too large a header ({length:,} bytes): it is damaged or no safetensors file")
    if 8 + length > len(data):
        raise BadWeights(f"{path} ends inside its header: the download is incomplete, get it again")
    try:
        header = json.loads(data[8 : 8 + length].tobytes(), object_pairs_hook=_distinct)
        header.pop("__metadata__", None)
        layout = {name: _entry(path, name, entry) for name, entry in header.items()}
    except BadWeights:
        raise
    except (ValueError, RecursionError, AttributeError, TypeError, KeyError) as error:
        raise BadWeights(f"{path} has a damaged header ({type(error).__name__}: {error}): download it again") from error
    body, end = data[8 + length :], 0
    for name, (_, _, begin, after) in sorted(layout.items(), key=lambda item: item[1][2:]):
        if begin != end:
            raise BadWeights(
                f"{path}: {name} {'overlaps' if begin < end else 'leaves a gap after'} the tensor before it"
            )
        end = after
    if end != len(body):
        more = "it is incomplete" if end > len(body) else "there is more in it"
        raise BadWeights(
            f"{path} describes {end:,} bytes of tensors and holds {len(body):,}: {more}, download it again"
        )

    def reader(dtype: str, shape: tuple[int, ...], begin: int, after: int) -> Read:
        def read() -> np.ndarray:
            array = body[begin:after].view(DTYPES[dtype]).reshape(shape)
            return from_bfloat16(array) if dtype == "BF16" else array

        return read

    return {name: (entry[1], reader(*entry)) for name, entry in layout.items()}


def _entry(path: Path, name: str, entry: dict[str, Any]) -> tuple[str, tuple[int, ...], int, int]:
    """Return a tensor's dtype, shape, and first and last byte, after checking that they agree."""
    dtype, shape, (begin, after) = entry["dtype"], entry["shape"], entry["data_offsets"]
    if dtype not in DTYPES:
        raise BadWeights(f"{path}: {name} is {dtype!r:.20}, maybe quantized: expected one of {', '.join(DTYPES)}")
    if not all(type(number) is int and number >= 0 for number in (*shape, begin, after)):
        raise BadWeights(
            f"{path}: {name} has shape {shape!r:.60} and bytes {begin!r:.20} to {after!r:.20}: it is damaged"
        )
    wanted = math.prod(shape) * np.dtype(DTYPES[dtype]).itemsize
    if after - begin != wanted:
        raise BadWeights(
            f"{path}: {name} has {after - begin:,} bytes, and its shape {shape} needs {wanted:,}: it is damaged"
        )
    return dtype, tuple(shape), begin, after


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build a JSON object whose names must differ."""
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ValueError("a name occurs twice")
    return content
