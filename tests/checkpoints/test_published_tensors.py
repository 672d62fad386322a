"""Tensors of transformers folders: every format that is read, and an error in words for every way to be damaged."""

from __future__ import annotations

import io
import json
import pickle
import sys
import tracemalloc
import types
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import safetensors.numpy

from vtx_keras.checkpoints._folder import BadWeights
from vtx_keras.checkpoints.published import _readers as readers
from vtx_keras.checkpoints.published import _tensors
from vtx_keras.checkpoints.published._tensors import open_tensors

RNG = np.random.default_rng(0)
ARRAYS = {
    "f64": RNG.normal(size=(2, 3)),
    "f32": RNG.normal(size=(3, 4)).astype("float32"),
    "f16": RNG.normal(size=5).astype("float16"),
    "i64": np.arange(-3, 3),
    "i32": np.arange(4, dtype="int32").reshape(2, 2),
    "u8": np.arange(3, dtype="uint8"),
    "bool": np.array([True, False, True]),
    "scalar": np.array(7, "int64"),
    "empty": np.zeros((0, 3), "float32"),
}
KINDS = {"f8": "Double", "f4": "Float", "f2": "Half", "i8": "Long", "i4": "Int", "u1": "Byte", "b1": "Bool"}


# --- writers


class Stored(NamedTuple):
    """A tensor for `torch_file`: a storage, and the part of it that is the tensor, in numbers."""

    storage: np.ndarray
    offset: int
    shape: tuple
    strides: tuple
    kind: str = ""
    parameter: bool = False


