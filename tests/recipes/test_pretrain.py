"""Pretraining on the sample: every objective is learned, and shared weights are handed on."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from recipes import pretrain, questions
from vtx_keras import zoo

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="the recipes read tf.data")
TOY = {"dim": 32, "depth": 1, "vision_depth": 1, "text_depth": 1, "image_shape": (32, 32, 3), "dropout": 0.0}


def run(recipe, monkeypatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", [recipe.__name__, *arguments])
    recipe.main()


def losses(folder: Path) -> list[float]:
    with open(folder / "results.csv", encoding="utf-8") as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


@pytest.mark.slow
def test_all_objectives_in_turn_and_questions_after_them(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pretrain, "SMALL", TOY)
    run(pretrain, monkeypatch, "--sample", "--objective", "all", "--epochs", "2", "--out", str(tmp_path))
    output = capsys.readouterr().out
    assert "matching-mlm begins with" in output
    for stage in pretrain.ALL:
        found = losses(tmp_path / stage)
        assert found[-1] < found[0], stage
    run(
        questions, monkeypatch, "--begin", str(tmp_path / "matching-mlm"), "--sample", "--epochs", "2",
        "--out", str(tmp_path / "questions"),
    )  # fmt: skip
    lines = capsys.readouterr().out.splitlines()
    begun = next(line for line in lines if line.startswith("begins with "))
    assert {"image_encoder", "text_encoder", "fusion_0"} <= set(begun.removeprefix("begins with ").split(", "))
    found = losses(tmp_path / "questions")
    assert found[-1] < found[0]
    model = zoo.load(tmp_path / "questions")
    assert model.answer(np.zeros((32, 32, 3), "uint8"), "what is it?")[0] in model.class_names


@pytest.mark.parametrize(
    "objective",
    ["mlm", *(pytest.param(name, marks=pytest.mark.slow) for name in ("captioning", "contrastive", "matching"))],
)
def test_each_objective_alone(objective, tmp_path, monkeypatch):
    monkeypatch.setattr(pretrain, "SMALL", TOY)
    run(pretrain, monkeypatch, "--sample", "--objective", objective, "--epochs", "3", "--out", str(tmp_path))
    found = losses(tmp_path / objective)
    assert found[-1] < found[0]
    assert zoo.load(tmp_path / objective).spec["name"] == pretrain.STAGES[objective][0]


def test_shared_weights_are_handed_on_and_others_kept():
    common = {"weights": None, "vocabulary": ["a", "b"], "max_length": 8}
    source = zoo.build("cross_attn_matcher", **common, **TOY)
    target = zoo.build("cross_attn_vqa", **common, **TOY, classes=3)
    head = target.get_layer("head").get_weights()
    taken = pretrain.hand_on(source, target)
    assert {"image_encoder", "text_encoder", "vision", "fusion_0", "norm"} == set(taken)
    for name in taken:
        for one, other in zip(source.get_layer(name).get_weights(), target.get_layer(name).get_weights(), strict=True):
            np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(head[0], target.get_layer("head").get_weights()[0])
