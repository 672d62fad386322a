"""Outputs of models scored over examples, and during `fit`."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys

import keras
import numpy as np
import pytest
import toys

from vtx_keras import data, metrics
from vtx_keras.data import _examples as examples


def captioned(count=6):
    """A captioner, and examples with captions."""
    model = toys.eager(toys.decisive("cross_attn_captioner"))
    rows = zip(toys.pictures(model, count).astype("uint8"), toys.texts(count), strict=True)
    return model, [{"image": image, "caption": caption} for image, caption in rows]


@pytest.mark.slow
def test_scores_reach_later_callbacks(tmp_path):
    model, rows = captioned()
    batches = data.arrays(model, np.stack([row["image"] for row in rows]), [row["caption"] for row in rows])
    scores = metrics.Scores(rows, limit=4, every=2)
    log, best = tmp_path / "log.csv", tmp_path / "best.keras"
    history = model.fit(
        batches,
        epochs=4,
        verbose=0,
        callbacks=[
            scores,
            keras.callbacks.CSVLogger(log),
            keras.callbacks.ModelCheckpoint(best, monitor="val_cider", mode="max", save_best_only=True),
            keras.callbacks.EarlyStopping("val_word_f1", mode="max", patience=9),
        ],
    ).history
    assert {"val_cider", "val_exact_match", "val_word_f1", "val_bleu_4", "val_rouge_l"} <= set(history)
    assert history["val_cider"][0] == history["val_cider"][1]
    said = model.generate([row["image"] for row in rows[:4]])
    f1 = np.mean([metrics.word_f1(one, [row["caption"]]) for one, row in zip(said, rows[:4], strict=True)])
    assert scores.scores()["word_f1"] == pytest.approx(f1)  # of the weights as they are now
    assert "val_cider" in log.read_text().splitlines()[0]
    assert best.is_file()


def test_scores_do_not_overwrite_the_models_metrics():
    model = toys.eager(toys.toy("gated_vqa"))
    rows = [
        {"image": image.astype("uint8"), "question": "w1 w2", "answer": answer}
        for image, answer in zip(toys.pictures(model, 3), toys.ANSWERS, strict=True)
    ]
    batches = toys.batches(model)
    history = (
        toys.eager(model)
        .fit(batches, validation_data=batches, verbose=0, callbacks=[metrics.Scores(rows, names=["accuracy"])])
        .history
    )
    assert {"val_accuracy", "val_said_accuracy"} <= set(history)
    mistaken = metrics.Scores(rows, names=["cider"])
    mistaken.set_model(model)
    with pytest.raises(ValueError, match="there is no 'cider'"):
        mistaken.scores()
    with pytest.raises(ValueError, match="limit=0"):
        metrics.Scores(rows, limit=0)


def test_a_captioner_that_answers_is_scored_on_the_text_after_the_question():
    model = toys.eager(toys.decisive("cross_attn_captioner"))
    image = toys.pictures(model, 1)[0].astype("uint8")
    rows = [{"image": image, "question": "w1 w2?", "answer": "w3"}, {"image": image, "question": "w4", "answer": "w3"}]
    outcome = metrics.said_of(model, rows)
    whole = model.generate([image, image], ["w1 w2?", "w4"])
    assert outcome.kind == "answers"
    assert [row.said for row in outcome.rows] == [
        one.removeprefix(question).strip() for one, question in zip(whole, ["w1 w2", "w4"], strict=True)
    ]
    assert "vqa_accuracy" not in metrics.measures_of(outcome)
    ten = [{"image": image, "question": "w4", "answers": ["w3"] * 4 + [outcome.rows[1].said or "w9"] * 6}]
    if outcome.rows[1].said:
        assert metrics.measures_of(metrics.said_of(model, ten))["vqa_accuracy"].value == 1


def test_bad_rows_are_left_out_and_counted():
    model, rows = captioned(4)
    rows.insert(1, {"image": b"<html>", "caption": "w1"})
    rows.insert(3, {"image": rows[0]["image"], "caption": " ?! "})
    outcome = metrics.said_of(model, rows, batch_size=1)
    assert [row.place for row in outcome.rows] == [0, 2, 4, 5]
    assert sorted(outcome.left_out) == [1, 3]
    assert "HTML or XML" in outcome.left_out[1]
    with pytest.raises(ValueError, match="no row can be judged: row 0: "):
        metrics.said_of(model, rows[1:2])
    with pytest.raises(ValueError, match="there is none"):
        metrics.said_of(model, [])


def test_rows_are_resampled_by_concept_or_image():
    picture = np.zeros((2, 2, 3), "uint8")
    assert examples.group_of({"image": picture, "concept": b"cat", "image_id": "7"}) == "cat"
    assert examples.group_of({"image": picture}) == examples.group_of({"image": picture.copy()})
    assert examples.group_of({"image": picture}) != examples.group_of({"image": picture + 1})
    for keys in itertools.combinations(("concept", "image_id", "path", "id"), 2):
        assert examples.group_of({key: key for key in keys}) == keys[0]


@pytest.mark.slow  # KERAS_BACKEND=jax runs this whole file there
@pytest.mark.parametrize("backend", ["jax"])
def test_metrics_on_another_backend(backend):
    pytest.importorskip(backend)
    script = """
import json, numpy as np, toys
from vtx_keras import data, metrics
model = toys.decisive("cross_attn_captioner")
model.compile(loss=model.loss, optimizer=model.optimizer, weighted_metrics=[metrics.Perplexity()])
rows = [{"image": one.astype("uint8"), "caption": words} for one, words in zip(toys.pictures(model), toys.texts())]
batches = data.arrays(model, np.stack([row["image"] for row in rows]), toys.texts())
history = model.fit(batches, epochs=2, verbose=0, callbacks=[metrics.Scores(rows)]).history
said = model.generate([row["image"] for row in rows])
f1 = np.mean([metrics.word_f1(one, [row["caption"]]) for one, row in zip(said, rows)])
assert abs(history["val_word_f1"][-1] - f1) < 1e-6, (history, f1)
assert 1 < history["perplexity"][-1] < 1000
random = np.random.default_rng(0)
print(json.dumps(float(metrics.ssim(random.random((1, 16, 16, 3)) * 255, np.zeros((1, 16, 16, 3)))[0])))
"""
    command = [sys.executable, "-c", script]
    run = subprocess.run(command, capture_output=True, text=True, env=toys.other_backend(backend))
    assert run.returncode == 0, run.stderr[-2000:]
    random = np.random.default_rng(0)
    ours = float(metrics.ssim(random.random((1, 16, 16, 3)) * 255, np.zeros((1, 16, 16, 3)))[0])
    assert json.loads(run.stdout.splitlines()[-1]) == pytest.approx(ours, abs=1e-5)
