"""Reading published checkpoints into Keras models, by name: PyTorch, safetensors and TensorFlow.js.

A PyTorch checkpoint is a pickle, which could run any code. Here its pickle may name only the parts of tensors;
anything else is refused before it is called. PyTorch itself is not needed.
"""

from __future__ import annotations

import io
import json
import math
import pickle
import pickletools
import re
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable
from fnmatch import fnmatch
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import safetensors.numpy

from vtx_keras.checkpoints._folder import BadWeights

# Dtypes of PyTorch's storage types, as strings: a pickle can alter the objects it is given, but not strings.
STORAGES = {
    "FloatStorage": "<f4", "DoubleStorage": "<f8", "HalfStorage": "<f2", "BFloat16Storage": "bf16",
    "LongStorage": "<i8", "IntStorage": "<i4", "ShortStorage": "<i2", "CharStorage": "|i1", "ByteStorage": "|u1",
    "BoolStorage": "|b1",
}  # fmt: skip
RAW = {"bf16": "<u2"}  # dtypes that NumPy lacks, as they are stored
MAX_PICKLE = 16_000_000  # bytes: a pickle of tensors holds their names and shapes, not their numbers
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # of torch.save before it wrote zip files


def read(files: dict[str, bytes]) -> dict[str, np.ndarray]:
    """Return the tensors of a published model by name; `files`, by path, contains exactly one checkpoint.

    >>> header = b'{"a": {"dtype": "F32", "shape": [1, 2], "data_offsets": [0, 8]}}'
    >>> data = len(header).to_bytes(8, "little") + header + np.array([1, 2], "<f4").tobytes()
    >>> read({"model.safetensors": data})
    {'a': array([[1., 2.]], dtype=float32)}
    """
    readers = {".pth": _torch, ".pt": _torch, ".safetensors": safetensors.numpy.load}
    checkpoints = {name: reader for name in files for suffix, reader in readers.items() if name.endswith(suffix)}
    manifests = [name for name in files if name.endswith("/model.json")]
    if len(checkpoints) + len(manifests) != 1:
        raise BadWeights(f"expected one checkpoint (.pth, .pt, .safetensors, model.json), found {sorted(files)[:10]}")
    name = next(iter([*checkpoints, *manifests]))
    try:
        return checkpoints[name](files[name]) if checkpoints else _tensorflow_js(files, name)
    except BadWeights:
        raise
    except Exception as error:  # a damaged file can fail anywhere in its reader
        raise BadWeights(f"{name} is damaged or is no checkpoint: {type(error).__name__}: {error}") from error


class _Placeholder(NamedTuple):
    """A tensor whose numbers are not read yet: its storage (dtype, key), and its layout there."""

    storage: tuple[str, str]
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _TensorsOnly(pickle.Unpickler):
    """Unpickles tensors as placeholders, and refuses everything else."""

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        allowed = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): lambda *tensor: _Placeholder(*tensor[:4]),
            ("torch._utils", "_rebuild_parameter"): lambda data, *_: data,
        }
        if (module, name) in allowed:
            return allowed[module, name]
        raise BadWeights(
            f"the checkpoint names {module}.{name}, and a checkpoint of tensors names only OrderedDict, tensors and "
            f"{', '.join(STORAGES)}: it was not run and nothing was changed. Do not load this file elsewhere"
        )

    def persistent_load(self, saved: Any) -> tuple[str, str]:
        kind, dtype, key, *_ = saved
        if kind != "storage" or dtype not in STORAGES.values() or saved[5:] not in ((), (None,)):
            raise BadWeights(f"the checkpoint refers to {saved!r:.80}: expected the storage of a tensor")
        return dtype, key


def _unpickled(file: BinaryIO) -> Any:
    """Return what a pickle holds, after a look at its opcodes: some make a few bytes fill memory."""
    start = file.tell()
    for count, (opcode, argument, place) in enumerate(pickletools.genops(file)):
        if (place or 0) - start > MAX_PICKLE:
            raise BadWeights("the pickle in the checkpoint is too large to hold only names and shapes")
        if "PUT" in opcode.name and isinstance(argument, int) and argument > count:
            raise BadWeights(f"the pickle in the checkpoint remembers {argument:,d} objects, and has {count} opcodes")
    file.seek(start)
    return _TensorsOnly(file).load()


def _torch(data: bytes) -> dict[str, np.ndarray]:
    """Read a checkpoint of `torch.save`, as a zip file or in the form before it."""
    tensors = torch_tensors(io.BytesIO(data), np.frombuffer(data, np.uint8))
    return {name: np.array(read()) for name, (_, read) in tensors.items()}


