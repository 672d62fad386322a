"""What a finished run says of itself when it went wrong."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from toys import WORDS, pictures, toy

from vtx_keras import data, train
from vtx_keras.cli._train import _warn_of_unseen
from vtx_keras.train._report import worries

MANY = [f"w{number} w{number + 1}" for number in range(20)]


@pytest.mark.parametrize(
    ("rows", "said", "told"),
    [
        ([{"accuracy": 0.31}, {"accuracy": 0.33}, {"accuracy": 0.22}], MANY, "accuracy fell from 0.310 to 0.220"),
        ([{"accuracy": 0.31}, {"accuracy": 0.33}], ["w1 w2"] * 20, "of 20 held-out examples it says only 'w1 w2':"),
        ([], ["w1", "w2"] * 10, "it says only 'w1' and 'w2'"),
        ([], [""] * 20, "it says only ''"),
        ([], [f"otot{number}ot w1" for number in range(20)], "20 of 20 held-out examples get words that do not exist"),
        ([{"loss": 1.0}, {"loss": 2.0}], MANY, None),
        ([{"accuracy": 0.2}], MANY, None),
        ([], ["w1"] * 7, None),  # too few to tell
        ([], MANY[:12] + ["ototot"] * 8, None),
    ],
)
def test_a_run_tells_what_is_wrong(rows, said, told):
    found = worries(rows, said, MANY[: len(said)], set(WORDS))
    assert bool(found) == (told is not None), found
    assert told is None or told in found[0]


def test_two_answers_are_no_collapse_where_two_are_expected():
    assert worries([], ["yes", "no"] * 10, ["no", "yes"] * 10, set()) == []
    assert worries([], ["yes"] * 20, ["no", "yes"] * 10, set()) == []
    assert worries([], ["yes"] * 20, ["a", "b", "c", "d"] * 5, set())


def test_unseen_words_of_validation_are_told_before_training(capsys):
    _warn_of_unseen(["a red boat"], ["a red boat", "two red boats"])
    assert capsys.readouterr().err == ""
    _warn_of_unseen(["a red boat"], ["A Zebra sleeps under trees"])
    assert "4 of 5 words of the validation texts are in no training text (zebra, …)" in capsys.readouterr().err


def test_a_run_of_a_model_that_says_one_thing_is_recorded(tmp_path):
    model = toy("cross_attn_captioner")
    words = model.get_layer("words")
    words.embeddings.assign(np.zeros(words.embeddings.shape))  # every word is as likely, whatever the picture
    words.trainable = False
    model.compile_again()
    images = pictures(model, 12).astype("uint8")
    texts = [f"{WORDS[number]} {WORDS[number + 9]} {WORDS[number + 20]}" for number in range(12)]
    for number, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{number}.png")
    lines = ["image,caption", *(f"{number}.png,{text}" for number, text in enumerate(texts))]
    (tmp_path / "own.csv").write_text("\n".join(lines))
    examples = data.from_csv(tmp_path / "own.csv")
    folder = train.run(model, examples, tmp_path / "run", validation=examples, epochs=1).folder
    (found,) = json.loads((folder / "run.json").read_text())["worries"]
    assert "held-out examples it says only" in found
