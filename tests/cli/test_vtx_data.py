"""`vtx data`."""

from __future__ import annotations

import json
import subprocess
import sys

import archives as small
import pytest
from toys import vtx as in_process

from vtx_keras.data import sets


def vtx(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "vtx_keras.cli", "data", *arguments], capture_output=True, text=True)


def test_vtx_data_lists_without_tensorflow_and_is_polite(tmp_path):
    run = vtx("list", "--json", "--folder", str(tmp_path))
    assert {row["name"] for row in json.loads(run.stdout)} == set(sets.SETS)
    assert all(row["built"] == [] and row["licence"] for row in json.loads(run.stdout))
    run = vtx("show", "emojo", "--folder", str(tmp_path))
    assert (run.returncode, run.stdout) == (2, "")
    assert "did you mean emoji" in run.stderr
    assert "Traceback" not in run.stderr
    run = vtx("build", "vqa_rad", "--folder", str(tmp_path))
    assert run.returncode == 2
    assert "osf.io/89kps" in run.stderr
    run = vtx("fetch", "vqa_rad", "--folder", str(tmp_path))
    assert run.returncode == 0
    assert "CC0-1.0" in run.stdout


def test_vtx_data_builds_and_shows(folder, tmp_path):
    run = in_process("data", "build", "emoji", "--folder", folder)
    assert run.exit_code == 0, run.output
    assert "licence" in run.output
    sheet = tmp_path / "sheet.png"
    run = in_process("data", "show", "emoji", "--folder", folder, "--sheet", sheet)
    assert "openmoji" in run.output
    assert sheet.read_bytes()[:4] == b"\x89PNG"
    run = in_process("data", "list", "--folder", folder)
    assert "built: en/1.0.1" in run.output


@pytest.fixture
def folder(tmp_path, monkeypatch):
    small.write(sets.archive_dir(tmp_path), monkeypatch)
    return tmp_path
