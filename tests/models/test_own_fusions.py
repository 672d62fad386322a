"""A fusion of one's own, as the guide has it, in the command line: by --import, and as an installed package."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import keras
import pytest
from paths import ROOT

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="one backend is enough for the command")
SMALL = [
    "--data", "sample", "--epochs", "1", "--set", "dim=32", "--set", "depth=1", "--set", "vision_depth=1",
    "--set", "image_shape=32x32",
]  # fmt: skip


def vtx(folder, *arguments, path=""):
    script = "from vtx_keras.cli import main; main()"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), path]))}
    return subprocess.run(
        [sys.executable, "-P", "-c", script, *arguments], cwd=folder, capture_output=True, text=True, env=environment
    )


def test_the_guides_fusion_trains_and_captions_by_import_and_as_a_package(tmp_path):
    guide = (ROOT / "docs" / "new-fusion.md").read_text("utf-8")
    (tmp_path / "film.py").write_text(re.search(r"```python\n(.*?)```", guide, re.S)[1])
    run = vtx(tmp_path, "--import", "film", "train", "film_captioner", *SMALL, "--out", "runs/film")
    assert run.returncode == 0, run.stderr[-2000:]
    packages = tmp_path / "packages"
    about = packages / "film-1.0.dist-info"
    about.mkdir(parents=True)
    (tmp_path / "film.py").rename(packages / "film.py")
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: film\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[vtx_keras]\nfilm = film\n")
    photo = str(ROOT / "vtx_keras" / "sample" / "photos" / "cat.jpg")
    said = vtx(tmp_path, "predict", "runs/film/best", photo, path=str(packages))
    assert said.returncode == 0, said.stderr[-2000:]
    unknown = vtx(tmp_path, "predict", "runs/film/best", photo)
    assert unknown.returncode == 2
    assert "no model is called 'film_captioner'" in unknown.stderr


def test_a_module_that_is_not_there_is_said(tmp_path):
    run = vtx(tmp_path, "--import", "nowhere", "list")
    assert run.returncode == 2
    assert run.stderr.strip() == "vtx: No module named 'nowhere'"
