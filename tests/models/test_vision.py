"""How features become tokens: what time needs is built for clips alone, and dropout is for training alone."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from toys import toy

from vtx_keras.models.fusion import Vision


@pytest.mark.parametrize(("name", "recurrent"), [("gated_vqa", False), ("gated_video_vqa", True)])
def test_a_gru_over_frames_is_built_only_where_there_are_frames(name, recurrent):
    vision = toy(name, temporal="gru").get_layer("vision")
    assert any("memory" in weight.path for weight in vision.weights) is recurrent


def test_dropout_hides_tokens_in_training_alone():
    features = np.random.default_rng(0).random((2, 3, 3, 8), "float32")
    plain, dropped = Vision(4), Vision(4, dropout=0.5)
    for layer in (plain, dropped):
        layer.build(features.shape)
    for mine, other in zip(dropped.trainable_weights, plain.trainable_weights, strict=True):
        mine.assign(other)
    places = keras.ops.convert_to_numpy(plain.space.table())
    tokens = keras.ops.convert_to_numpy(dropped(features, training=True)) - places
    assert 0.25 < (tokens == 0).mean() < 0.75
    np.testing.assert_array_equal(dropped(features, training=False), plain(features, training=True))


def test_models_with_concepts_have_dropout_of_the_image_and_others_as_before_none():
    assert "dropout" not in Vision(4).get_config()
    assert Vision.from_config(Vision(4, dropout=0.2).get_config()).rate == 0.2
    assert toy("gated_captioner", dropout=0.2).get_layer("vision").rate == 0
    model = toy("gated_captioner", dropout=0.2, concepts=2, image_encoder="mobilenet_v2", image_shape=(64, 64, 3))
    assert model.get_layer("vision").rate == 0.2
