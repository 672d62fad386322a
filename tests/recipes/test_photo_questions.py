"""What the releases for photographs learn from: questions, and captions for search."""

from __future__ import annotations

import keras
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
def recipe(monkeypatch, tmp_path):
    """The recipe's module, with six bundled photographs in the place of Flickr8k."""
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.chdir(tmp_path)
    from recipes.families import photo_questions, photos

    folder = data.sample("photos/cat.jpg").parent
    rows = [
        {"image": (folder / name).read_bytes(), "image_id": name.removesuffix(".jpg"), "captions": SAID[name]}
        for name in PHOTOGRAPHS
    ]
    words = tf.TensorSpec((), tf.string)
    form = {"image": words, "image_id": words, "captions": tf.TensorSpec((None,), tf.string)}
    examples = photos.as_examples(lambda: iter(rows), len(rows), form)
    monkeypatch.setattr(photos, "flickr8k", lambda split: examples)
    return photo_questions


def test_questions_of_single_captions_are_asked_of_every_view(recipe, monkeypatch):
    asked = data.Examples(tf.data.Dataset.from_tensor_slices({"image": [b""] * 2, "answer": ["orange", "brown"]}))
    monkeypatch.setattr(recipe, "questions", lambda split: asked)
    monkeypatch.setattr(recipe.rules, "balanced", lambda made, train: made)  # few have several answers
    rows = list(recipe.more_questions().encoded.as_numpy_iterator())
    found = [(row["question"].decode(), row["answer"].decode()) for row in rows]
    assert ("what is the colour of the suit?", "orange") in found
    assert not any("tower" in question for question, _ in found), "hill is no answer of the set"
    assert len(found) == recipe.more_questions().encoded.cardinality() == 3 * len(set(found))
    assert len({row["image"] for row in rows}) == len(found), "every view is another file, with one question each"
    one, other = ("a brown dog runs .", "a black dog runs ."), ("a red ball .", "a dog .")
    assert [pair.answer for pair in recipe._of_one_caption([*one, *other])] == ["red"], "two say another colour"


def test_the_questions_of_the_card_are_about_the_bundled_photographs(recipe):
    rows = list(recipe.questions("sample").encoded.as_numpy_iterator())
    assert len(rows) == sum(map(len, recipe.ASKED.values())) <= 12, "a card shows so many"
    assert rows[0]["image"] == data.sample("photos/cat.jpg").read_bytes()


def test_a_retriever_goes_on_with_captions_that_may_end_with_a_full_stop(recipe, monkeypatch, tmp_path):
    from recipes.families import photos
    from recipes.gpu.loop import keep

    model = zoo.build("retriever", weights="photos")
    before = model.similarity(data.sample("photos/cat.jpg"), ["a brown cat ."])
    monkeypatch.setattr(photos, "LEARNED", tmp_path)
    keep(tmp_path / "retriever.npz", model.behind_encoder(), seconds=1)
    first = next(photos.with_full_stops(photos.plainly(photos.flickr8k("train"))).encoded.as_numpy_iterator())
    said = ["a brown cat looks aside", "a cat on the left"]
    assert [one.decode() for one in first["captions"]] == [text + end for text in said for end in ("", " .")]
    best = photos.train_for_search(model, tmp_path / "run", epochs=2, batch_size=6)
    assert (tmp_path / "run" / "training.json").exists()
    assert zoo.build("retriever", weights=best).similarity(data.sample("photos/cat.jpg"), ["a brown cat ."]) != before


def test_the_card_of_the_retriever_tells_what_the_captioner_adds(recipe):
    from recipes.families import photos

    table = photos.ranked_again(zoo.build("retriever", weights="photos"), ("validation",))
    assert [row[:2] for row in table.rows] == [
        ["validation", "caption for picture"],
        ["validation", "picture for caption"],
    ]
    for row in table.rows:
        alone, again, gain = (float(one.split()[0]) for one in row[2:])
        assert again >= alone > 0.5, "of six photographs most are found"
        assert gain == pytest.approx(again - alone, abs=2e-3)
