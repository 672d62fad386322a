"""Recipes run, on made-up data."""

from __future__ import annotations

import functools
import importlib
import os
import re
import subprocess
import sys

import keras
import pytest
from paths import ROOT

from vtx_keras import data


@pytest.fixture
def ablation(monkeypatch):
    """The checkout's comparison of fusions."""
    monkeypatch.syspath_prepend(str(ROOT))
    return importlib.import_module("recipes.ablation")


@pytest.mark.slow
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="once is enough")
def test_the_recipe_for_coco_trains_saves_and_captions(tmp_path):
    command = [sys.executable, "-m", "recipes.coco_captions", "--mock", "--epochs", "1", "--batch-size", "8"]
    path = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.run(
        [*command, "--size", "tiny"], cwd=tmp_path, capture_output=True, text=True, check=True, env=path
    )
    for stage in ("words", "encoder", "reward"):
        assert (tmp_path / "runs" / "coco" / stage / "best" / "config.json").is_file()
    assert (tmp_path / "coco.png").is_file()
    assert len([line for line in run.stdout.splitlines() if " | " in line]) >= 5


@pytest.mark.slow
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="once is enough")
def test_a_fusion_is_trained_evaluated_exported_and_timed(ablation, monkeypatch, tmp_path):
    import tensorflow as tf

    def sample(split):
        rows = data.load("sample", "train" if split == "train" else "validation").encoded
        return data.Examples(rows.map(lambda row: {"image": tf.io.read_file(row["path"]), "caption": row["caption"]}))

    task = {**ablation.TASKS["captioner"], "examples": sample}
    settings = {"TASKS": {"captioner": task}, "FILES": tmp_path / "files", "STORED": tmp_path / "fusions.json"}
    settings |= {"FUSIONS": ("gated",), "CPU_SECONDS": 1, "EVAL_ROWS": 6, "SEEDS": (0, 1), "BATCH": 8}
    settings["SHARED"] = {**ablation.SHARED, "dim": 32, "depth": 1, "image_shape": (33, 33, 3)}
    for name, value in settings.items():
        monkeypatch.setattr(ablation, name, value)
    for name in ("text_options", "features", "examples"):
        monkeypatch.setattr(ablation, name, functools.cache(getattr(ablation, name).__wrapped__))
    monkeypatch.chdir(tmp_path)
    for step in ("train", "time"):
        monkeypatch.setattr(sys, "argv", ["recipes.ablation", step])
        ablation.main()
    stored = ablation.read_stored()["captioner gated"]
    assert [run["seed"] for run in stored["runs"]] == [0, 1]
    assert stored["rate"] in ablation.RATES
    assert set(stored["validation"]) == {f"{rate:g}" for rate in ablation.RATES}
    assert all(0 <= run["test"]["low"] <= run["test"]["high"] <= 1 for run in stored["runs"])
    assert stored["litert_ms"] > 0


def test_the_advice_has_the_stored_figures(ablation):
    advice = (ROOT / "recipes" / "advice.md").read_text(encoding="utf-8")
    assert f"after {ablation.CPU_SECONDS} CPU" in advice
    tests = {name: [run["test"]["value"] for run in one["runs"]] for name, one in ablation.read_stored().items()}
    means = {f"{sum(tests[cell]) / len(tests[cell]):.2f}"[1:] for cell in tests if cell.startswith("captioner")}
    assert set(re.findall(r"\.\d\d", advice)) == means