class _Stored(NamedTuple):
    """Where a storage lies in a file: the first byte, the number of bytes, and a checksum if the file has one."""

    start: int
    size: int
    crc: int | None = None


def torch_tensors(file: BinaryIO, data: np.ndarray) -> dict[str, tuple[tuple[int, ...], Callable[[], np.ndarray]]]:
    """Return each tensor's shape, and a function that reads it, of a checkpoint of `torch.save`.

    `data` has the bytes of `file`, maybe mapped: what is read is a view of it, except bfloat16, which becomes float32.
    """
    if bytes(data[:2]) == b"PK":
        tensors, stored = _zipped(file, data)
    else:
        tensors, stored = _legacy(file)
    intact: set[str] = set()  # keys of storages whose checksum was compared

    def storage(dtype: str, key: str) -> np.ndarray:
        raw = np.dtype(RAW.get(dtype, dtype))
        if key not in stored:
            raise BadWeights(f"the storage {key} of the checkpoint is missing: the file is damaged")
        start, size, _ = stored[key]
        if start + size > len(data):
            raise BadWeights(f"the storage {key} of the checkpoint ends after the file: the file is incomplete")
        return data[start : start + size - size % raw.itemsize].view(raw)

    def reader(name: str, view: np.ndarray) -> Callable[[], np.ndarray]:
        dtype, key = tensors[name].storage
        start, size, crc = stored[key]

        def read() -> np.ndarray:
            if crc is not None and key not in intact and zlib.crc32(data[start : start + size].data) != crc:
                raise BadWeights(f"the storage {key} of the checkpoint does not match its checksum: it is damaged")
            intact.add(key)
            return from_bfloat16(view) if dtype == "bf16" else view

        return read

    views = _filled(tensors, storage)
    return {name: (view.shape, reader(name, view)) for name, view in views.items()}


def from_bfloat16(raw: np.ndarray) -> np.ndarray:
    """Return bfloat16 numbers, given as uint16, as float32.

    >>> from_bfloat16(np.array([0x3F80, 0xC000], "<u2"))
    array([ 1., -2.], dtype=float32)
    """
    return (raw.astype("<u4") << 16).view("<f4")


def _zipped(file: BinaryIO, data: np.ndarray) -> tuple[Any, dict[str, _Stored]]:
    """Return the placeholders of a zip file, and where its storages lie by key."""
    with zipfile.ZipFile(file) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        (root,) = [name.removesuffix("data.pkl") for name in entries if name.endswith("/data.pkl")]
        order = root + "byteorder"
        if order in entries and archive.read(order) != b"little":
            raise BadWeights("the checkpoint is big-endian: expected little-endian")
        if entries[root + "data.pkl"].file_size > MAX_PICKLE:
            raise BadWeights("the pickle in the checkpoint is too large to hold only names and shapes")
        tensors = _unpickled(io.BytesIO(archive.read(root + "data.pkl")))
        stored, prefix = {}, f"{root}data/"
        for name, entry in entries.items():
            if name.startswith(prefix):
                if entry.compress_type != zipfile.ZIP_STORED:
                    raise BadWeights(f"{name} in the checkpoint is compressed, and torch.save stores it as it is")
                header = bytes(data[entry.header_offset : entry.header_offset + 30])  # of the file before its data
                lengths = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
                start = entry.header_offset + 30 + lengths
                stored[name.removeprefix(prefix)] = _Stored(start, entry.file_size, entry.CRC)
    return tensors, stored


def _legacy(file: BinaryIO) -> tuple[Any, dict[str, _Stored]]:
    """Return the placeholders of a file in the form before zip, and where its storages lie by key."""
    magic, _, machine, tensors = (_unpickled(file) for _ in range(4))
    if magic != LEGACY_MAGIC or not machine["little_endian"]:
        raise BadWeights("not a PyTorch checkpoint of a little-endian machine")
    dtypes = {tensor.storage[1]: tensor.storage[0] for tensor in _placeholders(tensors).values()}
    stored = {}
    for key in _unpickled(file):
        count, start = int.from_bytes(file.read(8), "little"), file.tell()
        length = count * np.dtype(RAW.get(dtypes[key], dtypes[key])).itemsize
        stored[key] = _Stored(start, length)
        file.seek(length, io.SEEK_CUR)
    return tensors, stored


