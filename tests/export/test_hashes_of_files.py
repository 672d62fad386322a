"""Exported files carry hashes of the model and of what describes it; every program refuses what was changed since."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import keras
import onnx
import pytest
from exporting import few
from paths import PROGRAMS
from toys import decisive

from vtx_keras import data, export
from vtx_keras.cli import _runtime

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="exports are made by TensorFlow")
CHECK = """import { readFileSync } from "node:fs";
import { companions } from "./model.mjs";
console.log(companions(readFileSync("model.onnx")).vocabulary.length);
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    folder, model = tmp_path_factory.mktemp("exported"), decisive("cross_attn_captioner")
    export.litert(model, folder / "model.tflite", verify_data=few(model, 2))
    export.onnx(model, folder / "model.onnx", verify_data=few(model, 2))
    return folder


@pytest.fixture
def folder(exported, tmp_path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "copy"))


def swapped(lines: bytes) -> bytes:
    """Two words of a vocabulary in each other's place."""
    pieces = lines.split(b"\n")
    pieces[7], pieces[8] = pieces[8], pieces[7]
    return b"\n".join(pieces)


def packed(path: Path, name: str, change) -> None:
    """Write a .tflite with another content of a file in its zip, as a zip program would."""
    with zipfile.ZipFile(path) as archive:
        start = min(one.header_offset for one in archive.infolist())
        contents = {one: archive.read(one) for one in archive.namelist()}
    path.write_bytes(path.read_bytes()[:start])
    with zipfile.ZipFile(path, "a") as archive:
        for one, content in contents.items():
            archive.writestr(one, change(content) if one == name else content)


def flipped(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def all_programs(path: Path) -> dict[str, str]:
    """Run a file by each program that reads it; return what was said where one refused it."""
    photo, program = data.sample("photos/cat.jpg"), {".tflite": "mobile", ".onnx": "onnx"}[path.suffix]
    done = subprocess.run(
        [sys.executable, PROGRAMS / program / "run.py", path, photo], capture_output=True, text=True
    )  # fmt: skip
    found = {"run.py": done.stderr if done.returncode else ""}
    try:
        _runtime.opened(path)
    except ValueError as error:
        found["vtx"] = str(error)
    if path.suffix == ".onnx" and shutil.which("node"):
        shutil.copy(PROGRAMS / "web/model.mjs", path.parent)
        (path.parent / "check.mjs").write_text(CHECK)
        done = subprocess.run(["node", "check.mjs"], cwd=path.parent, capture_output=True, text=True)
        found["model.mjs"] = done.stderr if done.returncode else ""
    return {name: said for name, said in found.items() if said}


def test_whole_files_are_read(exported):
    for name in ("model.tflite", "model.onnx"):
        assert all_programs(exported / name) == {}


def test_two_words_in_each_others_place_are_refused(folder):
    packed(folder / "model.tflite", "vocabulary.txt", swapped)
    refused = all_programs(folder / "model.tflite")
    assert set(refused) == {"run.py", "vtx"}
    assert all("vocabulary.txt is damaged, or of another file" in said for said in refused.values())
    beside = folder / "vocabulary.txt"
    beside.write_bytes(swapped(beside.read_bytes()))
    assert set(all_programs(folder / "model.onnx")) == {"run.py", "vtx"}  # a page reads what is in the file


def test_a_changed_description_is_refused(folder):
    change = lambda content: content.replace(b'"resize": "pad"', b'"resize": "crop"')  # noqa: E731
    packed(folder / "model.tflite", "model.json", change)
    refused = all_programs(folder / "model.tflite")
    assert set(refused) == {"run.py", "vtx"}
    assert all("model.json is damaged" in said for said in refused.values())
    beside = folder / "model.json"
    beside.write_bytes(change(beside.read_bytes()))
    assert set(all_programs(folder / "model.onnx")) == {"run.py", "vtx"}


def test_a_flipped_bit_of_a_weight_is_refused(folder):
    for path in (folder / "model.tflite", folder / "model.onnx"):
        flipped(path, path.stat().st_size // 3)
        refused = all_programs(path)
        assert {"run.py", "vtx"} <= set(refused)
        assert all("damaged" in said for said in refused.values())
    assert ("model.mjs" in refused) == (shutil.which("node") is not None)


def test_the_description_of_another_export_is_refused(folder, tmp_path):
    other = decisive("cross_attn_captioner")
    export.onnx(other, tmp_path / "other/model.onnx", verify_data=few(other, 1), max_length=3)
    shutil.copy(tmp_path / "other/model.json", folder)
    assert all("other export" in said or "two exports" in said for said in all_programs(folder / "model.onnx").values())
    assert {"run.py", "vtx"} <= set(all_programs(folder / "model.onnx"))


def test_files_without_hashes_load_as_before(folder):
    def without(content: bytes) -> bytes:
        return json.dumps({key: value for key, value in json.loads(content).items() if key != "sha256"}).encode()

    packed(folder / "model.tflite", "model.json", without)
    assert all_programs(folder / "model.tflite") == {}
    about = folder / "model.json"
    about.write_bytes(without(about.read_bytes()))
    network = onnx.load(folder / "model.onnx")
    for one in network.metadata_props:
        if one.key == "model.json":
            one.value = about.read_text()
    onnx.save_model(network, folder / "model.onnx")
    assert all_programs(folder / "model.onnx") == {}


def test_onnx_reads_the_hash_as_one_more_property(exported):
    network = onnx.load(exported / "model.onnx")
    onnx.checker.check_model(network)
    assert [len(one.value) for one in network.metadata_props if one.key == "sha256"] == [64]
