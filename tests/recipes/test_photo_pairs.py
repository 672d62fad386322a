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
    rows = [
        {"image": (folder / name).read_bytes(), "image_id": name.removesuffix(".jpg"), "captions": SAID[name]}
        for name in PHOTOGRAPHS
    ]
    words = tf.TensorSpec((), tf.string)
    form = {"image": words, "image_id": words, "captions": tf.TensorSpec((None,), tf.string)}
    examples = photos.as_examples(lambda: iter(rows), len(rows), form)
    monkeypatch.setattr(photos, "flickr8k", lambda split: examples)
    monkeypatch.setattr(photo_pairs, "NEAR", 3)
    yield photo_pairs
    for name in [name for name in sys.modules if name.partition(".")[0] == "recipes"]:
        del sys.modules[name]


def test_wrong_pairs_are_those_that_the_retriever_finds_near(pairs):
    from recipes.families import photos

    found = pairs.searched(photos.flickr8k("train"))
    pixels = [data.sample(f"photos/{name}") for name in PHOTOGRAPHS]
    seen = zoo.build("retriever", weights="photos").similarity(pixels, found.captions)
    np.testing.assert_allclose(found.similarity, seen, atol=2e-2)
    assert np.mean(found.of[found.similarity.argmax(axis=1)] == np.arange(6)) >= 0.5
    twice = found._replace(captions=["A cup ." if place in (2, 9) else c for place, c in enumerate(found.captions)])
    texts, others = pairs.mistaken(twice)
    assert all(place not in found.of[near] for place, near in enumerate(texts))
    assert all(found.of[place] not in near for place, near in enumerate(others))
    assert 9 not in texts[1] and 4 not in others[2], "a text that two pictures have is wrong for neither"  # noqa: PT018

    rows = list(pairs.taught_pairs("train").encoded.as_numpy_iterator())
    assert len(rows) == pairs.taught_pairs("train").encoded.cardinality()
    assert [row["label"] for row in rows] == [1, 0, 0] * (len(rows) // 3)
    for right, text, picture in zip(rows[::3], rows[1::3], rows[2::3], strict=True):
        assert text["image"] == right["image"] != picture["image"]
        assert text["caption"] != right["caption"] == picture["caption"]
    assert len({row["image"] for row in rows}) == 6 * 3, "every view is another file"
    assert {row["caption"].endswith(b" .") for row in rows} == {True, False}
    again = pairs.taught_pairs("train").encoded.as_numpy_iterator()
    assert [row["caption"] for row in rows] == [row["caption"] for row in again], "a run that resumes reads the same"


def test_the_table_of_reranking_counts_what_the_matcher_changes(pairs, monkeypatch):
    captions = [caption for name in PHOTOGRAPHS for caption in SAID[name]]
    of = np.repeat(np.arange(6), 2)
    similarity = np.eye(6)[:, of] * np.array([1, 1, 1, 0, 0, 0])[:, None]  # the retriever finds half of the captions
    similarity[3:, 0] = 0.5  # of two captions of the last, none is among the ten nearest
    found = pairs.Searched([name.encode() for name in PHOTOGRAPHS], captions, of, similarity)
    features = tf.data.Dataset.from_tensor_slices(
        {"image_id": list(PHOTOGRAPHS), "image": np.arange(6, dtype="float32")[:, None]}
    )

    class Knows:  # which caption is whose
        def match(self, features, texts, batch_size):
            return [float(text in SAID[PHOTOGRAPHS[int(one[0])]]) for one, text in zip(features, texts, strict=True)]

    monkeypatch.setattr(pairs, "searched", lambda photographs: found)
    monkeypatch.setattr(pairs, "features_of", lambda photographs, model: features)
    monkeypatch.setattr(pairs, "behind_encoder", lambda model: Knows())
    rows = pairs.reranked(None).rows
    assert [row[2].split()[0] for row in rows] == ["0.500", "0.833", "0.333", "0.500", "1.000", "0.500"]


def test_questions_of_single_captions_are_asked_of_every_view(pairs, monkeypatch):
    asked = data.Examples(tf.data.Dataset.from_tensor_slices({"image": [b""] * 2, "answer": ["orange", "brown"]}))
    monkeypatch.setattr(pairs, "questions", lambda split: asked)
    monkeypatch.setattr(pairs.rules, "balanced", lambda made, train: made)  # few have several answers
    rows = list(pairs.more_questions().encoded.as_numpy_iterator())
    found = [(row["question"].decode(), row["answer"].decode()) for row in rows]
    assert ("what is the colour of the suit?", "orange") in found
    assert not any("tower" in question for question, _ in found), "hill is no answer of the set"
    assert len(found) == pairs.more_questions().encoded.cardinality() == 3 * len(set(found))
    assert len({row["image"] for row in rows}) == len(found), "every view is another file, with one question each"
    one, other = ("a brown dog runs .", "a black dog runs ."), ("a red ball .", "a dog .")
    assert [pair.answer for pair in pairs._of_one_caption([*one, *other])] == ["red"], "two say another colour"


def test_the_questions_of_the_card_are_about_the_bundled_photographs(pairs):
    rows = list(pairs.questions("sample").encoded.as_numpy_iterator())
    assert len(rows) == sum(map(len, pairs.ASKED.values())) <= 12, "a card shows so many"
    assert rows[0]["image"] == data.sample("photos/cat.jpg").read_bytes()