def torch_file(content: object, monkeypatch, legacy: bool = False, compress: bool = False) -> bytes:
    """`content` as torch.save would write it, with arrays and `Stored` as tensors; torch is not needed."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    for name in ("_rebuild_tensor_v2", "_rebuild_parameter"):
        function = types.FunctionType((lambda: None).__code__, {}, name)
        function.__module__, function.__qualname__ = "torch._utils", name
        setattr(utils, name, function)
    for kind in (*KINDS.values(), "BFloat16", "ComplexFloat"):
        setattr(torch, f"{kind}Storage", type(f"{kind}Storage", (), {"__module__": "torch"}))
    storages: dict[int, np.ndarray] = {}

    class Storage(NamedTuple):
        array: np.ndarray
        kind: str

    class Pickler(pickle.Pickler):
        def persistent_id(self, item):
            if not isinstance(item, Storage):
                return None
            storages[id(item.array)] = item.array
            kind = getattr(torch, f"{item.kind or KINDS[item.array.dtype.str[1:]]}Storage")
            return ("storage", kind, str(list(storages).index(id(item.array))), "cpu", item.array.size)

        def reducer_override(self, item):
            if isinstance(item, np.ndarray):
                strides = tuple(stride // item.itemsize for stride in item.strides)
                item = Stored(item, 0, item.shape, strides)
            if not isinstance(item, Stored):
                return NotImplemented
            if item.parameter:
                return getattr(utils, "_rebuild_parameter"), (item._replace(parameter=False), True, OrderedDict())  # noqa: B009
            tensor = (Storage(item.storage, item.kind), item.offset, item.shape, item.strides, False, OrderedDict())
            return utils._rebuild_tensor_v2, tensor

    def pickled(item: object) -> bytes:
        file = io.BytesIO()
        Pickler(file, 2).dump(item)
        return file.getvalue()

    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "torch", torch)
        patch.setitem(sys.modules, "torch._utils", utils)
        data = pickled(content)
    if legacy:
        head = b"".join(map(pickled, (readers.LEGACY_MAGIC, 1001, {"little_endian": True})))
        keys = pickled([str(i) for i in range(len(storages))])
        body = (array.size.to_bytes(8, "little") + array.tobytes() for array in storages.values())
        return head + data + keys + b"".join(body)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED) as archive:
        archive.writestr("x/data.pkl", data)
        for i, array in enumerate(storages.values()):
            archive.writestr(f"x/data/{i}", array.tobytes())
        archive.writestr("x/byteorder", "little")
    return file.getvalue()


def safetensors_file(header: object, body: bytes = b"", length: int | None = None) -> bytes:
    data = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(data) if length is None else length).to_bytes(8, "little") + data + body


def entry(dtype: object = "F32", shape: object = (2,), offsets: object = (0, 8)) -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def assert_equal(tensors, arrays: dict[str, np.ndarray]) -> None:
    assert list(tensors) == list(arrays)
    for name, array in arrays.items():
        assert tensors.shape(name) == array.shape
        assert tensors[name].dtype == array.dtype
        np.testing.assert_array_equal(tensors[name], array)


# --- what is read


def test_safetensors_are_views_of_the_mapped_file(tmp_path):
    safetensors.numpy.save_file(ARRAYS, tmp_path / "model.safetensors", metadata={"format": "pt"})
    tensors = open_tensors(tmp_path)
    assert_equal(tensors, {name: ARRAYS[name] for name in tensors})
    assert set(tensors) == set(ARRAYS)
    assert "f32" in tensors
    assert "other" not in tensors
    for name in ("f32", "f16"):
        assert not tensors[name].flags.owndata
        assert not tensors[name].flags.writeable
    with pytest.raises(KeyError):
        tensors["other"]


def test_bfloat16_becomes_float32(tmp_path, monkeypatch):
    wanted = np.array([1, -2.5, 3e38, 0, np.inf], "float32")
    wanted = (wanted.view("u4") & 0xFFFF0000).view("float32")
    raw = (wanted.view("<u4") >> 16).astype("<u2")
    (tmp_path / "model.safetensors").write_bytes(safetensors_file({"a": entry("BF16", (5,), (0, 10))}, raw.tobytes()))
    np.testing.assert_array_equal(open_tensors(tmp_path)["a"], wanted)
    assert open_tensors(tmp_path)["a"].dtype == np.float32
    (tmp_path / "model.safetensors").unlink()
    content = {"a": Stored(raw, 1, (2, 2), (1, 2), "BFloat16")}
    (tmp_path / "pytorch_model.bin").write_bytes(torch_file(content, monkeypatch))
    np.testing.assert_array_equal(open_tensors(tmp_path)["a"], wanted[1:].reshape(2, 2).T)


@pytest.mark.parametrize("legacy", [False, True])
def test_pickles_of_pytorch_are_read_without_copies(tmp_path, monkeypatch, legacy):
    content = OrderedDict(ARRAYS)
    content.__dict__["metadata"] = OrderedDict({"": {"version": 1}})  # as state_dict() has
    shared = np.arange(12, dtype="float32")
    content["turned"] = Stored(shared, 0, (3, 4), (1, 3))
    content["row"] = Stored(shared, 4, (4,), (1,), parameter=True)
    (tmp_path / "pytorch_model.bin").write_bytes(torch_file(content, monkeypatch, legacy))
    tensors = open_tensors(tmp_path)
    assert_equal(tensors, ARRAYS | {"turned": shared.reshape(4, 3).T, "row": shared[4:8]})
    assert not tensors["f32"].flags.owndata
    assert not tensors["f32"].flags.writeable


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_large_files_are_not_held_in_memory(tmp_path, monkeypatch, name):
    arrays = {str(i): np.ones((1 << 20,), "float32") for i in range(8)}  # 4 MB each
    if name.endswith(".bin"):
        (tmp_path / name).write_bytes(torch_file(arrays, monkeypatch))
    else:
        safetensors.numpy.save_file(arrays, tmp_path / name)
    tracemalloc.start()
    try:
        tensors = open_tensors(tmp_path)
        assert sum(float(tensors[key].sum()) for key in tensors) == 8 << 20
        assert tracemalloc.get_traced_memory()[1] < 1 << 21
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_shards_are_read_through_their_index(tmp_path, monkeypatch, kind):
    stem = "model" if kind == "safetensors" else "pytorch_model"
    parts = [{"a": ARRAYS["f32"], "unlisted": ARRAYS["u8"]}, {"b": ARRAYS["f16"]}]
    names = [f"{stem}-0000{i}-of-00002.{kind}" for i in (1, 2)]
    for name, part in zip(names, parts, strict=True):
        data = safetensors.numpy.save(part) if kind == "safetensors" else torch_file(part, monkeypatch)
        (tmp_path / name).write_bytes(data)
    index = {"metadata": {"total_size": 1}, "weight_map": {"a": names[0], "b": names[1]}}
    (tmp_path / f"{stem}.{kind}.index.json").write_text(json.dumps(index))
    assert_equal(open_tensors(tmp_path), {"a": ARRAYS["f32"], "b": ARRAYS["f16"]})


def test_safetensors_come_before_a_pickle(tmp_path):
    safetensors.numpy.save_file({"a": np.ones(2)}, tmp_path / "model.safetensors")
    (tmp_path / "pytorch_model.bin").write_bytes(b"not read")
    assert list(open_tensors(tmp_path)) == ["a"]


# --- what is refused


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ((), "it has no file"),
        (("config.json",), "it has only config.json"),
        (("tf_model.h5", "flax_model.msgpack"), r"flax_model.msgpack \(Flax\), tf_model.h5 \(TensorFlow or Keras\)"),
        (("model-q4.gguf",), r"model-q4.gguf \(GGUF\)"),
        (("adapter_model.safetensors",), r"adapter_model.safetensors \(an adapter without its base model\)"),
        (("model.fp16.safetensors",), "safetensors by another name"),
    ],
)
def test_a_folder_without_weights_is_told_what_it_has(tmp_path, files, message):
    for name in files:
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(BadWeights, match=message):
        open_tensors(tmp_path)


def test_a_folder_that_is_not_there_has_no_weights(tmp_path):
    with pytest.raises(BadWeights, match="it has no file"):
        open_tensors(tmp_path / "gone")


TWO = {"a": entry(), "b": entry(offsets=(8, 16))}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (safetensors_file(TWO, bytes(15)), "describes 16 bytes of tensors and holds 15: it is incomplete"),
        (safetensors_file(TWO, bytes(17)), "holds 17: there is more in it"),
        (safetensors_file(TWO)[:40], "ends inside its header"),
        (safetensors_file(TWO, bytes(16), length=_tensors.MAX_HEADER + 1), "too large a header"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "pointer of Git LFS"),
        (safetensors_file(b"{"), "damaged header"),
        (safetensors_file(b"[]"), "damaged header"),
        (safetensors_file(b"[" * 100_000), "damaged header"),
        (safetensors_file(b"\xff\xff"), "damaged header"),
        (safetensors_file(b'{"a": 1, "a": 2}'), "a name occurs twice"),
        (safetensors_file({"a": 1}), "damaged header"),
        (safetensors_file({"a": {"dtype": "F32"}}), "damaged header"),
        (safetensors_file({"a": entry("F8_E4M3")}, bytes(8)), "a is 'F8_E4M3', maybe quantized"),
        (safetensors_file({"a": entry("I4")}, bytes(8)), "a is 'I4', maybe quantized"),
        (safetensors_file({"a": entry([])}, bytes(8)), "damaged header"),
        (safetensors_file({"a": entry(shape=(3,))}, bytes(8)), r"a has 8 bytes, and its shape \[3\] needs 12"),
        (safetensors_file({"a": entry(shape=(-2,))}, bytes(8)), "it is damaged"),
        (safetensors_file({"a": entry(shape=(2.0,))}, bytes(8)), "it is damaged"),
        (safetensors_file({"a": entry(shape=(True, 2))}, bytes(8)), "it is damaged"),
        (safetensors_file({"a": entry(offsets=(-8, 0))}, bytes(8)), "it is damaged"),
        (safetensors_file({"a": entry(offsets=(8, 0))}, bytes(8)), "a has -8 bytes"),
        (safetensors_file({"a": entry(offsets=(0, 8, 16))}, bytes(8)), "damaged header"),
        (safetensors_file({"a": entry(), "b": entry(offsets=(4, 12))}, bytes(12)), "b overlaps the tensor before it"),
        (safetensors_file({"a": entry(), "b": entry()}, bytes(8)), "b overlaps the tensor before it"),
        (safetensors_file({"a": entry(offsets=(8, 16))}, bytes(16)), "a leaves a gap after"),
    ],
)
def test_a_damaged_safetensors_file_is_refused(tmp_path, data, message):
    (tmp_path / "model.safetensors").write_bytes(data)
    with pytest.raises(BadWeights, match=message):
        open_tensors(tmp_path)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_truncated_pickle_is_refused_wherever_it_ends(tmp_path, monkeypatch, legacy):
    data = torch_file({"a": ARRAYS["f32"], "b": ARRAYS["i64"]}, monkeypatch, legacy)
    for end in (0, 4, 30, len(data) // 2, len(data) - 30, len(data) - 1):
        (tmp_path / "pytorch_model.bin").write_bytes(data[:end])
        message = "ends after the file: .* incomplete" if legacy and end >= len(data) - 30 else "is empty|is damaged"
        with pytest.raises(BadWeights, match=message):
            open_tensors(tmp_path)


def test_a_changed_byte_of_a_pickle_is_noticed_when_its_tensor_is_read(tmp_path, monkeypatch):
    data = bytearray(torch_file({"a": ARRAYS["f32"], "b": ARRAYS["i64"]}, monkeypatch))
    data[data.index(ARRAYS["f32"].tobytes()) + 5] ^= 1
    (tmp_path / "pytorch_model.bin").write_bytes(data)
    tensors = open_tensors(tmp_path)
    np.testing.assert_array_equal(tensors["b"], ARRAYS["i64"])
    for _ in range(2):
        with pytest.raises(BadWeights, match="does not match its checksum"):
            tensors["a"]


class Evil:
    def __init__(self, path: Path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


FLAT = np.zeros(4, "float32")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": FLAT, "step": 3}, "step in the checkpoint is int: expected a tensor"),
        ([FLAT], "holds list: expected tensors by name"),
        ({"a": Stored(FLAT, 1, (4,), (1,))}, "outside its storage"),
        ({"a": Stored(FLAT, 0, (2, 2), (3, 1))}, "outside its storage"),
        ({"a": Stored(FLAT, 0, (8,), (0,))}, "outside its storage"),
        ({"a": Stored(FLAT, 3, (2,), (-1,))}, "outside its storage"),
        ({"a": Stored(FLAT, 0, (4,), (1, 1))}, "is damaged"),
        ({"a": Stored(FLAT, 0, (4,), (1,), "ComplexFloat")}, "names torch.ComplexFloatStorage"),
    ],
)
@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_of_anything_but_tensors_is_refused(tmp_path, monkeypatch, content, message, legacy):
    (tmp_path / "pytorch_model.bin").write_bytes(torch_file(content, monkeypatch, legacy))
    with pytest.raises(BadWeights, match=message):
        open_tensors(tmp_path)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_that_would_run_code_is_not_run(tmp_path, monkeypatch, legacy):
    mark = tmp_path / "mark"
    (tmp_path / "pytorch_model.bin").write_bytes(torch_file({"a": Evil(mark)}, monkeypatch, legacy))
    with pytest.raises(BadWeights, match=f"names {open.__module__}.open"):
        open_tensors(tmp_path)
    assert not mark.exists()


def test_zip_files_that_pytorch_does_not_write_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(torch_file({"a": FLAT}, monkeypatch, compress=True))
    with pytest.raises(BadWeights, match="is compressed"):
        open_tensors(tmp_path)
    data = torch_file({"a": FLAT}, monkeypatch)
    path.write_bytes(data.replace(b"x/data/0", b"x/data/7"))
    with pytest.raises(BadWeights, match="storage 0 of the checkpoint is missing"):
        open_tensors(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(readers, "MAX_PICKLE", 10)
        path.write_bytes(data)
        with pytest.raises(BadWeights, match="too large to hold only names"):
            open_tensors(tmp_path)
    file = io.BytesIO(data)
    with zipfile.ZipFile(file, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("x/byteorder", "big")
    path.write_bytes(file.getvalue())
    with pytest.raises(BadWeights, match="big-endian"):
        open_tensors(tmp_path)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({"weight_map": {"a": "here.safetensors", "b": "gone.safetensors"}}, "lacks 1 of the 2 shards .* gone.safe"),
        ({"weight_map": {"a": "here.safetensors", "b": "here.safetensors"}}, "here.safetensors lacks b, which"),
        ({"weight_map": {"a": "../here.safetensors"}}, "as a shard"),
        ({"weight_map": {"a": "/here.safetensors"}}, "as a shard"),
        ({"weight_map": {"a": "sub/here.safetensors"}}, "as a shard"),
        ({"weight_map": {"a": "..\\here.safetensors"}}, "as a shard"),
        ({"weight_map": {"a": "here.bin"}}, "as a shard"),
        ({"weight_map": {"a": "here.safetensors\n"}}, "as a shard"),
        ({"weight_map": {"a": 1}}, "as a shard"),
        ({"weight_map": {}}, "lists no shards"),
        ({"weight_map": []}, "lists no shards"),
        ({}, "lists no shards"),
        ([], "holds list"),
    ],
)  # fmt: skip
def test_an_index_that_does_not_fit_is_refused(tmp_path, index, message):
    folder = tmp_path / "model"
    folder.mkdir()
    for place in (tmp_path, folder):
        safetensors.numpy.save_file({"a": np.ones(2)}, place / "here.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(BadWeights, match=message):
        open_tensors(folder)


def test_an_index_that_is_no_json_or_too_large_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors.index.json"
    path.write_text("{")
    with pytest.raises(BadWeights, match="is not JSON"):
        open_tensors(tmp_path)
    monkeypatch.setattr(_tensors, "MAX_JSON", 10)
    path.write_text(" " * 11)
    with pytest.raises(BadWeights, match="is too large: 11 bytes, and 10 are allowed"):
        open_tensors(tmp_path)
