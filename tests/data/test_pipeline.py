"""`data.batches`: the same batches as from memory, with every row accounted for."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
import toys
from images import encoded
from PIL import Image

from vtx_keras import data
from vtx_keras.data._load import adapted
from vtx_keras.data._plan import BadData
from vtx_keras.inputs import media, text

TEXTS = ["w1 w2", "w3", "w4 w5 w6", "w7 w8", "w9"]
LABELS = ["no", "yes", "maybe", "yes", "no"]


def source(**columns) -> tf.data.Dataset:
    """Five random images, and the given columns."""
    pictures = np.random.default_rng(0).integers(0, 256, (5, 40, 56, 3), dtype="uint8")
    return tf.data.Dataset.from_tensor_slices({"image": pictures, **columns})


def flat(batch: tuple) -> list[np.ndarray]:
    return [np.asarray(part) for part in keras.tree.flatten(batch)]


CASES = {
    "cross_attn_captioner": {"caption": TEXTS},
    "gated_vqa": {"question": TEXTS, "answer": LABELS},
    "concat_mlp_classifier": {"text": TEXTS, "label": LABELS},
    "co_attn_matcher": {"caption": TEXTS},
    "retriever": {"caption": TEXTS},
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("form", ["pixels", "encoded", "cached"])
def test_batches_are_those_of_arrays(name, form):
    model, columns = toys.toy(name), CASES[name]
    ds = source(**columns)
    pictures = [row["image"] for row in ds.as_numpy_iterator()]
    if form == "encoded":
        ds = tf.data.Dataset.from_tensor_slices(
            {**columns, "image": [encoded(Image.fromarray(picture)) for picture in pictures]}
        )
    found = list(data.batches(ds, model, batch_size=2, cache=form == "cached"))
    texts = columns.get("caption") or columns.get("question") or columns["text"]
    wanted = data.arrays(model, pictures, texts, columns.get("answer") or columns.get("label"), batch_size=2)
    assert len(found) == len(wanted) == 3
    for ours, theirs in zip(found, (wanted[i] for i in range(3)), strict=True):
        keras.tree.assert_same_structure(ours, theirs)
        for one, other in zip(flat(ours), flat(theirs), strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", CASES)
def test_every_task_fits_evaluates_and_predicts(name):
    model = toys.toy(name)
    ds = source(**CASES[name])
    history = toys.fit(model, data.batches(ds, model, batch_size=2, training=True, augment=True), epochs=2)
    assert np.isfinite(history.history["loss"]).all()
    assert np.isfinite(model.evaluate(data.batches(ds, model, batch_size=2), verbose=0)).all()
    assert len(model.predict(data.batches(ds, model, batch_size=2), verbose=0)) >= 5


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="XLA of TensorFlow")
def test_static_batches_train_under_xla_with_one_shape():
    model = toys.toy("gated_captioner")
    model.compile(optimizer=model.optimizer, loss=model.loss, jit_compile=True)
    ds = data.batches(source(caption=TEXTS), model, batch_size=2, training=True, static=True)
    spec = ds.element_spec[0]
    assert spec["image"].shape == (2, 32, 32, 3)
    assert spec["tokens"].shape == (2, 8)
    assert np.isfinite(model.fit(ds, verbose=0).history["loss"]).all()


def test_static_fills_the_last_batch_with_rows_of_no_weight():
    for name in ("gated_captioner", "gated_matcher"):
        model = toys.toy(name)
        whole = list(data.batches(source(caption=TEXTS), model, batch_size=2))
        filled = list(data.batches(source(caption=TEXTS), model, batch_size=2, static=True))
        assert {flat(batch)[0].shape for batch in filled} == {flat(whole[0])[0].shape}
        assert sum(batch[2].numpy().sum() for batch in whole) == sum(batch[2].numpy().sum() for batch in filled)
        losses = [
            model.test_on_batch(*keras.tree.map_structure(np.asarray, batch), return_dict=True)["loss"]
            for batch in (whole[-1], filled[-1])
        ]
        assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.parametrize("kind", ["int64", "bool"])
def test_several_labels_may_be_columns(kind):
    model, columns = toys.toy("gated_classifier", multi_label=True), np.eye(3)[[2, 0, 1, 1, 0]]
    ds = source(text=TEXTS, label=columns.astype(kind))
    np.testing.assert_array_equal(next(iter(data.batches(ds, model, batch_size=5)))[1], columns)
    with pytest.raises(BadData, match="none of the model's 3 classes"):
        data.batches(source(text=TEXTS, label=2 * columns), model, batch_size=3)


def test_a_users_function_may_contain_an_if():
    """The package's functions are traced as they are, those of users are rewritten by AutoGraph."""

    def short(example):
        caption = example["caption"]
        if tf.strings.length(caption) > 5:
            caption = tf.strings.substr(caption, 0, 5)
        return {**example, "caption": caption}

    found = [row["caption"] for row in adapted(source(caption=TEXTS), short).as_numpy_iterator()]
    assert found == [one.encode()[:5] for one in TEXTS]
    assert max(map(len, TEXTS)) > 5