def _placeholders(tensors: Any) -> dict[str, _Placeholder]:
    """Check that a checkpoint holds tensors by name, and nothing else."""
    if not isinstance(tensors, dict):
        raise BadWeights(f"the checkpoint holds {type(tensors).__name__}: expected tensors by name")
    for name, tensor in tensors.items():
        if not isinstance(tensor, _Placeholder):
            raise BadWeights(f"{name} in the checkpoint is {type(tensor).__name__}: expected a tensor")
    return tensors


def _filled(tensors: Any, storage: Callable[[str, str], np.ndarray]) -> dict[str, np.ndarray]:
    """Return tensors as views of their storages, inside which they must lie."""
    arrays = {}
    for name, tensor in _placeholders(tensors).items():
        flat, count = storage(*tensor.storage), math.prod(tensor.shape)
        last = tensor.offset + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.strides, strict=True))
        lowest = min([tensor.offset, *tensor.shape, *tensor.strides], default=0)
        if lowest < 0 or (count and last >= len(flat)) or count > len(flat):
            raise BadWeights(f"{name} in the checkpoint reaches outside its storage: the file is damaged")
        strides = [stride * flat.itemsize for stride in tensor.strides]
        arrays[name] = np.lib.stride_tricks.as_strided(flat[tensor.offset :], tensor.shape, strides, writeable=False)
    return arrays


def _tensorflow_js(files: dict[str, bytes], name: str) -> dict[str, np.ndarray]:
    """Read a layers model of TensorFlow.js: a manifest, and shards that form one sequence of bytes."""
    folder = name.removesuffix("model.json")
    arrays = {}
    for group in json.loads(files[name])["weightsManifest"]:
        data, start = b"".join(files[folder + path] for path in group["paths"]), 0
        for weight in group["weights"]:
            if weight["dtype"] != "float32" or "quantization" in weight:
                raise BadWeights(f"{weight['name']} is {weight['dtype']}, maybe quantized: expected plain float32")
            count = math.prod(weight["shape"])
            arrays[weight["name"]] = np.frombuffer(data, "<f4", count, start).reshape(weight["shape"])
            start += 4 * count
        if start != len(data):
            raise BadWeights(f"the shards of {name} hold {len(data)} bytes: its manifest describes {start}")
    return arrays


