"""Evaluations of every task: figures beside baselines, and files that keep them."""

from __future__ import annotations

import json
import math
from collections import Counter

import numpy as np
import pytest
import toys

from vtx_keras import data, evaluate, metrics, zoo
from vtx_keras.evaluate import _baselines as baselines

LIGHT = {"draws": 50, "scorers": []}


def rows_for(model, count=8, seed=0, **others):
    return [
        {"image": image.astype("uint8"), "id": str(number), **{key: values[number] for key, values in others.items()}}
        for number, image in enumerate(toys.pictures(model, count, seed))
    ]


def test_a_captioner_is_measured_beside_its_baselines(tmp_path):
    model = toys.eager(toys.decisive("cross_attn_captioner"))
    captions = ["w1 w2", "w3", "w1 w2", "w4 w5", "w6", "w7", "w8", "w9"]
    train = rows_for(model, caption=captions, concept=["a", "b", "c", "d"] * 2)
    test = [{**row, "caption": f"{row['caption']} w9"} for row in train]  # the same pictures, other words
    results = evaluate.run(model, test, train=train, folder=tmp_path, draws=50)
    assert (results.kind, results.rows, results.groups, results.left_out) == ("captions", 8, 4, {})
    said = model.generate([row["image"] for row in test])
    wanted = [row["caption"] for row in test]
    by_hand = np.mean([metrics.word_f1(one, [other]) for one, other in zip(said, wanted, strict=True)])
    assert results.metrics["word_f1"]["value"] == pytest.approx(by_hand)
    copied = np.mean([metrics.word_f1(one, [other]) for one, other in zip(captions, wanted, strict=True)])
    assert results.baselines["nearest_neighbour"]["word_f1"]["value"] == pytest.approx(copied)  # itself is nearest
    common = np.mean([metrics.word_f1("w1 w2", [other]) for other in wanted])
    assert results.baselines["most_frequent"]["word_f1"]["value"] == pytest.approx(common)
    assert set(results.metrics) >= {"exact_match", "bleu_4", "rouge_l", "cider"}
    for figure in results.metrics.values():
        assert figure["low"] <= figure["value"] + 1e-9
        assert figure["value"] <= figure["high"] + 1e-9 or math.isnan(figure["high"])
    for name, found in results.differences.items():
        for metric, figure in found.items():
            theirs = results.baselines[name][metric]["value"]
            assert figure["value"] == pytest.approx(results.metrics[metric]["value"] - theirs)
    assert any(line.startswith("cider: worse than nearest neighbour") for line in results.summary())
    kept = json.loads((tmp_path / "results.json").read_text())
    assert kept == json.loads(json.dumps(results.as_dict()))
    assert kept["settings"]["seed"] == 0
    assert len(kept["weights_sha256"]) == 64
    assert kept["versions"]["keras"]
    page = (tmp_path / "results.html").read_text()
    assert page.count('class="card"') == 8 + 4 + 4
    assert "nearest neighbour" in page


@pytest.mark.parametrize("name", ["gated_vqa", "concat_classifier"])
def test_labels_and_questions_are_scored_beside_baselines(name):
    names = [one for one in zoo.MODELS if one.endswith(name.split("_")[1]) and not zoo.MODELS[one].video]
    model = toys.eager(toys.toy(name if name in names else names[0]))
    key, label = ("question", "answer") if "vqa" in name else ("text", "label")
    truth = ["no", "no", "yes", "yes", "no", "maybe", "no", "unheard"]
    test = rows_for(model, **{key: ["w1", "w2"] * 4, label: truth})
    train = rows_for(model, 4, seed=1, **{key: ["w1", "w2", "w1", "w1"], label: ["no", "yes", "no", "maybe"]})
    results = evaluate.run(model, test, train=train, **LIGHT)
    said = model.answer([row["image"] for row in test], ["w1", "w2"] * 4)
    assert results.metrics["accuracy"]["value"] == np.mean(np.array(said) == truth)
    assert results.baselines["most_frequent"]["accuracy"]["value"] == truth.count("no") / 8
    alone = np.mean([one == {"w1": "no", "w2": "yes"}[read] for one, read in zip(truth, ["w1", "w2"] * 4, strict=True)])
    assert results.baselines["question_alone"]["accuracy"]["value"] == alone
    assert "nearest_neighbour" in results.baselines
    logits = model.logits([row["image"] for row in test], ["w1", "w2"] * 4, 8)[0].astype(float)
    sure = (np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)).max(axis=1)
    by_hand = metrics.calibration(sure, np.array(said) == truth).value
    assert results.metrics["calibration_error"]["value"] == pytest.approx(by_hand)
    for figures in (*results.baselines.values(), *results.differences.values()):  # they only say a label
        assert set(results.metrics) - set(figures) == {"calibration_error"}
    assert "calibration error" in results.table()


