"""Reading published checkpoints into Keras models, by name: PyTorch, safetensors and TensorFlow.js.

A PyTorch checkpoint is a pickle, which could run any code. Here its pickle may name only the parts of tensors;
anything else is refused before it is called. PyTorch itself is not needed.
"""

from __future__ import annotations

import io
import json
import math
import pickle
import re
import zipfile
from collections import OrderedDict
from fnmatch import fnmatch
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy

from vtx_keras.checkpoints._folder import BadWeights

# Dtypes of PyTorch's storage types, as strings: a pickle can alter the objects it is given, but not strings.
STORAGES = {"FloatStorage": "<f4", "DoubleStorage": "<f8", "HalfStorage": "<f2", "LongStorage": "<i8"}
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


def _torch(data: bytes) -> dict[str, np.ndarray]:
    """Read a checkpoint of `torch.save`, as a zip file or in the form before it."""
    file = io.BytesIO(data)
    if data.startswith(b"PK"):
        with zipfile.ZipFile(file) as archive:
            (root,) = [name.removesuffix("data.pkl") for name in archive.namelist() if name.endswith("/data.pkl")]
            order = root + "byteorder"
            if order in archive.namelist() and archive.read(order) != b"little":
                raise BadWeights("the checkpoint is big-endian: expected little-endian")
            tensors = _TensorsOnly(io.BytesIO(archive.read(root + "data.pkl"))).load()
            return _filled(tensors, lambda dtype, key: np.frombuffer(archive.read(f"{root}data/{key}"), dtype))
    magic, _, machine, tensors = (_TensorsOnly(file).load() for _ in range(4))
    if magic != LEGACY_MAGIC or not machine["little_endian"]:
        raise BadWeights("not a PyTorch checkpoint of a little-endian machine")
    dtypes = {key: dtype for (dtype, key), *_ in _placeholders(tensors).values()}
    storages = {}
    for key in _TensorsOnly(file).load():
        count = int.from_bytes(file.read(8), "little")
        storages[key] = np.frombuffer(file.read(count * np.dtype(dtypes[key]).itemsize), dtypes[key], count)
    return _filled(tensors, lambda dtype, key: storages[key].view(dtype))


def _placeholders(tensors: Any) -> dict[str, _Placeholder]:
    """Check that a checkpoint holds tensors by name, and nothing else."""
    if not isinstance(tensors, dict):
        raise BadWeights(f"the checkpoint holds {type(tensors).__name__}: expected tensors by name")
    for name, tensor in tensors.items():
        if not isinstance(tensor, _Placeholder):
            raise BadWeights(f"{name} in the checkpoint is {type(tensor).__name__}: expected a tensor")
    return tensors


def _filled(tensors: Any, storage: Any) -> dict[str, np.ndarray]:
    """Return the arrays of placeholders, which must lie inside their storage."""
    arrays = {}
    for name, tensor in _placeholders(tensors).items():
        flat = storage(*tensor.storage)
        last = tensor.offset + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.strides, strict=True))
        lowest = min([tensor.offset, *tensor.shape, *tensor.strides], default=0)
        if lowest < 0 or last >= len(flat) or math.prod(tensor.shape) > len(flat):
            raise BadWeights(f"{name} in the checkpoint reaches outside its storage: the file is damaged")
        strides = [stride * flat.itemsize for stride in tensor.strides]
        view = np.lib.stride_tricks.as_strided(flat[tensor.offset :], tensor.shape, strides, writeable=False)
        arrays[name] = np.array(view)
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
