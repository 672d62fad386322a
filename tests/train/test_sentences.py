"""Sentences without pictures: read, drawn with the concepts that they mention, and learned alone or beside pictures."""

import gzip

import keras
import numpy as np
import pytest
import tensorflow as tf
from toys import LARGER, SHAPE, toy

from vtx_keras import data, train
from vtx_keras.inputs import text
from vtx_keras.models import concepts

WORDS = ["a", "dog", "cat", "on", "the", "mat", "bus", "street", "is", "red", "runs", "big"]
TEXTS = ["a dog on the mat", "the cat runs", "a big red bus is on the street", "a dog", "the dog is big"]


def photographs(captions, shape=LARGER):
    images = np.random.default_rng(0).integers(0, 255, (len(captions), *shape)).astype("uint8")
    return data.Examples(tf.data.Dataset.from_tensor_slices({"image": images, "caption": captions}))


@pytest.fixture(scope="module")
def model():
    made = toy("cross_attn_captioner", vocabulary=WORDS, image_encoder="mobilenet_v2", image_shape=LARGER, concepts=3)
    made.freeze("image")
    return made


def drawn(model, **how):
    from vtx_keras.data._behind import prepared, sentence_epochs

    epochs = sentence_epochs(prepared(data.sentences(TEXTS * 8), model), model.behind_encoder(told=True), **how)
    return epochs, lambda number, done: (epochs.begin(number, done), list(epochs.batches))[1]


def test_a_file_is_a_sentence_a_line(tmp_path):
    (tmp_path / "one.txt").write_text("a dog\n\n the cat runs \n", encoding="utf-8")
    (tmp_path / "two.txt.gz").write_bytes(gzip.compress(b"a dog\nthe cat runs"))
    for name in ("one.txt", "two.txt.gz"):
        rows = [row["caption"].decode() for row in data.sentences(tmp_path / name).encoded.as_numpy_iterator()]
        assert rows == ["a dog", "the cat runs"]
    with pytest.raises(FileNotFoundError, match="no file of sentences"):
        data.sentences(tmp_path / "three.txt")
    with pytest.raises(ValueError, match="at least one line with words"):
        data.sentences(["", " "])


def test_batches_hold_sentences_of_one_length_with_their_concepts(model):
    epochs, batches = drawn(model, batch_size=4)
    assert epochs.steps == 8  # one sentence is too long
    names, told_right = concepts.names(), 0
    for inputs, labels, weight in batches(0, 0):
        assert not inputs["image"].numpy().any()
        assert (inputs["seen"].numpy()[:, 0] == 0).all()  # no picture
        np.testing.assert_array_equal(inputs["tokens"].numpy()[:, 1:], labels.numpy()[:, :-1])
        np.testing.assert_array_equal(weight.numpy(), labels.numpy() != 0)
        for said, seen in zip(text.decode(labels.numpy(), model.vocabulary), inputs["seen"].numpy(), strict=True):
            assert said in TEXTS
            told_right += any(chance > 0 and names[int(number)] in said for number, chance in seen[1:])
    assert told_right > 16


def test_an_epoch_goes_on_where_it_stopped(model):
    _, batches = drawn(model, batch_size=4, seed=3)
    whole, rest = batches(2, 0), batches(2, 5)
    assert len(rest) == 3
    for one, other in zip(keras.tree.flatten(whole[5:]), keras.tree.flatten(rest), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_run_learns_from_sentences_alone_and_beside_pictures(model, tmp_path):
    keras.utils.set_random_seed(0)
    sentences = data.sentences(TEXTS * 20)
    history = train.run(
        model, sentences, tmp_path / "alone", epochs=4, batch_size=10, learning_rate=1e-2, samples=0, verbose=False
    )
    assert history.history["loss"][-1] < 0.7 * history.history["loss"][0]
    pictures = photographs(["a dog on the mat", "the cat runs"] * 3)
    how = {"text": sentences, "texts": 1.0, "epochs": 2, "batch_size": 4, "buckets": (6,), "scores": 4, "samples": 0}
    history = train.run(model, pictures, tmp_path / "both", validation=pictures, verbose=False, **how)
    assert {"val_cider", "val_loss"} <= set(history.history)
    assert all(np.isfinite(values).all() for values in history.history.values())


def test_sentences_need_concepts_behind_a_frozen_encoder(tmp_path):
    with pytest.raises(ValueError, match=r"concepts=5 and call model\.freeze"):
        train.run(toy("gated_captioner"), data.sentences(TEXTS), tmp_path / "run")


def test_words_that_cannot_be_written_do_not_count():
    model = toy("gated_captioner")
    rows = data.batches(photographs(["w1 giraffe w2"] * 2, SHAPE), model, batch_size=2)
    _, labels, weight = next(iter(rows))
    np.testing.assert_array_equal(weight.numpy()[0][:5], [1, 0, 1, 1, 0])
    assert labels.numpy()[0, 1] == text.UNK


def test_a_bucketed_epoch_goes_on_where_it_stopped():
    from vtx_keras.data._pipeline import epochs

    model = toy("gated_captioner")
    captions = [" ".join(["w1"] * (1 + n % 5)) for n in range(70)]
    made = epochs(photographs(captions, SHAPE), model, batch_size=2, training=True, buckets=(4, 6))
    assert made.steps == 35
    made.begin(1, 0)
    whole = list(made.batches)
    made.begin(1, 19)
    rest = list(made.batches)
    assert (len(whole), len(rest)) == (35, 16)
    for one, other in zip(keras.tree.flatten(whole[19:]), keras.tree.flatten(rest), strict=True):
        np.testing.assert_array_equal(one, other)
