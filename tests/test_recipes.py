"""Recipes run, on data that is made up."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import keras
import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="once is enough")
def test_the_recipe_for_coco_trains_saves_and_captions(tmp_path):
    command = [sys.executable, ROOT / "recipes" / "coco_captions.py", "--mock", "--epochs", "2", "--batch-size", "4"]
    run = subprocess.run([*command, "--size", "tiny"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert (tmp_path / "runs" / "coco" / "config.json").is_file()
    assert (tmp_path / "coco.png").is_file()
    assert run.stdout.count(" | ") == 5
