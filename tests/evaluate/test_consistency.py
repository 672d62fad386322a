"""How often a model agrees with itself: the rules that make variants, and the rows that are counted."""

from __future__ import annotations

import io

import numpy as np
import pytest
import toys
from PIL import Image

from vtx_keras import evaluate, metrics
from vtx_keras.evaluate import _consistency as consistent
from vtx_keras.inputs import media

CLASSES = ["blue", "no", "red", "teal", "yes"]


@pytest.mark.parametrize(
    ("question", "wanted"),
    [
        ("What colour is the dog?", {"what is the colour of the dog?"}),
        ("what is the color of the dogs in the grass?", {"what color are the dogs in the grass?"}),
        ("what color is the man wearing", {"what colour is the man wearing"}),
        ("is there a dog?", {"is a dog there?", "is a dog present?", "can you see a dog?"}),
        ("is there a dog on the red sofa", {"can you see a dog on the red sofa"}),
        ("is there not a dog?", {None}),
        ("is there an owl in the photo?", {"does the photo contain an owl?", "can you see an owl in the photo?"}),
        ("how many dogs are there?", {"what is the number of dogs?", "how many dogs can you see?"}),
        ("what is the number of dogs in the park?", {"how many dogs are there in the park?"}),
        ("where are the men?", {"in what place are the men?"}),
        ("what is the man in red holding?", {"what is it that the man in red is holding?"}),
        ("does it have colour?", {"does it have color?"}),
        ("why?", {None}),
    ],
)
def test_a_question_is_reworded_by_rules_that_keep_its_sense(question, wanted):
    found = {consistent.reworded(question, np.random.default_rng(seed)) for seed in range(40)}
    assert found == wanted


@pytest.mark.parametrize(
    ("question", "answer", "wanted"),
    [
        (
            "what color are the big balls?",
            "red",
            [("are the big balls red?", "yes"), ("are the big balls blue?", "no")],
        ),
        ("what is the colour of the balls", "red", [("are the balls red", "yes"), ("are the balls blue", "no")]),
        ("what shape is present?", "red", []),  # no answer to the question
        ("what color is it?", "red", []),
        ("what is this?", "dog", [("is it a dog?", "yes")]),
        ("what is this?", "no", []),
    ],
)
def test_an_answer_settles_questions(question, answer, wanted):
    classes = ["yes", "no", "red", "pink", "blue", "dog"]  # pink may be called red
    assert consistent.implied(question, answer, classes, np.random.default_rng(0)) == wanted


def test_a_shape_is_asked_with_its_article():
    classes, random = ["oval", "circle", "star"], np.random.default_rng(1)
    (words, said), (others, contrary) = consistent.implied("what shape is in the image?", "oval", classes, random)
    assert words in ("is there an oval in the image?", "does the image contain an oval?")
    assert (others, said, contrary) == (words.replace("an oval", "a star"), "yes", "no")  # a circle is an oval


def fake(self, images, texts, _batch_size, allow_empty=False):
    """Logits of a model that looks at the left edge for a colour, and does not understand "of"."""
    _, good, errors = self.prepare(images)
    said = []
    for image, words in ((images[n], texts[n]) for n in good):
        colour = "red" if media.read(image)[:, 0].mean() > 127 else "blue"
        binary = "yes" if colour in words else "no"
        said.append(binary if words.startswith("is ") else "teal" if " of " in words else colour)
    return np.eye(len(CLASSES))[[self.class_names.index(one) for one in said]], good, errors, allow_empty


def striped(left: int, right: int) -> np.ndarray:
    picture = np.full((32, 32, 3), left, "uint8")
    picture[:, 16:] = right
    return picture


def asked(*rows):
    return [
        {"image": striped(*sides), "question": question, "answer": answer, "id": str(number)}
        for number, (sides, question, answer) in enumerate(rows)
    ]


def test_rows_agree_if_the_answers_to_their_variants_do(monkeypatch):
    model = toys.toy("gated_vqa", classes=CLASSES)
    monkeypatch.setattr(type(model), "logits", fake)
    rows = asked(
        ((200, 200), "what color is the big ball?", "red"),
        ((200, 0), "what color is the big ball?", "blue"),  # answered "red", and mirrored "blue"
        ((0, 0), "where is the ball?", "blue"),
        ((0, 0), "is it the left ball?", "no"),
        ((0, 0), "what is it?", "on the right"),
    )
    rows.insert(1, {**rows[0], "image": b"?"})  # is no row
    measures = metrics.consistency(model, rows)
    assert list(measures) == ["consistency_mirrored", "consistency_reworded", "consistency_implied"]
    np.testing.assert_array_equal(measures["consistency_mirrored"].rows, [1, 0, 1, np.nan, np.nan])
    np.testing.assert_array_equal(measures["consistency_reworded"].rows, [0, 0, 1, np.nan, 1])
    np.testing.assert_array_equal(measures["consistency_implied"].rows, [1, 1, np.nan, np.nan, np.nan])
    assert measures["consistency_mirrored"].value == 2 / 3
    only = metrics.consistency(model, rows, kinds=["implied"])
    np.testing.assert_array_equal(only["consistency_implied"].rows, measures["consistency_implied"].rows)
    monkeypatch.setattr(consistent, "IMPLIED", ())
    assert np.isnan(metrics.consistency(model, rows, kinds=["implied"])["consistency_implied"].value)


