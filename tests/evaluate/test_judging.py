"""The evaluation of a generator: halves, baselines, judges, and what is left out."""

from __future__ import annotations

import json

import numpy as np
import pytest
from toys import toy

from vtx_keras import evaluate, metrics
from vtx_keras.evaluate import _judging as judging

COLOURS = {"w1": (255, 0, 0), "w2": (0, 255, 0), "w3": (0, 0, 255), "w4": (250, 250, 0)}


def rows(count: int, seed: int = 0) -> list[dict]:
    random, names = np.random.default_rng(seed), list(COLOURS)
    made = []
    for place in range(count):
        name = names[place % len(names)]
        pixels = np.clip(np.array(COLOURS[name]) + random.normal(0, 9, (16, 16, 3)), 0, 255).astype("uint8")
        made.append({"image": pixels, "captions": [f"{name} w9", name], "colour": name})
    return made


def colour_of(pictures: np.ndarray) -> list[str]:
    means = pictures.reshape(len(pictures), -1, 3).mean(axis=1)
    return [min(COLOURS, key=lambda name: np.abs(mean - COLOURS[name]).sum()) for mean in means]


@pytest.fixture(scope="module")
def generator():
    model = toy("gated_generator")
    model.draw = lambda texts, seed=0: np.stack([np.full((16, 16, 3), COLOURS[one[:2]], "uint8") for one in texts])
    return model


def test_a_generator_is_judged_beside_real_pictures_and_the_nearest_caption(generator, tmp_path):
    bad = [{"image": b"?", "captions": ["w1"]}, {**rows(1)[0], "captions": ["w1 zebra"]}]
    results = evaluate.run(
        generator, rows(48) + bad, train=rows(40, seed=1), folder=tmp_path, draws=20,
        judges={"colour": colour_of, "again": ("colour", lambda pictures: ["w1"] * len(pictures))},
    )  # fmt: skip
    assert results.kind == "drawings"
    assert sorted(results.baselines) == ["another_text", "nearest_caption", "real"]
    another = results.baselines.pop("another_text")
    assert another["colour_right"]["value"] < 0.6
    assert "frechet_mobilenet_v2" not in another, "it is the same set of pictures"
    assert 22 <= results.rows <= 25
    for figures in (results.metrics, *results.baselines.values()):
        assert figures["colour_right"]["value"] == 1.0
        assert 0.1 < figures["again_right"]["value"] < 0.4
    assert results.metrics["diversity"]["value"] == pytest.approx(0, abs=1e-6), "a text has one picture here"
    assert results.baselines["real"]["diversity"]["value"] > 0
    assert results.baselines["nearest_caption"]["nearest_training"]["value"] == pytest.approx(0, abs=1e-3)
    assert results.metrics["nearest_training"]["value"] > 0
    real, model = (one["frechet_mobilenet_v2"]["value"] for one in (results.baselines["real"], results.metrics))
    assert real < model
    assert set(results.left_out) <= {"48", "49"}
    assert "48" in results.left_out
    assert any("they are no FID" in line for line in results.summary())
    stored = json.loads((tmp_path / "results.json").read_text())
    assert stored["metrics"]["colour_right"]["value"] == 1.0
    assert "its nearest training picture" in (tmp_path / "results.html").read_text()


def test_the_nearest_caption_shares_the_most_words():
    places = judging._nearest_texts(["a red cat", "the sea"], ["a dog", "one red cat", "sea"], 0)
    assert places.tolist() == [1, 2]


def test_scores_of_a_run_are_distances(generator):
    scores = metrics.Scores(rows(8), limit=8)
    scores.set_model(generator)
    assert sorted(scores.scores()) == ["frechet", "kernel"]


def test_what_cannot_be_judged_is_said(generator):
    with pytest.raises(ValueError, match="expected at least 4 of each"):
        evaluate.run(generator, rows(3))
    with pytest.raises(ValueError, match="examples have no 'kind'"):
        evaluate.run(generator, rows(16), judges={"kind": colour_of}, draws=2)
    with pytest.raises(TypeError, match="expected a retriever, a function"):
        evaluate.run(generator, rows(16), judges={"colour": "red"})
    with pytest.raises(ValueError, match="gives 1 labels for"):
        evaluate.run(generator, rows(16), judges={"colour": lambda pictures: ["w1"]}, draws=2)
    with pytest.raises(ValueError, match="writes no sentences"):
        evaluate.run(generator, rows(16), beams=2)
    with pytest.raises(ValueError, match="draws none"):
        evaluate.run(toy("gated_vqa"), rows(8), judges={"colour": colour_of})
