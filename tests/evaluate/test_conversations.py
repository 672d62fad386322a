"""Conversations and questions of a language model: asked by its template, with what was said before and without."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest

from vtx_keras import evaluate, metrics, zoo

FIXTURE = Path(__file__).parents[1] / "fixtures" / "language" / "llama3"
LIGHT = {"draws": 50, "scorers": []}


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(1)
    pixels = keras.Input((32, 32, 3))
    encoder = keras.Model(pixels, keras.layers.Conv2D(8, 16, 16)(pixels))
    how = {"image_shape": (32, 32, 3), "vision_depth": 1, "patch": 16, "max_length": 64}
    return zoo.build(
        "cross_attn_captioner", weights="encoders", text_decoder=str(FIXTURE), image_encoder=encoder, **how
    )


def pictures(count: int) -> list[np.ndarray]:
    return list(np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), dtype="uint8"))


def test_a_question_is_asked_as_model_answer_asks_it(model):
    asked = ["what is it?", "where?", "who is it?"]
    said = model.answer(pictures(3), asked)
    people = [[said[0].strip()] * 3, ["no"] * 3, [said[2].strip(), "no", "no"]]
    rows = [
        {"image": image, "question": question, "answers": answers, "image_id": str(number // 2)}
        for number, (image, question, answers) in enumerate(zip(pictures(3), asked, people, strict=True))
    ]
    found = evaluate.run(model, rows, **LIGHT)
    assert (found.kind, found.rows, found.groups) == ("answers", 3, 2)
    assert found.metrics["exact_match"]["value"] == pytest.approx(2 / 3)
    by_hand = [metrics.vqa_accuracy(one.strip(), several) for one, several in zip(said, people, strict=True)]
    assert found.metrics["vqa_accuracy"]["value"] == pytest.approx(np.mean(by_hand))
    with pytest.raises(TypeError, match="beams=2"):
        evaluate.run(model, rows, beams=2, **LIGHT)


def test_turns_are_asked_after_the_true_ones_and_alone(model, tmp_path):
    talks = [["what is it?", "where?", "and now?"], ["who?", "where?"], ["what?"]]
    truth = [["a dog", "x", "y"], ["a man", "z"], ["a cat"]]
    rows = [
        {"image": image, "id": str(number), "image_id": str(number), "questions": questions, "answers": answers}
        for number, (image, questions, answers) in enumerate(zip(pictures(3), talks, truth, strict=True))
    ]
    chat = model.chat(rows[0]["image"])
    chat.history = [{"role": "user", "content": "what is it?"}, {"role": "assistant", "content": "a dog"}]
    told = chat.ask("where?", max_length=32).strip()
    (alone,) = model.answer([rows[1]["image"]], ["where?"])
    rows[0]["answers"][1], rows[1]["answers"][1] = told, alone.strip()
    rows.append({**rows[2], "image": b"?"})
    found = evaluate.run(model, rows, train=rows[:2], folder=tmp_path, **LIGHT)
    assert (found.rows, found.groups, list(found.left_out)) == (6, 3, ["6"])
    assert {"most_frequent", "question_alone", "without_history", "nearest_neighbour"} == set(found.baselines)
    assert found.baselines["nearest_neighbour"]["exact_match"]["value"] == pytest.approx(5 / 6)
    for figures, right in ((found.metrics, told), (found.baselines["without_history"], alone)):
        assert figures["exact_match_of_later_turns"]["value"] >= 1 / 3, right
    difference = found.differences["without_history"]["exact_match_of_later_turns"]["value"]
    one, other = found.metrics, found.baselines["without_history"]
    assert difference == pytest.approx(
        one["exact_match_of_later_turns"]["value"] - other["exact_match_of_later_turns"]["value"]
    )
    assert "without history" in (tmp_path / "results.html").read_text()


def test_a_limit_is_of_conversations_and_baselines_may_be_left_out(model):
    rows = [{"image": image, "questions": ["a?", "b?"], "answers": ["c", "d"]} for image in pictures(4)]
    found = evaluate.run(model, rows, limit=2, baselines=[], **LIGHT)
    assert (found.rows, found.groups, found.baselines) == (4, 2, {})
