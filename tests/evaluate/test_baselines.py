"""Baselines of captions that are computed on request: the consensus of similar images, and a person."""

from __future__ import annotations

import numpy as np
import pytest
import toys

from vtx_keras import evaluate, metrics
from vtx_keras.evaluate import _baselines as baselines
from vtx_keras.evaluate._outcomes import Outcome, Row

TEXTS = ["a lion sleeps", "a dog runs on grass", "the dog runs on grass", "a dog runs on sand", "a red bus"]
NEAR = np.array([[0.9, 0.8, 0.7, 0.6, 0.1], [0.1, 0.1, 0.1, 0.1, 0.9]])  # similarities to two images
OUTCOME = Outcome("captions", tuple(Row(n, str(n), str(n), "", ("a cat",)) for n in range(2)), {})


def rows_of(texts):
    return baselines.TrainingTexts(("",) * len(texts), tuple(texts))


def test_the_consensus_is_what_similar_images_agree_on():
    train = rows_of([(text,) for text in TEXTS])
    said = [row.said for row in baselines.consensus(OUTCOME, train, (np.eye(5), NEAR), neighbours=4, share=0.5).rows]
    assert said[0] == "a dog runs on grass"  # not of the nearest image; the two other dogs are closest to it
    alone = baselines.consensus(OUTCOME, train, (np.eye(5), NEAR), neighbours=1)
    assert [row.said for row in alone.rows] == ["a lion sleeps", "a red bus"]
    several = rows_of([tuple(TEXTS[:4]), (TEXTS[4],)])  # the same captions of one image
    found = baselines.consensus(OUTCOME, several, (np.eye(2), NEAR[:, [0, 4]]), neighbours=1, share=0.5)
    assert [row.said for row in found.rows] == [said[0], "a red bus"]


def test_copies_of_an_image_and_unreadable_images_have_no_say():
    copies = rows_of([(TEXTS[0],)] * 9 + [(text,) for text in TEXTS[1:]] + [(TEXTS[4],)] * 9)
    points = np.concatenate([np.eye(5)[[0] * 9], np.eye(5)[1:], np.zeros((9, 5))])
    assert baselines.consensus(OUTCOME, copies, (points, NEAR), share=0.4).rows[0].said == "a dog runs on grass"
    nothing = baselines.consensus(OUTCOME, copies, (np.zeros((22, 5)), NEAR))
    assert [row.said for row in nothing.rows] == ["", ""]


def test_similarity_is_cider_without_its_penalties():
    references = [("a dog runs home",), ("a dog sits here",), ("so",)]
    [(grams, values)], [(others, weights)], _ = baselines._cider_vectors(references)
    dense = np.zeros((2, 1 + max(*grams, *others)))
    dense[0, grams], dense[1, others] = values, weights
    score = metrics.caption_scores(["a dog sits here", "-", "-"], references, scorers=["cider"])["cider"].rows[0]
    assert 0 < score < 10
    assert 10 * dense[0] @ dense[1] == pytest.approx(score, rel=1e-5)  # lengths are equal and no word is repeated


def test_they_stand_beside_a_captioner_where_they_can():
    model = toys.eager(toys.decisive("cross_attn_captioner"))
    pictures = [image.astype("uint8") for image in toys.pictures(model, 4)]
    train = [{"image": image, "captions": [f"w{n} w5", f"w{n} w6"]} for n, image in enumerate(pictures)]
    test = [{"image": image, "captions": [f"w{n} w5 w7", f"w{n} w7"]} for n, image in enumerate(pictures)]
    asked = ["human", "consensus"]
    results = evaluate.run(model, test, train=train, baselines=asked, scorers=["bleu"], draws=20)
    assert list(results.baselines) == asked
    assert results.baselines["human"]["word_f1"]["value"] == pytest.approx(0.8)  # two words of three and two
    for name in asked:
        difference = results.metrics["bleu_1"]["value"] - results.baselines[name]["bleu_1"]["value"]
        assert results.differences[name]["bleu_1"]["value"] == pytest.approx(difference)
        assert np.isfinite(results.differences[name]["bleu_1"]["low"])
    assert results.notes[0].endswith("the model is scored against all, which are one more")
    assert results.notes[1].startswith("consensus: by the features of ")
    single = [{**row, "captions": row["captions"][: 1 + (n > 0)]} for n, row in enumerate(test)]
    results = evaluate.run(model, single, baselines=asked, scorers=[], draws=20)
    assert not results.baselines
    assert results.notes == [
        "there is no human: 1 of 4 rows have a single reference",
        "without a training split there is no consensus",
    ]
    reader = toys.eager(toys.toy("gated_vqa"))
    rows = [{"image": image, "question": "w1", "answer": "no"} for image in pictures]
    results = evaluate.run(reader, rows, baselines=asked, draws=20)
    assert results.notes == ["there is no human, no consensus of answers or labels, but of captions"]
    with pytest.raises(ValueError, match=r"chance, without_history, consensus, human$"):
        evaluate.run(model, test, baselines=["humane"])