def test_static_batches_of_a_contrastive_loss_are_never_padded():
    model = toys.toy("gated_captioner", contrastive=1.0)
    assert len(list(data.batches(source(caption=TEXTS), model, batch_size=2, static=True))) == 2


def test_a_static_retriever_drops_the_last_batch():
    model = toys.toy("retriever")
    assert len(list(data.batches(source(caption=TEXTS), model, batch_size=2, static=True))) == 2


def test_buckets_share_a_length_and_lose_nothing():
    model = toys.toy("gated_captioner", max_length=12)
    many = [" ".join(["w1"] * n) for n in (1, 9, 2, 8, 3)]
    found = list(data.batches(source(caption=many), model, batch_size=2, buckets=(5,)))
    lengths = sorted(tuple(inputs["tokens"].shape) for inputs, _, _ in found)
    assert lengths == [(1, 12), (2, 5), (2, 12)]
    said = sorted(words for inputs, _, _ in found for words in text.decode(inputs["tokens"].numpy(), model.vocabulary))
    assert said == sorted(many)
    with pytest.raises(ValueError, match="expected lengths from 3 to 12"):
        data.batches(source(caption=many), model, buckets=(40,))


def test_training_shuffles_each_epoch_differently_and_repeatably():
    model = toys.toy("retriever")

    def orders(seed: int) -> list[list[str]]:
        ds = data.batches(source(caption=TEXTS), model, batch_size=5, training=True, seed=seed)
        return [text.decode(next(iter(ds))[0]["tokens"].numpy(), model.vocabulary) for _ in range(4)]

    first = orders(1)
    assert first == orders(1)
    assert len({tuple(order) for order in first}) > 1
    assert all(sorted(order) == sorted(TEXTS) for order in first)


def test_one_of_several_captions_is_drawn_each_time():
    model = toys.toy("gated_captioner")
    captions = tf.ragged.constant([["w1", "", "w2", "w3"]] * 5)
    ds = data.batches(source(captions=captions), model, batch_size=5, training=True)
    said = {words for _ in range(8) for inputs, _, _ in ds for words in text.decode(inputs["tokens"], model.vocabulary)}
    assert said == {"w1", "w2", "w3"}


def test_a_prompt_is_input_and_no_label():
    model = toys.toy("gated_captioner")
    inputs, labels, weight = next(iter(data.batches(source(caption=["w3 w4"] * 5, prompt=["w1 w2"] * 5), model)))
    three, four = (model.vocabulary.index(word) for word in ("w3", "w4"))
    assert text.decode(inputs["tokens"][:1].numpy(), model.vocabulary) == ["w1 w2 w3 w4"]
    learned = labels.numpy()[0][weight.numpy()[0] > 0]
    assert learned.tolist() == [three, four, text.END]