def test_labels_may_be_numbers_and_answers_several():
    model = toys.eager(toys.toy("gated_vqa"))
    by_number = evaluate.run(model, rows_for(model, question=["w1"] * 8, answer=[0, 1] * 4), **LIGHT)
    by_name = evaluate.run(model, rows_for(model, question=["w1"] * 8, answer=["no", "yes"] * 4), **LIGHT)
    assert by_number.metrics == by_name.metrics
    assert by_number.notes[0].startswith("without a training split there is no most_frequent, no question_alone")
    said = model.answer([row["image"] for row in rows_for(model)], ["w1"] * 8)
    people = [[one] * 2 + ["other"] * 8 for one in said]
    found = evaluate.run(model, rows_for(model, question=["w1"] * 8, answers=people), **LIGHT).metrics
    assert found["vqa_accuracy"]["value"] == pytest.approx(0.6)


def test_several_labels_per_row_are_scored():
    name = next(one for one in zoo.MODELS if one.endswith("classifier") and not zoo.MODELS[one].video)
    model = toys.eager(toys.toy(name, multi_label=True))
    truth = [["no", "yes"], ["no"], [], ["maybe"], ["no"], ["yes"], ["no", "maybe"], ["no"]]
    test = rows_for(model, text=["w1"] * 8, label=truth)
    results = evaluate.run(model, test, train=test, **LIGHT)
    said = model.answer([row["image"] for row in test], ["w1"] * 8)
    assert results.metrics["exact"]["value"] == np.mean([set(a) == set(b) for a, b in zip(said, truth, strict=True)])
    assert results.baselines["nearest_neighbour"]["exact"]["value"] == 1
    assert results.baselines["nearest_neighbour"]["map"]["value"] == 1
    assert results.baselines["most_frequent"]["exact"]["value"] == 3 / 8  # "no" is right more often than not
    assert results.baselines["most_frequent"]["calibration_error"]["value"] == pytest.approx(0, abs=1e-6)  # its shares
    assert "calibration_error" not in results.baselines["nearest_neighbour"]
    assert results.baselines["most_frequent"]["auroc_macro"]["value"] == 0.5
    assert results.baselines["nearest_neighbour"]["auroc_macro"]["value"] == 1
    chances = 1 / (1 + np.exp(-model.logits([row["image"] for row in test], ["w1"] * 8, 8)[0].astype(float)))
    right = np.array([[name in labels for name in model.class_names] for labels in truth])
    by_hand = metrics.calibration(chances, right).value
    assert results.metrics["calibration_error"]["value"] == pytest.approx(by_hand)


def test_matchers():
    model = toys.eager(toys.toy("co_attn_matcher"))
    test = rows_for(model, caption=["w1", "w2", "w2", "w3", "w4", "w5", "w6", "w7"])
    results = evaluate.run(model, test, **LIGHT)
    assert results.rows == 8 + 6  # each with its own text, and with the one before where that is another
    pairs = [(n, row["caption"], 1) for n, row in enumerate(test)]
    pairs += [(n, test[n - 1]["caption"], 0) for n in range(1, 8) if test[n - 1]["caption"] != test[n]["caption"]]
    chances = model.match([test[n]["image"] for n, _, _ in pairs], [words for _, words, _ in pairs])
    right = [(chance > 0.5) == bool(fits) for chance, (_, _, fits) in zip(chances, pairs, strict=True)]
    assert results.metrics["accuracy"]["value"] == pytest.approx(np.mean(right))
    assert results.baselines["most_frequent"]["accuracy"]["value"] == 8 / 14
    fits = [fits for _, _, fits in pairs]
    assert results.metrics["auroc"]["value"] == pytest.approx(metrics.auroc(chances, fits).value)
    assert results.metrics["calibration_error"]["value"] == pytest.approx(metrics.calibration(chances, fits).value)
    assert results.baselines["most_frequent"]["auroc"]["value"] == 0.5
    assert "calibration_error" not in results.baselines["most_frequent"]
    given = rows_for(model, 3, caption=["w1", "w2", "w3"], label=[0, 1, 2])
    results = evaluate.run(model, given, **LIGHT)
    assert (results.rows, results.left_out) == (2, {"2": "label 2: expected 1 (fits) or 0"})


