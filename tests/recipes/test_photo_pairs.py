"""The data of the models of a photograph and a text: questions, and pairs that the retriever takes for right."""

from __future__ import annotations

import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from paths import ROOT

from vtx_keras import data, zoo

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="the recipes read tf.data")
PHOTOGRAPHS = ("cat.jpg", "coffee.jpg", "astronaut.jpg", "pagoda.jpg", "dogs.jpg", "brushes.jpg")
SAID = {
    "cat.jpg": ("A brown cat looks aside .", "a cat on the left"),
    "coffee.jpg": ("A cup on a red plate .", "a white cup of coffee"),
    "astronaut.jpg": ("A woman in an orange suit .", "a woman in an orange suit smiles"),
    "pagoda.jpg": ("A tower on a hill .", "a tower among trees"),
    "dogs.jpg": ("Two brown dogs look out of a house .", "two brown dogs in a house"),
    "brushes.jpg": ("Many brushes .", "colourful brushes"),
}


@pytest.fixture
def pairs(monkeypatch, tmp_path):
    """The recipe's module, with six bundled photographs in the place of Flickr8k."""
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.chdir(tmp_path)
    from recipes.families import photo_pairs, photos

    folder = data.sample("photos/cat.jpg").parent
    rows = {"id": [], "image": [], "image_id": [], "captions": []}
    for name in PHOTOGRAPHS:
        rows["image"].append((folder / name).read_bytes())
        rows["captions"].append(SAID[name])
        for key in ("id", "image_id"):
            rows[key].append(name)
    examples = data.Examples(tf.data.Dataset.from_tensor_slices(rows))
    monkeypatch.setattr(photos, "flickr8k", lambda split: examples)
    monkeypatch.setattr(photo_pairs, "NEAR", 3)
    yield photo_pairs
    for name in [name for name in sys.modules if name.partition(".")[0] == "recipes"]:
        del sys.modules[name]


def test_wrong_pairs_are_those_that_the_retriever_finds_near(pairs):
    from recipes.families import photos

    hard = pairs.hard_pairs(photos.flickr8k("train"))
    assert hard.captions[0] == "a brown cat looks aside", "plain"
    assert all(place not in hard.of[texts] for place, texts in enumerate(hard.texts))
    assert all(hard.of[text] not in others for text, others in enumerate(hard.others))
    pixels = [data.sample(f"photos/{name}") for name in PHOTOGRAPHS]
    seen = zoo.build("retriever", weights="photos").similarity(pixels, hard.captions)
    np.testing.assert_allclose(hard.similarity, seen, atol=2e-2)
    assert np.mean(hard.of[hard.similarity.argmax(axis=1)] == np.arange(6)) >= 0.5

    rows = list(pairs.taught_pairs("train").encoded.as_numpy_iterator())
    assert len(rows) == pairs.taught_pairs("train").encoded.cardinality()
    assert [row["label"] for row in rows] == [1, 0, 0] * (len(rows) // 3)
    own = {row["image"]: row["caption"] for row in rows[:18] if row["label"]}
    for right, text, picture in zip(rows[::3], rows[1::3], rows[2::3], strict=True):
        assert text["image"] == right["image"] != picture["image"]
        assert text["caption"] != right["caption"] == picture["caption"]
    assert len(own) == 6
    again = pairs.taught_pairs("train").encoded.as_numpy_iterator()
    assert [row["caption"] for row in rows] == [row["caption"] for row in again], "a run that resumes reads the same"


def test_questions_of_single_captions_are_asked_of_every_view(pairs, monkeypatch):
    asked = data.Examples(tf.data.Dataset.from_tensor_slices({"image": [b""] * 3, "answer": ["orange", "brown", "hill"]}))
    monkeypatch.setattr(pairs, "questions", lambda split: asked)
    monkeypatch.setattr(pairs.rules, "balanced", lambda made, train: made)  # few have several answers
    rows = list(pairs.more_questions().encoded.as_numpy_iterator())
    found = {(row["question"].decode(), row["answer"].decode()) for row in rows}
    assert ("what is the colour of the suit?", "orange") in found and ("where is the tower?", "hill") not in found
    assert len(rows) == pairs.more_questions().encoded.cardinality() == 3 * len(rows) // 3
    assert len({row["image"] for row in rows}) >= 3, "every view is another file"


def test_the_questions_of_the_card_are_about_the_bundled_photographs(pairs):
    rows = list(pairs.questions("sample").encoded.as_numpy_iterator())
    assert len(rows) == sum(map(len, pairs.ASKED.values()))
    assert rows[0]["image"] == data.sample("photos/cat.jpg").read_bytes()
