"""Recipes run, on data that is made up."""

from __future__ import annotations

import functools
import importlib
import re
import subprocess
import sys
from pathlib import Path

import keras
import pytest

from vtx_keras import data
from vtx_keras.data._load import adapted

ROOT = Path(__file__).parents[1]


@pytest.fixture
def fusions(monkeypatch):
    """The comparison of fusions, as the checkout has it."""
    monkeypatch.syspath_prepend(str(ROOT))
    return importlib.import_module("zoo.fusions")


@pytest.mark.slow
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="once is enough")
def test_the_recipe_for_coco_trains_saves_and_captions(tmp_path):
    command = [sys.executable, ROOT / "recipes" / "coco_captions.py", "--mock", "--epochs", "2", "--batch-size", "4"]
    run = subprocess.run([*command, "--size", "tiny"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert (tmp_path / "runs" / "coco" / "config.json").is_file()
    assert (tmp_path / "coco.png").is_file()
    assert run.stdout.count(" | ") == 5


@pytest.mark.slow
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="once is enough")
def test_a_fusion_is_trained_judged_exported_and_timed(fusions, monkeypatch, tmp_path):
    import tensorflow as tf

    def sample(split):
        rows = data.load("sample", "train" if split == "train" else "validation").encoded
        return adapted(rows.map(lambda row: {"image": tf.io.read_file(row["path"]), "caption": row["caption"]}))

    task = {**fusions.TASKS["captioner"], "examples": sample}
    settings = {"TASKS": {"captioner": task}, "FILES": tmp_path / "files", "STORED": tmp_path / "fusions.json"}
    settings |= {"FUSIONS": ("gated",), "CPU_SECONDS": 1, "JUDGED": 6, "SEEDS": (0, 1), "BATCH": 8}
    settings["SHARED"] = {**fusions.SHARED, "dim": 32, "depth": 1, "image_shape": (33, 33, 3)}
    for name, value in settings.items():
        monkeypatch.setattr(fusions, name, value)
    for name in ("told", "kept", "examples"):
        monkeypatch.setattr(fusions, name, functools.cache(getattr(fusions, name).__wrapped__))
    monkeypatch.chdir(tmp_path)
    for step in ("train", "time"):
        monkeypatch.setattr(sys, "argv", ["zoo.fusions", step])
        fusions.main()
    found = fusions.known()["captioner gated"]
    assert [run["seed"] for run in found["runs"]] == [0, 1]
    assert found["rate"] in fusions.RATES
    assert set(found["validation"]) == {f"{rate:g}" for rate in fusions.RATES}
    assert all(0 <= run["test"]["low"] <= run["test"]["high"] <= 1 for run in found["runs"])
    assert found["litert_ms"] > 0


def test_every_fusion_was_compared_on_equal_terms(fusions):
    stored = fusions.known()
    assert set(stored) == {f"{task} {fusion}" for task, fusion in fusions.cells()}
    for one in stored.values():
        assert tuple(run["seed"] for run in one["runs"]) == fusions.SEEDS
        assert one["validation"][f"{one['rate']:g}"] == max(one["validation"].values())
        assert one["litert_ms"] > 0
    for task in fusions.TASKS:
        spent = [sum(run["cpu_seconds"] for run in stored[" ".join(cell)]["runs"]) for cell in fusions.cells([task])]
        assert max(spent) < 1.25 * min(spent), "the budgets were not alike"


def test_the_advice_tells_the_stored_figures(fusions):
    advice = (ROOT / "zoo" / "advice.md").read_text(encoding="utf-8")
    assert f"after {fusions.CPU_SECONDS} CPU" in advice
    tests = {name: [run["test"]["value"] for run in one["runs"]] for name, one in fusions.known().items()}
    means = {f"{sum(tests[cell]) / len(tests[cell]):.2f}"[1:] for cell in tests if cell.startswith("captioner")}
    assert set(re.findall(r"\.\d\d", advice)) == means
