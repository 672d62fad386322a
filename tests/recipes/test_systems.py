"""Recipes of systems: models behind two frozen encoders, figures of several seeds, words that tell an attribute."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
import toys
from paths import ROOT

from vtx_keras import data, media, metrics

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="the recipes read tf.data")


@pytest.fixture(autouse=True)
def in_the_checkout(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.chdir(tmp_path)


def classifier(**options):
    """A classifier between an image encoder and a text encoder of width 16."""
    tokens = keras.Input((None,), dtype="int32")
    reader = keras.Model(tokens, keras.layers.Embedding(64, 16)(tokens))
    model = toys.toy("cross_attn_classifier", text_encoder=reader, allow_empty=True, **options)
    model.freeze("image", "text")
    return model


def posts(count: int = 40) -> data.Examples:
    """Red pictures that are positive and blue ones that are negative; the words say nothing."""
    pixels = np.zeros((count, 32, 32, 3), "uint8")
    pixels[::2, ..., 0], pixels[1::2, ..., 2] = 255, 255
    rows = {
        "image": pixels,
        "image_id": [str(i) for i in range(count)],
        "text": [f"w{i % 5}" if i % 4 else "" for i in range(count)],
        "label": ["no", "yes"] * (count // 2),
    }
    return data.Examples(tf.data.Dataset.from_tensor_slices(rows))


def test_what_stands_behind_both_encoders_gives_the_model_s_logits():
    from recipes.systems import arrays

    model, examples = classifier(), posts(4)
    kept = arrays.kept(model, examples)
    pictures = np.stack([media.resize(row["image"], (32, 32)) for row in examples.encoded.as_numpy_iterator()])
    whole = model.predict_on_batch({"image": pictures.astype("float32"), "tokens": kept.inputs["tokens"]})
    np.testing.assert_allclose(arrays.behind(model).predict(kept.inputs, verbose=0), whole, atol=2e-2)  # float16
    assert kept.classes.tolist() == [0, 1, 0, 1]
    assert not any(layer.name.endswith("encoder") for layer in arrays.behind(model).layers)


def test_it_learns_and_keeps_the_best_epoch_and_an_empty_text_is_judged():
    from recipes.systems import arrays

    model, examples = classifier(), posts()
    kept = arrays.kept(model, examples)
    arrays.fitted(model, kept, kept, {"epochs": 15, "batch_size": 8, "learning_rate": 5e-3})
    outcome = arrays.outcome(model, kept)
    assert metrics.measures_of(outcome)["accuracy"].value == 1.0
    assert outcome.rows[0].read == ""
    assert model.answer(np.full((32, 32, 3), (255, 0, 0), "uint8"), "") == ["no"]
    white = np.full((32, 32, 3), 255, "uint8")
    assert model.answer([None, white], ["w1", "w1"])[0] == model.answer([white], ["w1"])[0]
    with pytest.raises(media.BadItems):
        toys.toy("cross_attn_vqa").answer([None], ["w1"])


def test_several_labels_become_rows_of_ones_and_others_are_left_out():
    from recipes.systems import arrays

    rows = {"image": np.zeros((2, 32, 32, 3), "uint8"), "image_id": ["a", "b"], "text": ["w1", ""],
            "label": [["yes", "other"], ["maybe", "no"]]}  # fmt: skip
    kept = arrays.kept(classifier(multi_label=True), data.Examples(tf.data.Dataset.from_tensor_slices(rows)))
    assert kept.classes.tolist() == [[0, 1, 0], [1, 0, 1]]


def test_parts_joined_and_every_third_row():
    from recipes.systems import arrays

    kept = arrays.kept(classifier(), posts(6))
    both = arrays.join(kept, arrays.every(kept, 3, 1))
    assert [row.place for row in both.rows] == [0, 1, 2, 3, 4, 5, 1, 4]
    assert {len(one) for one in both.inputs.values()} == {8}


def test_figures_of_seeds_and_their_difference():
    from recipes.systems import trials

    one = [{"accuracy": metrics.mean([1.0, 1.0, 1.0, 0.0] * 20)}, {"accuracy": metrics.mean([1.0] * 80)}]
    other = [{"accuracy": metrics.mean([0.0, 1.0, 1.0, 0.0] * 20)}]
    found = trials.compared({"one": one, "other": other}, ["accuracy"], [str(i) for i in range(80)], [("one", "other")])
    assert found["figures"]["one"]["accuracy"]["seeds"] == [0.75, 1.0]
    figure = found["differences"]["one minus other"]["accuracy"]
    assert figure["value"] == 0.375
    assert figure["low"] > 0.25


def test_linear_baselines_tell_words_apart():
    from recipes.systems import trials

    texts, labels = ["a good day", "a bad day"] * 20, np.array([0, 1] * 20)
    train, test = trials.bag_of_words(texts, ["good", "bad", "unheard"])
    logits = trials.linear((train, labels), (train, labels), test, decays=(1e-3,))
    assert logits[:2].argmax(axis=1).tolist() == [0, 1]


def test_examples_that_may_not_be_handed_on_are_not_stored(monkeypatch, tmp_path):
    from recipes.systems import trials

    monkeypatch.setattr(trials, "RESULTS", tmp_path / "results")
    path = trials.store("posts", rows=3, examples=[{"text": "private"}])
    assert "private" not in path.read_text()
    assert "private" in (trials.RUNS / "posts-examples.json").read_text()


def test_the_words_of_a_title_that_tell_an_attribute_are_hidden(monkeypatch):
    from recipes.systems import products

    values = {"gender": ["Men", "Women"], "type": ["Casual Shoes", "Tshirts"], "colour": ["Navy Blue", "Red"]}
    products.telling.cache_clear()
    monkeypatch.setattr(products, "attributes", lambda: values)
    hidden = tf.strings.regex_replace("puma men navy t-shirt casual shoe zoe reds tshirt", products.telling(), " ")
    products.telling.cache_clear()
    assert hidden.numpy().decode().split() == ["puma", "zoe"]


def test_each_case_is_tested_once_by_a_model_that_saw_no_case_of_the_patient():
    from recipes.systems import diagnosis

    patients = np.array([str(case // 3) for case in range(90)])
    tested_in = np.zeros(len(patients), int)
    for learned, tested in diagnosis.folds(patients):
        assert not set(patients[learned]) & set(patients[tested])
        assert (learned | tested).all()
        tested_in += tested
    assert (tested_in == 1).all()
    parts = [diagnosis.part_of(str(patient)) for patient in range(300)]
    assert all(30 < parts.count(part) < 90 for part in range(diagnosis.PARTS))
    assert diagnosis.part_of("7") == diagnosis.part_of("7")


def test_captions_take_turns_to_be_written_and_the_central_one_is_found():
    from recipes.systems import summaries

    assert [summaries.rotated(["a", "b", "c"], turn)[-1] for turn in range(3)] == ["c", "b", "a"]
    assert summaries.centroid(["two cats", "a brown dog runs", "a dog runs fast"]) != "two cats"
