"""Measures of answers, labels and search, and their intervals."""

from __future__ import annotations

import numpy as np
import pytest

from vtx_keras import metrics
from vtx_keras.evaluate import _measures as measures


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
    assert measures.vqa_normalize(answer) == wanted


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


def test_retrieval_counts_several_texts_per_image_and_several_images_per_text():
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


def test_chance_equals_the_mean_of_random_guesses():
    random = np.random.default_rng(0)
    right = np.zeros((20_000, 12), bool)
    right[:, :2] = True
    rank = metrics.ranks(random.random(right.shape), right)
    for name, value in measures.chance(12, {2: 1}).items():
        assert value == pytest.approx((rank <= int(name.split("_")[1])).mean(), abs=0.01)


def plain_count(said, truth, classes):
    """Precision, recall and F1 per class by counting, one class at a time."""
    found = []
    for c in classes:
        hit = sum(c in a and c in b for a, b in zip(said, truth, strict=True))
        ours, theirs = sum(c in a for a in said), sum(c in b for b in truth)
        if ours + theirs:
            found.append((hit / ours if ours else 0, hit / theirs if theirs else 0, 2 * hit / (ours + theirs)))
    return np.mean(found, axis=0)


def test_scores_of_labels_equal_a_plain_count():
    random = np.random.default_rng(0)
    said, truth = random.integers(0, 5, 60), random.integers(0, 4, 60)
    found = measures.one_label(said, truth)
    macro = plain_count([{a} for a in said], [{b} for b in truth], range(5))
    assert [found[f"{what}_macro"].value for what in ("precision", "recall", "f1")] == pytest.approx(macro.tolist())
    assert found["accuracy"].value == (said == truth).mean()
    scores, many = np.round(random.normal(size=(60, 4)), 1), random.random((60, 4)) < 0.3  # rounded: with ties
    found = measures.many_labels(scores, many)
    sets = [[set(np.flatnonzero(row)) for row in rows] for rows in (scores > 0, many)]
    macro = plain_count(*sets, range(4))
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
    for name, measure in measures.many_labels(scores[again], many[again]).items():
        assert found[name].of(weights) == pytest.approx(measure.value), name


def pair_count(scores, truth, weights):
    """Of every pair of a true and a false row, whether the true one scores higher; half if they tie."""
    won = total = 0.0
    for score, yes, weight in zip(scores, truth, weights, strict=True):
        for other, also, other_weight in zip(scores, truth, weights, strict=True):
            if yes and not also:
                won += weight * other_weight * ((score > other) + (score == other) / 2)
                total += weight * other_weight
    return won / total if total else np.nan


def test_auroc_counts_pairs():
    random = np.random.default_rng(0)
    scores, truth = np.round(random.normal(size=(50, 3)), 1), random.random((50, 3)) < 0.4  # rounded: with ties
    truth[:, 2] = True  # a class without a false row is left out
    for weights in (np.ones(50), random.integers(0, 4, 50).astype(float)):
        counted = [pair_count(scores[:, c], truth[:, c], weights) for c in range(2)]
        assert [metrics.auroc(scores[:, c], truth[:, c]).of(weights) for c in range(2)] == pytest.approx(counted)
        assert metrics.many_labels(scores, truth)["auroc_macro"].of(weights) == pytest.approx(np.mean(counted))
        assert metrics.yes_or_no(scores[:, 0], truth[:, 0])["auroc"].of(weights) == pytest.approx(counted[0])
    assert np.isnan(metrics.auroc(scores[:, 2], truth[:, 2]).value)
    assert np.isnan(metrics.auroc(scores[:, 0], truth[:, 0]).of(truth[:, 0].astype(float)))
    assert metrics.auroc(np.zeros(50), truth[:, 0]).value == 0.5


def test_calibration_compares_the_means_of_bins_of_equal_size():
    random = np.random.default_rng(0)
    chances = random.random(60)
    truth = random.random(60) < chances**2
    weights = random.integers(0, 4, 60).astype(float)
    found = metrics.calibration(chances, truth)
    bins = np.array_split(np.argsort(chances), 15)
    for given in (np.ones(60), weights):
        error = sum(abs(sum(given[i] * (chances[i] - truth[i]) for i in one)) for one in bins) / given.sum()
        assert found.of(given) == pytest.approx(error)
    both = metrics.calibration(np.stack([chances, chances], 1), np.stack([truth, truth], 1))  # each class an event
    assert both.of(weights) == pytest.approx(found.of(weights))
    assert metrics.calibration(chances, truth, bins=1).value == pytest.approx(abs(chances.mean() - truth.mean()))
    chances = random.random(50_000)
    assert metrics.calibration(chances, random.random(50_000) < chances).value < 0.02
    assert np.isnan(found.of(np.zeros(60)))
    with pytest.raises(ValueError, match="expected one shape"):
        metrics.calibration(chances, truth)


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