def test_search_counts_equal_texts_and_images_as_one(tmp_path):
    model = toys.eager(toys.toy("retriever"))
    test = rows_for(model, captions=[["w1 w2", "w3"], ["w4"], ["w5"], ["W4 "], ["w6"], ["w7"], ["w8"], ["w9 w1"]])
    test.append({**test[0], "captions": ["w10"]})  # the same picture once more
    results = evaluate.run(model, test, folder=tmp_path, **LIGHT)
    texts = ["w1 w2", "w3", "w4", "w5", "w6", "w7", "w8", "w9 w1", "w10"]
    scores = model.similarity([row["image"] for row in test[:8]], texts)
    right = np.zeros((8, 9), bool)
    right[[0, 0, 0, 1, 2, 3, 4, 5, 6, 7], [0, 1, 8, 2, 3, 2, 4, 5, 6, 7]] = True
    for way, rank in (
        ("image_to_text", metrics.ranks(scores, right)),
        ("text_to_image", metrics.ranks(scores.T, right.T)),
    ):
        assert results.metrics[f"{way}_recall_5"]["value"] == np.mean(rank <= 5)
        assert results.metrics[f"{way}_median_rank"]["value"] == np.median(rank)
    forth = [1 - math.comb(9 - n, 5) / math.comb(9, 5) for n in right.sum(axis=1)]
    assert results.baselines["chance"]["image_to_text_recall_5"]["value"] == pytest.approx(np.mean(forth))
    assert (tmp_path / "results.html").read_text().count('class="card"') == 8 + 4 + 4


def test_clips_have_a_nearest_neighbour():
    name = next(one for one, entry in zoo.MODELS.items() if entry.video and entry.task == "captioner")
    model = toys.eager(toys.toy(name))
    rows = rows_for(model, 3, caption=["w1", "w2", "w3"])
    results = evaluate.run(model, rows, train=rows, **LIGHT)
    assert results.baselines["nearest_neighbour"]["exact_match"]["value"] == 1


def test_bad_rows_are_reported_and_do_not_shift_the_others(tmp_path):
    model = toys.eager(toys.decisive("cross_attn_captioner"))
    good = rows_for(model, caption=[f"w{n}" for n in range(8)])
    bad = [*good[:3], {"image": b"?", "id": "x", "caption": "w1"}, {**good[0], "caption": ""}, *good[3:]]
    results = evaluate.run(model, bad, train=[*bad[3:], *bad[:3]], folder=tmp_path, **LIGHT)
    assert list(results.left_out) == ["3", "4"]
    assert results.metrics == evaluate.run(model, good, baselines=[], **LIGHT).metrics
    assert results.baselines["nearest_neighbour"]["exact_match"]["value"] >= 7 / 8  # one picture has two captions
    assert "2 rows were left out: row 3: " in " ".join(results.summary())


def test_a_limit_draws_the_same_rows_for_a_seed():
    model = toys.eager(toys.toy("gated_vqa"))
    rows = rows_for(model, 30, question=["w1"] * 30, answer=["no", "yes"] * 15)
    found = [evaluate.run(model, rows, baselines=[], limit=7, seed=seed, **LIGHT) for seed in (1, 1, 2)]
    assert found[0].rows == 7
    assert found[0].metrics == found[1].metrics
    with pytest.raises(ValueError, match="limit=0"):
        evaluate.run(model, rows, limit=0)
    with pytest.raises(TypeError, match="not an iterator"):
        evaluate.run(model, iter(rows))
    with pytest.raises(ValueError, match="no baseline 'luck'"):
        evaluate.run(model, rows, baselines=["luck"])


def test_few_images_are_in_memory_at_a_time():
    model = toys.toy("gated_vqa")
    alive, most = Counter(), []

    class Held(np.ndarray):
        def __del__(self):
            alive["pictures"] -= self.base is None

    class Rows:
        def __iter__(self):
            for number in range(300):
                picture = np.zeros(toys.SHAPE, "uint8").view(Held).copy()
                alive["pictures"] += 1
                most.append(alive["pictures"])
                yield {"image": picture, "id": str(number), "question": "w1", "answer": "no"}

    evaluate.run(model, Rows(), train=Rows(), batch_size=2, draws=10)
    assert len(most) >= 4 * 300
    assert max(most) <= 2 * 64 + 8  # the features of a baseline take 64 at a time


def test_a_table_reads_as_it_prints():
    figure = {"value": 0.12345, "low": float("nan"), "high": None}
    results = evaluate.Results(
        "toy", "search", 1, 1, {}, {"median_rank": {**figure, "value": math.inf}, "a": figure}, {}
    )
    assert results.table().splitlines() == [
        "               toy  95 % interval",
        "median rank      ∞",
        "a            0.123",
    ]
    assert results.as_dict()["metrics"]["median_rank"] == {"value": None, "low": None, "high": None}


def test_the_sample_is_evaluated_without_a_network():
    found = evaluate.run(
        zoo.build("cross_attn_captioner", weights="emoji"),
        data.load("sample", "validation"),
        train=data.load("sample"),
        limit=12,
        **LIGHT,
    )
    assert found.rows == 12
    assert found.baselines["nearest_neighbour"]["word_f1"]["value"] > 0.3
    assert baselines.ENCODER in found.notes[0]