# Names of layers here: in the checkpoint. {0} is the number of a block, {1} that of the next; full names come first.
NAMES_LITE = {
    "stem": "_conv_stem",
    "stem_bn": "_bn0",
    "expand": "_blocks.{0}._expand_conv",
    "expand_bn": "_blocks.{0}._bn0",
    "depthwise": "_blocks.{0}._depthwise_conv",
    "depthwise_bn": "_blocks.{0}._bn1",
    "project": "_blocks.{0}._project_conv",
    "project_bn": "_blocks.{0}._bn2",
    "top": "_conv_head",
    "top_bn": "_bn1",
    "logits": "_fc",
}
NAMES_MOBILENET = {
    "stem": "features.0.0",
    "stem_bn": "features.0.1",
    "block_0_depthwise": "features.1.conv.0.0",  # the first block does not expand
    "block_0_depthwise_bn": "features.1.conv.0.1",
    "block_0_project": "features.1.conv.1",
    "block_0_project_bn": "features.1.conv.2",
    "expand": "features.{1}.conv.0.0",
    "expand_bn": "features.{1}.conv.0.1",
    "depthwise": "features.{1}.conv.1.0",
    "depthwise_bn": "features.{1}.conv.1.1",
    "project": "features.{1}.conv.2",
    "project_bn": "features.{1}.conv.3",
    "top": "features.18.0",
    "top_bn": "features.18.1",
    "logits": "classifier.1",
}
NAMES_RESNET = {"conv1_conv": "conv1", "conv1_bn": "bn_conv1", "logits": "fc1000"} | {
    f"conv{stage}_block{block + 1}_{place}_{kind}": f"{prefix}{stage}{'abcdef'[block]}_branch{branch}"
    for stage in range(2, 6)
    for block in range(6)
    for place, branch in enumerate(("1", "2a", "2b", "2c"))
    for kind, prefix in (("conv", "res"), ("bn", "bn"))
}
NAMES_BERT = {
    "words": "embeddings.word_embeddings",
    "positions": "embeddings.position_embeddings",
    "segments": "embeddings.token_type_embeddings",
    "norm": "embeddings.LayerNorm",
    "self_attention_layer/query": "encoder.layer.{0}.attention.self.query",
    "self_attention_layer/key": "encoder.layer.{0}.attention.self.key",
    "self_attention_layer/value": "encoder.layer.{0}.attention.self.value",
    "self_attention_layer/attention_output": "encoder.layer.{0}.attention.output.dense",
    "self_attention_layer_norm": "encoder.layer.{0}.attention.output.LayerNorm",
    "feedforward_intermediate_dense": "encoder.layer.{0}.intermediate.dense",
    "feedforward_output_dense": "encoder.layer.{0}.output.dense",
    "feedforward_layer_norm": "encoder.layer.{0}.output.LayerNorm",
}
NAMES = {"mobilenet_v2": NAMES_MOBILENET, "resnet50": NAMES_RESNET, "minilm_l6": NAMES_BERT}
NAMES |= {f"efficientnet_lite{number}": NAMES_LITE for number in range(3)}
IN_TORCH = {"kernel": "weight", "gamma": "weight", "embeddings": "weight", "position_embeddings": "weight"}
IN_TORCH |= {"bias": "bias", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
# What is ignored in a checkpoint: counters of training, and BERT's pooler, which sentence embeddings do not use.
SPARE = ("*.num_batches_tracked", "embeddings.position_ids", "pooler.dense.*")


def source_names(model: Any) -> dict[str, Any]:
    """Return the variables of an `architecture`, by their names in its published checkpoint.

    >>> from vtx_keras.models.encoders import architecture
    >>> source_names(architecture("mobilenet_v2"))["classifier.1.weight"].path
    'logits/kernel'
    """
    names, variables = NAMES[model.name], {}
    for variable in model.variables:
        layer, kind = variable.path.rsplit("/", 1)
        if kind == "seed_generator_state":  # of dropout
            continue
        block = re.fullmatch(r"block_(\d+)[_/](.+)", layer)
        number, part = (int(block[1]), block[2]) if block and layer not in names else (0, layer)
        kind = f"/{kind}" if model.name == "resnet50" else f".{IN_TORCH[kind]}"
        variables[names[part].format(number, number + 1) + kind] = variable
    return variables


def assign(model: Any, arrays: dict[str, np.ndarray]) -> None:
    """Assign all tensors of a checkpoint to an `architecture`; a missing, extra or misshapen one is an error.

    >>> from vtx_keras.models.encoders import architecture
    >>> assign(architecture("mobilenet_v2"), {"fc.weight": np.zeros((2, 2))})
    Traceback (most recent call last):
    vtx_keras.checkpoints._folder.BadWeights: not a checkpoint of mobilenet_v2: ...
    """
    variables = source_names(model)
    given = {name for name in arrays if not any(fnmatch(name, spare) for spare in SPARE)}
    wrong = [f"{name}: expected, not found" for name in variables if name not in given]
    wrong += [f"{name}: found, not expected" for name in sorted(given - set(variables))]
    ready = []
    for name in [name for name in variables if name in given]:
        variable, array = variables[name], arrays[name]
        if model.name != "resnet50":
            array = _from_torch(array, variable)
        elif name == "conv1/kernel":  # BGR to RGB
            array = array[:, :, ::-1]
        shape = _flat_heads(variable)
        if array.shape != shape:
            wrong.append(f"{name}: expected shape {shape}, found {array.shape}")
        ready.append((variable, array))
    if wrong:
        more = f"\n  … and {len(wrong) - 8} more" if len(wrong) > 8 else ""
        lines = "\n  ".join(wrong[:8])
        raise BadWeights(f"not a checkpoint of {model.name}: {len(wrong)} tensors do not fit.\n  {lines}{more}")
    for variable, array in ready:
        variable.assign(array.reshape(variable.shape))


def _from_torch(array: np.ndarray, variable: Any) -> np.ndarray:
    """Reorder the axes of a kernel from PyTorch (outputs first) to Keras (outputs last); embeddings stay."""
    if not variable.path.endswith("/kernel"):
        return array
    depthwise = (2, 3, 0, 1) if "depthwise" in variable.path else (2, 3, 1, 0)
    return array.transpose(depthwise if array.ndim == 4 else None)


def _flat_heads(variable: Any) -> tuple[int, ...]:
    """Return the shape of a variable with attention heads and their width merged into one axis, as in PyTorch."""
    shape = tuple(variable.shape)
    if "/attention_output/kernel" in variable.path:
        return (shape[0] * shape[1], shape[2])
    if "/self_attention_layer/" in variable.path and shape != (384,):
        return (*shape[:-2], shape[-2] * shape[-1])
    return shape
