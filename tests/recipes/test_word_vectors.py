"""Word vectors from a large text encoder, reduced and assigned to a model."""

from __future__ import annotations

import numpy as np
import pytest
from checkpoints import ARCHIVES
from toys import batches, fit, toy

from recipes import word_vectors
from vtx_keras import zoo
from vtx_keras.checkpoints.published import _encoders as published
from vtx_keras.models._base import leaves


def table(model):
    return next(layer for layer in leaves(model) if layer.name == "words")


def near(vectors):
    """Cosines between all vectors, without their mean."""
    centred = vectors - vectors.mean(axis=0)
    return centred @ centred.T / np.outer(*[np.linalg.norm(centred, axis=1)] * 2)


@pytest.mark.parametrize("name", ["retriever", "gated_vqa", "cross_attn_captioner"])
def test_words_keep_their_distances_and_training_leaves_them(name, tmp_path):
    model = toy(name)
    before, pieces = np.array(table(model).embeddings), len(model.vocabulary)
    random = np.random.default_rng(0)
    given = random.normal(size=(pieces, 20)) @ random.normal(size=(20, 48)) + 3  # of 20 directions, about some middle
    word_vectors.assign(model, given)
    after = np.array(table(model).embeddings)
    np.testing.assert_allclose(near(after[5:]), near(given[5:]), atol=1e-4)
    np.testing.assert_array_equal(after[:5], before[:5])
    assert after.std() == pytest.approx(before.std(), rel=0.1)
    fit(model, batches(model), epochs=2)
    np.testing.assert_array_equal(np.array(table(model).embeddings), after)
    loaded = zoo.load(zoo.save(model, tmp_path / "mine.keras"))
    np.testing.assert_array_equal(np.array(table(loaded).embeddings), after)


def test_fewer_pieces_than_directions_are_enough():
    model = toy("retriever", vocabulary=["a", "cat", "dog"])
    given = np.random.default_rng(0).normal(size=(8, 48))
    word_vectors.assign(model, given)
    np.testing.assert_allclose(near(np.array(table(model).embeddings)[5:]), near(given[5:]), atol=1e-4)


def test_vectors_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="expected 64 of at least 32"):
        word_vectors.assign(toy("retriever"), np.zeros((64, 8)))
    with pytest.raises(ValueError, match="expected 64 of at least 32"):
        word_vectors.assign(toy("retriever"), np.zeros((9, 48)))


@pytest.mark.network
def test_a_published_text_encoder_places_like_words_together(tmp_path):
    home = published.convert("minilm_l6", tmp_path / "minilm_l6", ARCHIVES)
    violin, cello, car = word_vectors.of(["a violin", "a cello", "a car"], folder=home)
    assert violin @ cello > 0.6 > 0.4 > violin @ car
