"""Folders and archives of weights for tests."""

from __future__ import annotations

import io
import os
import pickle
import sys
import types
import zipfile
from collections import OrderedDict
from pathlib import Path

import keras
import numpy as np

from vtx_keras.checkpoints.published import _encoders as published
from vtx_keras.checkpoints.published import _readers as tensors

# Where `-m network` finds published archives, and fetches those that are missing.
ARCHIVES = Path(os.environ.get("VTX_KERAS_ARCHIVES") or published.cache() / "archives")


def copy_of(folder: Path, tmp_path: Path) -> Path:
    target = tmp_path / "copy"
    target.mkdir()
    for file in folder.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    return target


def checkpoint(content: object, monkeypatch) -> bytes:
    """`content` as torch.save would write it, with arrays as tensors; torch is not needed."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")

    def rebuild(*arguments):
        raise AssertionError("only its name is stored")

    rebuild.__module__, rebuild.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    utils._rebuild_tensor_v2 = rebuild
    torch.FloatStorage = type("FloatStorage", (), {"__module__": "torch"})
    storages: list[bytes] = []

    class Pickler(pickle.Pickler):
        def persistent_id(self, item):
            if not isinstance(item, memoryview):
                return None
            storages.append(bytes(item))
            return ("storage", torch.FloatStorage, str(len(storages) - 1), "cpu", len(item) // 4)

        def reducer_override(self, item):
            if not isinstance(item, np.ndarray):
                return NotImplemented
            strides = tuple(stride // 4 for stride in item.strides)
            return rebuild, (memoryview(item.tobytes()), 0, item.shape, strides, False, OrderedDict())

    data, file = io.BytesIO(), io.BytesIO()
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "torch", torch)
        patch.setitem(sys.modules, "torch._utils", utils)
        Pickler(data, 2).dump(content)
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("x/data.pkl", data.getvalue())
        for i, storage in enumerate(storages):
            archive.writestr(f"x/data/{i}", storage)
    return file.getvalue()


def as_published(model: keras.Model) -> OrderedDict[str, np.ndarray]:
    """The weights of a model under the names and with the axes of PyTorch."""
    found = OrderedDict()
    for name, variable in tensors.source_names(model).items():
        value = np.array(variable.numpy())
        if variable.path.endswith("/kernel"):
            axes = {2: (1, 0), 4: (3, 2, 0, 1)}[value.ndim]
            value = value.transpose((2, 3, 0, 1) if "depthwise" in variable.path else axes)
        found[name] = np.ascontiguousarray(value)
    found["features.0.1.num_batches_tracked"] = np.zeros((), "float32")
    return found