def test_who_says_yes_to_everything_contradicts_itself(monkeypatch):
    model = toys.toy("gated_vqa", classes=CLASSES)

    def yes(*given, **_):
        values, *rest = fake(*given)
        values[[words.startswith("is ") for words in given[2]]] = np.eye(len(CLASSES))[CLASSES.index("yes")]
        return values, *rest

    monkeypatch.setattr(type(model), "logits", yes)
    rows = asked(((200, 200), "what color is the big ball?", "red"))
    assert metrics.consistency(model, rows)["consistency_implied"].value == 0


def test_a_picture_is_mirrored_after_it_was_read():
    random = np.random.default_rng(0)
    file, exif = io.BytesIO(), Image.Exif()
    exif[274] = 6  # a quarter turn
    Image.fromarray(random.integers(0, 255, (8, 12, 3), "uint8")).save(file, "PNG", exif=exif)
    flipped = consistent._mirrored(file.getvalue(), (32, 32, 3))
    assert flipped.shape == (12, 8, 3)
    np.testing.assert_array_equal(flipped[:, ::-1], media.read(file.getvalue()))
    clip = random.integers(0, 255, (8, 4, 6, 3), "uint8")
    frames = consistent._mirrored(clip, (4, 32, 32, 3))
    np.testing.assert_array_equal(np.stack(frames)[:, :, ::-1], clip[1::2])


def test_written_answers_and_matches_are_mirrored():
    model = toys.eager(toys.decisive("cross_attn_captioner"))
    pictures = toys.pictures(model, 4).astype("uint8")
    rows = [{"image": picture, "question": "w1 w2", "answer": "w3"} for picture in pictures]
    measures = metrics.consistency(model, rows)
    forth, back = (model.generate(list(some), "w1 w2") for some in (pictures, pictures[:, :, ::-1]))
    assert measures["consistency_mirrored"].rows.tolist() == [
        one == other for one, other in zip(forth, back, strict=True)
    ]
    assert list(measures) == ["consistency_mirrored", "consistency_reworded"]
    matcher = toys.eager(toys.toy("co_attn_matcher"))
    rows = [{"image": picture, "caption": f"w{n}"} for n, picture in enumerate(pictures)]
    chances = [
        np.array(matcher.match([some[n] for n, _ in pairs], [f"w{m}" for _, m in pairs])) > 0.5
        for pairs in [[(0, 0), (1, 1), (1, 0), (2, 2), (2, 1), (3, 3), (3, 2)]]
        for some in (pictures, pictures[:, :, ::-1])
    ]
    found = metrics.consistency(matcher, rows)
    assert found["consistency_mirrored"].rows.tolist() == (chances[0] == chances[1]).tolist()


def test_consistency_is_in_the_results_with_intervals():
    model = toys.eager(toys.toy("gated_vqa"))
    rows = [
        {"image": picture, "question": "is there a w1?", "answer": ("no", "yes")[n % 2], "image_id": str(n // 2)}
        for n, picture in enumerate(toys.pictures(model, 6).astype("uint8"))
    ]
    results = evaluate.run(model, rows, train=rows, draws=50, consistency=True)
    figure = results.metrics["consistency_mirrored"]
    assert 0 <= figure["low"] <= figure["value"] <= figure["high"] <= 1
    assert results.metrics["consistency_implied"]["value"] != results.metrics["consistency_implied"]["value"]  # no row
    assert "consistency: 6 of 6 rows mirrored, 6 of 6 rows reworded, 0 of 6 rows implied" in results.notes
    assert not any("consistency" in name for found in results.baselines.values() for name in found)
    lines = {line.split("  ")[0]: line for line in results.table().splitlines()}
    assert lines["consistency mirrored"].count("–") == len(results.baselines) == 3
    assert not any("consistency" in name for name in evaluate.run(model, rows, draws=50, baselines=[]).metrics)


def test_a_model_that_answers_nothing_is_told_so():
    captioner, retriever = toys.toy("gated_captioner"), toys.toy("retriever")
    row = {"image": striped(0, 0), "caption": "w1"}
    for model in (captioner, retriever):
        with pytest.raises(ValueError, match="answers nothing"):
            evaluate.run(model, [row], consistency=True)
    with pytest.raises(ValueError, match="leave out beams, scorers, tokenizer and consistency"):
        evaluate.run(toys.toy("cross_attn_generator"), [row], consistency=True)
    model = toys.toy("gated_vqa", classes=["red", "blue"])
    for kind, message in (
        ("upside down", "no kind 'upside down'"),
        ("implied", "cannot be asked 'implied'"),
    ):
        with pytest.raises(ValueError, match=message):
            metrics.consistency(model, [{**row, "answer": "red"}], kinds=[kind])
    with pytest.raises(TypeError, match="not an iterator"):
        metrics.consistency(model, iter([row]))