def test_a_captioner_reads_questions_and_writes_answers():
    model = toys.toy("gated_captioner")
    inputs, labels, weight = next(iter(data.batches(source(question=["w1 w2"] * 5, answer=["w3"] * 5), model)))
    assert text.decode(inputs["tokens"][:1].numpy(), model.vocabulary) == ["w1 w2 w3"]
    assert labels.numpy()[0][weight.numpy()[0] > 0].tolist() == [model.vocabulary.index("w3"), text.END]


def test_words_hidden_by_augmentation_stay_in_the_labels():
    model = toys.toy("gated_captioner")
    inputs, labels, weight = next(
        iter(data.batches(source(caption=["w1 w2 w3 w4"] * 5), model, augment={"words": 0.5}))
    )
    hidden = inputs["tokens"].numpy() == text.MASK
    assert 0 < hidden.sum() < 20
    assert (labels.numpy() != text.MASK).all()
    assert (weight.numpy().sum(axis=1) == 5).all()


def test_synonyms_come_from_the_keywords_but_not_for_a_captioner():
    columns = {"caption": ["w1"] * 5, "keywords": tf.ragged.constant([["w2", "w3"]] * 5)}
    for name, wanted in (("retriever", {"w2", "w3"}), ("gated_captioner", {"w1"})):
        model = toys.toy(name)
        ds = data.batches(source(**columns), model, augment={"synonyms": 1.0})
        said = {words for _ in range(4) for x, _, _ in ds for words in text.decode(x["tokens"], model.vocabulary)}
        assert said == wanted


def test_masked_words_are_learned_where_the_model_has_that_head():
    model = toys.toy("gated_matcher", mlm=True)
    ds = data.batches(source(caption=["w1 w2 w3 w4 w5"] * 5), model, training=True)
    inputs, labels, weight = next(iter(ds))
    hidden = inputs["tokens"].numpy() == text.MASK
    assert hidden.any()
    assert (labels["words"].numpy()[hidden] > text.MASK).all()
    np.testing.assert_array_equal(weight["words"].numpy() > 0, hidden)
    assert np.isfinite(toys.fit(model, ds).history["loss"]).all()


def test_several_labels_per_row():
    model = toys.toy("gated_classifier", multi_label=True)
    labels = tf.ragged.constant([["no"], ["yes", "no"], [], ["maybe"], ["yes"]], dtype=tf.string)
    _, hot, _ = next(iter(data.batches(source(text=TEXTS, label=labels), model)))
    assert hot.numpy().tolist() == [[1, 0, 0], [1, 1, 0], [0, 0, 0], [0, 0, 1], [0, 1, 0]]


def test_a_matcher_takes_labels_of_its_own():
    model = toys.toy("gated_matcher")
    _, labels, _ = next(iter(data.batches(source(caption=TEXTS, label=[1, 0, 1, 0, 0]), model)))
    assert labels.numpy().ravel().tolist() == [1, 0, 1, 0, 0]


@pytest.mark.parametrize("name", ["cross_attn_video_captioner", "gated_video_vqa"])
def test_a_clip_is_called_image(name):
    model = toys.toy(name)
    clips = np.random.default_rng(0).integers(0, 256, (4, 6, 40, 40, 3), dtype="uint8")
    columns = {"caption": TEXTS[:4]} if "captioner" in name else {"question": TEXTS[:4], "answer": LABELS[:4]}
    ds = tf.data.Dataset.from_tensor_slices({"image": clips, **columns})
    inputs, _, _ = next(iter(data.batches(ds, model)))
    np.testing.assert_array_equal(inputs["image"], media.batch(list(clips), model.image_shape)[0])
    changed, _, _ = next(iter(data.batches(ds, model, augment=True)))
    assert changed["image"].shape == inputs["image"].shape
    assert (changed["image"].numpy() != inputs["image"].numpy()).any()
    still = tf.data.Dataset.from_tensor_slices({"image": np.repeat(clips[:, :1], 6, axis=1), **columns})
    changed, _, _ = next(iter(data.batches(still, model, augment=True)))
    np.testing.assert_array_equal(changed["image"][:, 0], changed["image"][:, -1])  # frames change alike


