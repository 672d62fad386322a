"""`vtx data`: lists, builds and shows data sets, and reports mistakes."""

from __future__ import annotations

import json

import archives as small
import pytest
from toys import vtx, vtx_process

from vtx_keras.data import sets


@pytest.fixture
def folder(tmp_path, monkeypatch):
    small.write(sets.archive_dir(tmp_path), monkeypatch)
    return tmp_path


def test_vtx_data_lists_and_reports_mistakes(tmp_path):
    rows = json.loads(vtx_process("data", "list", "--json", "--folder", tmp_path).stdout)
    assert {row["name"] for row in rows} == set(sets.SETS)
    assert all(row["built"] == [] and row["licence"] for row in rows)
    run = vtx("data", "show", "emojo", "--folder", tmp_path)
    assert (run.exit_code, run.stdout) == (2, "")
    assert "did you mean emoji" in run.stderr
    assert "Traceback" not in run.stderr
    run = vtx("data", "build", "vqa_rad", "--folder", tmp_path)
    assert run.exit_code == 2
    assert "osf.io/89kps" in run.stderr
    run = vtx("data", "fetch", "vqa_rad", "--folder", tmp_path)
    assert run.exit_code == 0
    assert "CC0-1.0" in run.stdout


def test_vtx_data_builds_and_shows(folder, tmp_path):
    run = vtx("data", "build", "emoji", "--folder", folder)
    assert run.exit_code == 0, run.output
    assert "licence" in run.output
    sheet = tmp_path / "sheet.png"
    run = vtx("data", "show", "emoji", "--folder", folder, "--sheet", sheet)
    assert "openmoji" in run.output
    assert sheet.read_bytes()[:4] == b"\x89PNG"
    run = vtx("data", "list", "--folder", folder)
    assert "built: en/1.0.1" in run.output
