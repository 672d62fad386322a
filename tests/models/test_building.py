"""Models by name: options, and encoders of users and of other packages."""

from __future__ import annotations

import shutil

import keras
import numpy as np
import pytest
from toys import SHAPE, inputs, outputs, pictures, toy

from vtx_keras import zoo


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: zoo.build("cross_atn_captioner"), "did you mean cross_attn_captioner"),
        (lambda: zoo.build("co_attn_captioner"), "its own future"),
        (lambda: zoo.build("co_attn_classifier"), "weights=None"),
        (lambda: zoo.build("gated_vqa", weights="nowhere"), "neither a folder here nor a released tag"),
        (lambda: zoo.build("gated_vqa", weights="encoders"), "no published weights"),
        (lambda: toy("gated_vqa", dept=2), "did you mean depth"),
        (lambda: toy("gated_vqa", temporal="lstm"), "positions or gru"),
        (lambda: toy("gated_vqa", resize="stretched"), "did you mean stretch"),
        (lambda: toy("gated_vqa", dim=0), "whole number"),
        (lambda: toy("gated_vqa", dim=True), "whole number"),
        (lambda: toy("gated_vqa", dim=30, heads=4), "does not divide"),
        (lambda: toy("gated_vqa", image_shape=(30, 30, 3)), "multiples of 16"),
        (lambda: toy("gated_vqa", image_shape=(32, 32)), r"\(h, w, 3\)"),
        (lambda: toy("gated_video_vqa", image_shape=SHAPE), "frames"),
        (lambda: toy("gated_vqa", classes=["a", "a"]), "distinct"),
        (lambda: toy("gated_vqa", classes=1), "at least 2"),
        (lambda: toy("gated_captioner", classes=3), "belongs to vqa, classifier"),
        (lambda: toy("gated_vqa", dropout=1.0), "from 0"),
        (lambda: toy("gated_vqa", dtype="float17"), "dtype policy"),
        (lambda: toy("gated_vqa", image_encoder="resnet51"), "keras-hub could not open"),
        (lambda: toy("gated_vqa", vocabulary=[]), "empty"),
        (lambda: zoo.load("missing.keras"), "does not exist"),
    ],
)
def test_a_wrong_build_says_what_to_do(call, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        call()


def test_describe_and_list_agree_with_build():
    about = zoo.describe("gated_vqa")
    assert (about["task"], about["fusion"], about["video"]) == ("vqa", "gated", False)
    assert set(about["options"]) == set(zoo.build("gated_vqa", weights=None, dim=32, depth=1).options)
    assert zoo.list_models("cross_attn_*") == [name for name in zoo.MODELS if name.startswith("cross_attn_")]
    assert set(zoo.list_models(released=True)) | set(zoo.list_models(released=False)) == set(zoo.MODELS)
    assert "cross_attn_captioner" in zoo.list_models(released=True)


def test_a_backbone_of_keras_applications_is_an_encoder_with_its_own_scaling():
    model = toy("gated_vqa", image_encoder="MobileNetV2")
    x = pictures(model, 2)
    network = model.get_layer("image_encoder").get_layer("MobileNetV2").layers[-1]
    expected = network(keras.applications.mobilenet_v2.preprocess_input(x.copy()))
    np.testing.assert_allclose(np.array(model.get_layer("image_encoder")(x)), np.array(expected), atol=1e-5)
    assert np.isfinite(outputs(model, inputs(model))).all()


def test_keras_hub_backbones_are_encoders(tmp_path):
    import keras_hub

    words = keras_hub.models.BertBackbone(
        vocabulary_size=64, num_layers=1, num_heads=2, hidden_dim=24, intermediate_dim=32, max_sequence_length=16
    )
    model = toy("cross_attn_vqa", text_encoder=words)
    x = inputs(model)
    longer = {**x, "tokens": np.pad(x["tokens"], ((0, 0), (0, 4)))}
    np.testing.assert_allclose(outputs(model, longer), outputs(model, x), atol=1e-5)
    again = zoo.load(zoo.save(model, tmp_path / "hub.keras"))
    np.testing.assert_array_equal(outputs(again, x), outputs(model, x))

    vit = keras_hub.models.ViTBackbone(
        image_shape=SHAPE, patch_size=16, num_layers=1, num_heads=2, hidden_dim=24, mlp_dim=32
    )
    vit.save_to_preset(str(tmp_path / "vit"))
    keras_hub.layers.ViTImageConverter(image_size=(32, 32), scale=1 / 255).save_to_preset(str(tmp_path / "vit"))
    model = toy("gated_captioner", image_encoder=str(tmp_path / "vit"), weights="encoders")
    assert model.get_layer("vision").input.shape == (None, 5, 24)
    x = pictures(model, 2)
    np.testing.assert_allclose(
        np.array(model.get_layer("image_encoder")(x)), np.array(vit(x / 255)), atol=1e-5, err_msg="scaling or weights"
    )
    zoo.save(model, tmp_path / "whole")
    shutil.rmtree(tmp_path / "vit")
    x = inputs(model)
    np.testing.assert_array_equal(outputs(zoo.load(tmp_path / "whole"), x), outputs(model, x))
    with pytest.raises(ValueError, match="vocabulary_size of 64"):
        toy("gated_vqa", text_encoder=words, vocabulary=[f"w{i}" for i in range(90)])


@pytest.mark.parametrize("name", zoo.list_models())
def test_tiny_fits_a_phone(name):
    assert zoo.build(name, weights=None, size="tiny").count_params() <= 10_000_000


def test_size_base_has_the_shape_of_the_benchmarks():
    base = zoo.build("cross_attn_captioner", weights=None, size="base")
    assert base.get_layer("vision").output.shape == (None, 196, 384)
    assert len(base.vocabulary) > 7000


def test_texts_become_the_vocabulary_of_a_model():
    model = toy("cross_attn_captioner", vocabulary=["A red cat.", "Two red dogs."])
    assert "red" in model.vocabulary
    assert len(model.generate(pictures(model, 1))) == 1
