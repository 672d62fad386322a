"""Figures that can be trusted: known answers, second opinions, and no row that moves another."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import toys

from vtx_keras import data, metrics, zoo
from vtx_keras.data import _examples as examples
from vtx_keras.evaluate import _captions as captions
from vtx_keras.evaluate import _measures as answers
from vtx_keras.evaluate import _measures as labels
from vtx_keras.evaluate import _measures as measures
from vtx_keras.evaluate import _measures as ranking
from vtx_keras.inputs.text import normalize

NEEDS_JAVA = pytest.mark.skipif(captions.shutil.which("java") is None, reason="no Java")
LINES = ["\r", "\n", "\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x00"]  # what some program takes for a line's end
NASTY = [*(f"a{end}b" for end in LINES), "", "   ", "||| a ||| b", "\ud800", "!"]
SAID = ["a man is speaking", "rain falls"]
REFERENCES = [
    ["a man speaks.", "someone speaks.", "a man is speaking while a bird is chirping in the background"],
    ["rain is falling hard on a surface"],
]
KNOWN = {
    "bleu_1": 0.427848,
    "bleu_2": 0.405892,
    "bleu_3": 0.438965,
    "bleu_4": 0.456500,
    "rouge_l": 0.487069,
    "cider": 0.961355,
}


def test_the_known_answer_of_the_field():
    found = metrics.caption_scores(SAID, REFERENCES)
    assert {name: round(measure.value, 6) for name, measure in found.items()} == KNOWN
    np.testing.assert_allclose(found["cider"].rows, [1.364055, 0.558655], atol=1e-6)


def test_our_sums_are_pycocoevalcaps_own_to_the_last_digit():
    random = np.random.default_rng(0)
    words = ["a", "the", "cat", "dog", "sits", "on", "mat", "red", "blue", "runs"]
    said = [" ".join(random.choice(words, random.integers(1, 9))) for _ in range(40)]
    wanted = [[" ".join(random.choice(words, random.integers(1, 9))) for _ in range(3)] for _ in said]
    given, truth = {i: [one] for i, one in enumerate(said)}, dict(enumerate(wanted))
    found = metrics.caption_scores(said, wanted)
    bleu, rows = captions.package("bleu.bleu").Bleu().compute_score(truth, given, verbose=0)
    np.testing.assert_allclose([found[f"bleu_{n}"].value for n in range(1, 5)], bleu, rtol=1e-12)
    np.testing.assert_allclose([found[f"bleu_{n}"].rows for n in range(1, 5)], rows, rtol=1e-12)
    for name, room, kind in (("rouge_l", "rouge.rouge", "Rouge"), ("cider", "cider.cider", "Cider")):
        value, rows = getattr(captions.package(room), kind)().compute_score(truth, given)
        assert found[name].value == pytest.approx(value, rel=1e-12)
        np.testing.assert_allclose(found[name].rows, rows, rtol=1e-12)
    # Weights are what repeating rows is.
    weights = random.integers(0, 3, len(said)).astype(float)
    again = np.repeat(np.arange(len(said)), weights.astype(int))
    repeated = metrics.caption_scores([said[i] for i in again], [wanted[i] for i in again], scorers=["bleu", "rouge_l"])
    for name, measure in repeated.items():
        assert found[name].of(weights) == pytest.approx(measure.value, rel=1e-9)


@pytest.mark.parametrize("tokenizer", ["plain", pytest.param("penn", marks=NEEDS_JAVA)])
def test_no_caption_moves_another(tokenizer):
    said = [*SAID, *NASTY, "x " * 3000]
    wanted = [*REFERENCES, *(["a b", nasty] for nasty in NASTY), ["x y"]]

    def rows(order, scorers=("bleu", "rouge_l")):
        found = metrics.caption_scores(
            [said[i] for i in order], [wanted[i] for i in order], scorers=scorers, tokenizer=tokenizer
        )
        return {name: dict(zip(order, measure.rows.tolist(), strict=True)) for name, measure in found.items()}

    whole = rows(range(len(said)))
    assert whole["rouge_l"][0] == pytest.approx(metrics.caption_scores(SAID, REFERENCES)["rouge_l"].rows[0])
    backwards = rows(range(len(said) - 1, -1, -1), captions.SCORERS[:3])
    assert {name: backwards[name] for name in whole} == whole
    forwards = rows(range(len(said)), captions.SCORERS[:3])["cider"]
    assert backwards["cider"] == pytest.approx(forwards)  # what is rare depends on the set, not on its order
    for gone in range(len(said)):  # each alone is left out
        rest = [i for i in range(len(said)) if i != gone]
        if tokenizer == "plain" or gone in (4, 10):
            assert rows(rest) == {name: {i: found[i] for i in rest} for name, found in whole.items()}
    empty = said.index("")
    assert whole["rouge_l"][empty] == whole["bleu_1"][empty] == 0


@NEEDS_JAVA
def test_plain_tokens_are_the_java_tokenizers():
    names = (Path(__file__).parent / "data" / "emoji_names.txt").read_text(encoding="utf-8").splitlines()
    # Brackets, which the original forgets to take out, abbreviations, and curly apostrophes inside a word.
    names = [name for name in names if not any(mark in name for mark in ("(", ".", "’"))]
    names += ["A man's t-shirt, 50% off!", "he isn't there; they'll see 1,000.5 things", "black/white", "naïve café"]
    assert len(names) > 1000
    assert list(map(captions.tokens, names)) == captions.penn(names)


@pytest.mark.slow
@NEEDS_JAVA
def test_meteor_gives_its_known_answer():
    found = metrics.caption_scores(SAID, REFERENCES, scorers=["meteor"])["meteor"]
    assert found.value == pytest.approx(0.263381, abs=1e-6)
    assert len(found.rows) == 2
    assert np.isnan(measures.intervals({"meteor": found}, [0, 1])["meteor"][1:]).all()


def test_what_needs_java_or_a_package_says_so(monkeypatch):
    monkeypatch.setattr(captions.shutil, "which", lambda name: None)
    for asked in ({"scorers": ["meteor"]}, {"scorers": ["spice"]}, {"tokenizer": "penn"}):
        with pytest.raises(RuntimeError, match="needs Java"):
            metrics.caption_scores(SAID, REFERENCES, **asked)
    monkeypatch.setitem(sys.modules, "pycocoevalcap.rouge.rouge", None)
    with pytest.raises(ImportError, match="pip install pycocoevalcap"):
        metrics.caption_scores(SAID, REFERENCES, scorers=["rouge_l"])


@pytest.mark.parametrize(
    ("said", "references", "match"),
    [
        (["a"], [], "1 captions, 0 lists"),
        ([], [], "at least 1"),
        (["a"], ["a cat"], "a list of texts for each"),
        (["a"], [[]], "none of them empty"),
        (["a"], [["!"]], "row 0 has no reference with a word"),
    ],
)
def test_captions_that_cannot_be_scored_are_refused(said, references, match):
    with pytest.raises(ValueError, match=match):
        metrics.caption_scores(said, references)


def test_words_are_compared_as_the_released_card_does():
    """Its definition, written out again: exact after `normalize`, F1 of the bags of words."""
    import collections
    import re

    pairs = [("Cat  Face", "cat face"), ("a red cat", "a cat"), ("", "cat"), ("cat cat", "cat"), ("woman’s hat", "hat")]
    for said, wanted in pairs:
        a, b = (collections.Counter(re.findall(r"\w+", normalize(x))) for x in (said, wanted))
        assert metrics.word_f1(said, [wanted]) == 2 * (a & b).total() / max(a.total() + b.total(), 1)
        assert metrics.exact(said, [wanted]) == float(normalize(said) == normalize(wanted))
    assert metrics.word_f1("a dog", ["a cat", "a dog"]) == metrics.exact("a dog", ["a cat", "a dog"]) == 1


def test_vqa_accuracy_is_leave_one_out():
    def by_definition(said, people):
        scores = []
        for one in range(len(people)):
            others = [answer for other, answer in enumerate(people) if other != one]
            scores.append(min(1, others.count(said) / 3))
        return sum(scores) / len(scores)

    for yes in range(11):
        people = ["yes"] * yes + ["no"] * (10 - yes)
        assert metrics.vqa_accuracy("yes", people) == pytest.approx(by_definition("yes", people))
    assert [round(metrics.vqa_accuracy("y", ["y"] * n + ["n"] * (10 - n)), 3) for n in (1, 2, 3, 4)] == [
        0.3,
        0.6,
        0.9,
        1,
    ]
    # Texts are normalised only where people differ.
    assert metrics.vqa_accuracy("The cat", ["cat"] * 10) == 0
    assert metrics.vqa_accuracy("The cat", ["cat"] * 9 + ["kitten"]) == 1
    with pytest.raises(ValueError, match="give 2 or more"):
        metrics.vqa_accuracy("yes", ["yes"])


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [
        ("A  dog.", "dog"),
        ("two", "2"),
        ("None", "0"),
        ("dont", "don't"),
        ("1,000 people", "1000 people"),
        ("black/white", "black white"),
        ("yes, it is", "yes it is"),
        ("3.5 m", "3.5 m"),
        ("U.S.", "us"),
        ("it's 5:30", "it's 5:30"),
        ("the its", "its"),
        ("what?", "what"),
        ("left-handed", "left handed"),
        ("", ""),
    ],
)
def test_vqa_normalisation(answer, wanted):
    assert answers.vqa_normalize(answer) == wanted


def test_ranks_give_no_credit_for_ties():
    same = np.zeros((4, 4))
    assert metrics.ranks(same, np.eye(4)).tolist() == [4, 4, 4, 4]
    assert metrics.ranks([[np.nan, 0.1]], [[True, False]]).tolist() == [2]
    assert metrics.ranks([[0.1, 0.2]], [[False, False]]).tolist() == [np.inf]
    random = np.random.default_rng(0)
    scores, right = random.normal(size=(30, 12)), random.random((30, 12)) < 0.2
    right[:, 0] = True
    for row, mask, rank in zip(scores, right, metrics.ranks(scores, right), strict=True):
        assert rank == 1 + next(at for at, which in enumerate(np.argsort(-row)) if mask[which])


def test_retrieval_counts_several_texts_per_picture_and_several_pictures_per_text():
    random = np.random.default_rng(1)
    images, texts = random.normal(size=(7, 4)), random.normal(size=(9, 4))
    pairs = np.array([(i % 7, i) for i in range(9)] + [(3, 0)])
    found = metrics.retrieval(images, texts, text_of=pairs[:, 1], image_of=pairs[:, 0], block=2)
    right = np.zeros((7, 9), bool)
    right[pairs[:, 0], pairs[:, 1]] = True
    forth, back = metrics.ranks(images @ texts.T, right), metrics.ranks(texts @ images.T, right.T)
    for way, rank in (("image_to_text", forth), ("text_to_image", back)):
        for place in (1, 5, 10):
            assert found[f"{way}_recall_{place}"].value == (rank <= place).mean()
        assert found[f"{way}_median_rank"].value == np.median(rank)
    weights = random.integers(0, 4, 16).astype(float)
    drawn = np.repeat(forth, weights[:7].astype(int))
    assert found["image_to_text_median_rank"].of(weights) == np.median(drawn)
    assert found["image_to_text_recall_1"].of(weights) == (drawn <= 1).mean()


def test_chance_is_what_blind_guesses_come_to():
    random = np.random.default_rng(0)
    right = np.zeros((20_000, 12), bool)
    right[:, :2] = True
    rank = metrics.ranks(random.random(right.shape), right)
    for name, value in ranking.chance(12, {2: 1}).items():
        assert value == pytest.approx((rank <= int(name.split("_")[1])).mean(), abs=0.01)


def second_opinion(said, truth, classes):
    """Precision, recall and F1 per class by counting, one class at a time."""
    found = []
    for c in classes:
        hit = sum(c in a and c in b for a, b in zip(said, truth, strict=True))
        ours, theirs = sum(c in a for a in said), sum(c in b for b in truth)
        if ours + theirs:
            found.append((hit / ours if ours else 0, hit / theirs if theirs else 0, 2 * hit / (ours + theirs)))
    return np.mean(found, axis=0)


def test_labels_have_a_second_opinion():
    random = np.random.default_rng(0)
    said, truth = random.integers(0, 5, 60), random.integers(0, 4, 60)
    found = labels.one_label(said, truth)
    macro = second_opinion([{a} for a in said], [{b} for b in truth], range(5))
    assert [found[f"{what}_macro"].value for what in ("precision", "recall", "f1")] == pytest.approx(macro.tolist())
    assert found["accuracy"].value == (said == truth).mean()
    scores, many = np.round(random.normal(size=(60, 4)), 1), random.random((60, 4)) < 0.3  # rounded: with ties
    found = labels.many_labels(scores, many)
    sets = [[set(np.flatnonzero(row)) for row in rows] for rows in (scores > 0, many)]
    macro = second_opinion(*sets, range(4))
    assert [found[f"{what}_macro"].value for what in ("precision", "recall", "f1")] == pytest.approx(macro.tolist())
    hits = sum(len(a & b) for a, b in zip(*sets, strict=True))
    assert found["f1_micro"].value == pytest.approx(2 * hits / sum(len(one) for rows in sets for one in rows))
    assert found["exact"].value == np.mean([a == b for a, b in zip(*sets, strict=True)])
    precisions = []
    for column in range(4):  # each step down the thresholds adds what recall it gains, at the precision there
        area = recall = 0.0
        for threshold in sorted(set(scores[:, column]), reverse=True):
            above = scores[:, column] >= threshold
            reached = many[above, column].sum() / many[:, column].sum()
            area, recall = area + (reached - recall) * many[above, column].mean(), reached
        precisions.append(area)
    assert found["map"].value == pytest.approx(np.mean(precisions))
    weights = random.integers(0, 3, 60).astype(float)
    again = np.repeat(np.arange(60), weights.astype(int))
    for name, measure in labels.many_labels(scores[again], many[again]).items():
        assert found[name].of(weights) == pytest.approx(measure.value), name


def test_intervals_are_wider_where_rows_belong_together_and_cover_the_truth():
    random = np.random.default_rng(0)
    covered, trials = 0, 200
    for trial in range(trials):
        hits = (random.random(100) < 0.3).astype(float)
        _, low, high = measures.intervals({"a": metrics.mean(hits)}, range(100), count=200, seed=trial)["a"]
        covered += low <= 0.3 <= high
    assert covered / trials > 0.88
    hits = np.repeat(random.random(40) < 0.5, 10).astype(float)  # ten questions each, all right or all wrong
    alone = measures.intervals({"a": metrics.mean(hits)}, range(400))["a"]
    together = measures.intervals({"a": metrics.mean(hits)}, np.repeat(range(40), 10).tolist())["a"]
    assert alone[0] == together[0]
    assert together[2] - together[1] > 2.5 * (alone[2] - alone[1])
    assert measures.intervals({"a": metrics.mean(hits)}, ["b", "c"] * 200) == measures.intervals(
        {"a": metrics.mean(hits)}, ["x", "y"] * 200
    )
    assert np.isnan(measures.intervals({"a": metrics.mean([1, 1])}, ["one", "one"])["a"][1])


def test_perplexity_counts_words_by_weight_and_is_saved_with_the_model(tmp_path):
    model = toys.toy("cross_attn_captioner")
    model.compile(loss=model.loss, optimizer="adam", weighted_metrics=[metrics.Perplexity()])
    inputs, words, weight = toys.batches(model)[0]
    weight[1] *= 0.5
    found = model.test_on_batch(inputs, words, weight, return_dict=True)["perplexity"]
    logits = toys.outputs(model, inputs).astype("float64")
    losses = np.log(np.exp(logits).sum(-1)) - np.take_along_axis(logits, words[..., None], -1)[..., 0]
    assert float(found) == pytest.approx(np.exp((losses * weight).sum() / weight.sum()), rel=1e-4)
    loaded = zoo.load(zoo.save(model, tmp_path / "model.keras"))
    again = loaded.test_on_batch(inputs, words, weight, return_dict=True)["perplexity"]
    assert float(again) == pytest.approx(float(found), rel=1e-5)
    metric = metrics.Perplexity()
    metric.update_state([[3, 0]], np.array([[[0, 0, 0, 0.0], [np.inf, 0, 0, 0]]], "float32"))
    assert float(metric.result()) == pytest.approx(4)


def test_ssim_is_the_published_one():
    tf = pytest.importorskip("tensorflow")
    random = np.random.default_rng(0)
    first = random.integers(0, 256, (3, 24, 31, 3)).astype("float32")
    second = np.clip(first + random.normal(0, 20, first.shape), 0, 255).astype("float32")
    wanted = tf.image.ssim(first, second, 255.0).numpy()
    np.testing.assert_allclose(np.array(metrics.ssim(first, second)), wanted, atol=2e-5)
    metric = metrics.SSIM()
    metric.update_state(first, second)
    assert float(metric.result()) == pytest.approx(float(wanted.mean()), abs=2e-5)
    with pytest.raises(ValueError, match="at least 11 px"):
        metrics.ssim(np.zeros((1, 8, 8, 3)), np.zeros((1, 8, 8, 3)))


def speaking(count=6):
    model = toys.eager(toys.decisive("cross_attn_captioner"))
    rows = zip(toys.pictures(model, count).astype("uint8"), toys.texts(count), strict=True)
    return model, [{"image": image, "caption": caption} for image, caption in rows]


@pytest.mark.slow
def test_scores_reach_the_callbacks_behind_them(tmp_path):
    model, rows = speaking()
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


def test_scores_do_not_hide_the_models_own():
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


def test_a_captioner_that_answers_is_judged_by_what_follows_the_question():
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
    model, rows = speaking(4)
    rows.insert(1, {"image": b"<html>", "caption": "w1"})
    rows.insert(3, {"image": rows[0]["image"], "caption": " ?! "})
    outcome = metrics.said_of(model, rows, batch_size=1)
    assert [row.place for row in outcome.rows] == [0, 2, 4, 5]
    assert sorted(outcome.left_out) == [1, 3]
    assert "begins with b'<html>'" in outcome.left_out[1]
    with pytest.raises(ValueError, match="no row can be judged: row 0: "):
        metrics.said_of(model, rows[1:2])
    with pytest.raises(ValueError, match="there is none"):
        metrics.said_of(model, [])


def test_what_a_row_is_resampled_with():
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
    environment = {**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment, cwd=Path(__file__).parent
    )
    assert run.returncode == 0, run.stderr[-2000:]
    random = np.random.default_rng(0)
    ours = float(metrics.ssim(random.random((1, 16, 16, 3)) * 255, np.zeros((1, 16, 16, 3)))[0])
    assert json.loads(run.stdout.splitlines()[-1]) == pytest.approx(ours, abs=1e-5)