def test_rows_left_out_cut_and_repaired_are_counted_in_one_warning():
    model = toys.toy("gated_captioner")
    texts = [b"w1", b"  \xe2\x80\xa8 ", b"w2 " * 30, b"w3 \xff", b"\xe2\x80\x8b"]
    with pytest.warns(
        UserWarning, match=r"2 of 5 rows are left out \(2 texts without words.*1 texts are cut to 7.*1 text"
    ):
        found = data.batches(source(caption=texts), model)
    assert sum(len(labels) for _, labels, _ in found) == 3 == int(found.cardinality()) * 3


def test_no_example_left_is_an_error_with_counts():
    model = toys.toy("gated_captioner")
    with pytest.raises(BadData, match=r"no example is left of 5: 5 texts without words"):
        data.batches(source(caption=[""] * 5), model)
    with pytest.raises(BadData, match="no example is left of 0"):
        data.batches(source(caption=TEXTS).take(0), model)


def test_labels_out_of_range_are_found_before_the_first_step():
    model = toys.toy("gated_vqa")
    odd = ["yes", "no", "yess", "yess", "red"]
    with pytest.raises(
        BadData, match=r"3 labels of 5 rows are none of the model's 3 classes: 'yess' \(2 x\).*did you mean"
    ):
        data.batches(source(question=TEXTS, answer=odd), model)
    with pytest.raises(BadData, match=r"1 labels of 5 rows.*'3'"):
        data.batches(source(question=TEXTS, answer=[0, 1, 2, 3, 0]), model)
    numbered = toys.toy("gated_vqa", classes=["5", "7"])
    with pytest.raises(BadData, match=r"1 labels of 5 rows.*'5'"):  # a number is a place, not a name
        data.batches(source(question=TEXTS, answer=[0, 1, 5, 1, 0]), numbered)
    with pytest.warns(UserWarning, match="3 of 5 rows are left out"):
        found = data.batches(source(question=TEXTS, answer=odd), model, unknown="drop")
    assert sum(len(labels) for _, labels, _ in found) == 2


@pytest.mark.parametrize(
    ("name", "columns", "told"),
    [
        ("gated_captioner", {"title": TEXTS}, "examples have no text: expected one of captions, caption"),
        ("gated_vqa", {"question": TEXTS}, 'learns "answer" or "label"'),
        ("gated_vqa", {"question": TEXTS, "answer": [["no"]] * 5}, "multi_label=True"),
    ],
)
def test_a_missing_column_is_named(name, columns, told):
    with pytest.raises(BadData, match=told):
        data.batches(source(**columns), toys.toy(name))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"augment": {"colur": 1}}, "did you mean colour"),
        ({"batch_size": 0}, "at least 1"),
        ({"unknown": "skip"}, 'expected "error" or "drop"'),
        ({"augment": {"background": 1}}, "alpha"),
    ],
)
def test_wrong_options_are_errors(options, told):
    with pytest.raises(ValueError, match=told):
        data.batches(source(caption=TEXTS), toys.toy("gated_captioner"), **options)


def test_a_dataset_without_images_is_an_error():
    with pytest.raises(BadData, match='expected a dict with "image"'):
        data.batches(tf.data.Dataset.from_tensor_slices({"caption": TEXTS}), toys.toy("gated_captioner"))


def test_preview_draws_examples_and_batches(tmp_path):
    model = toys.toy("gated_vqa")
    ds = source(question=TEXTS, answer=LABELS)
    sheets = [data.preview(ds, tmp_path / "a.png"), data.preview(data.batches(ds, model), tmp_path / "b.png", model)]
    for sheet in sheets:
        assert Image.open(sheet).size == (5 * 152 + 8, 192 + 16)
    with pytest.raises(ValueError, match="nothing to draw"):
        data.preview(ds.take(0), tmp_path / "c.png")
