"""Frozen encoders, low-rank additions, and rates by layer."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from toys import batches, decisive, fit, inputs, outputs, pictures, pretrained, texts, toy

from vtx_keras import _compat, zoo
from vtx_keras.models import objectives as tuning
from vtx_keras.models._base import leaves

CAPTIONERS = zoo.list_models("*_captioner")


def test_freezing_an_encoder_keeps_its_weights_and_trains_the_rest():
    model = toy("cross_attn_vqa")
    model.freeze("image")
    before = [np.array(weight) for weight in model.get_layer("image_encoder").weights]
    head = np.array(model.get_layer("head").kernel)
    fit(model, batches(model), epochs=2)
    for one, other in zip(before, model.get_layer("image_encoder").weights, strict=True):
        np.testing.assert_array_equal(one, np.array(other))
    assert np.abs(head - np.array(model.get_layer("head").kernel)).max() > 0
    model.freeze("image", frozen=False)
    assert model.get_layer("image_encoder").trainable


def test_a_frozen_encoder_stays_frozen_in_files_and_copies(tmp_path):
    model = toy("gated_vqa", vision_depth=2)
    for but_last in (0, 1):  # a block
        model.freeze("image", but_last=but_last)
        learned = [variable.path for variable in model.trainable_variables]
        assert len(model.get_layer("image_encoder").trainable_variables) == (0, 14)[but_last]
        file = zoo.load(zoo.save(model, tmp_path / "frozen.keras"))
        for again in (file, keras.models.clone_model(model), model.merged()):
            assert [variable.path for variable in again.trainable_variables] == learned


def test_unfreezing_keeps_the_matrices_under_low_rank_additions_frozen():
    model = toy("cross_attn_vqa")
    model.enable_lora(2)
    before = len(model.trainable_variables)
    model.freeze("text")
    model.freeze("text", frozen=False)
    assert len(model.trainable_variables) == before


def test_freezing_all_but_the_last_layers():
    model = pretrained()
    model.freeze("image", but_last=4)
    inner = [layer for layer in leaves(model.get_layer("image_encoder")) if layer.weights]
    assert (inner[0].name, inner[-1].name) == ("stem", "top_bn")
    assert [layer.trainable for layer in inner] == [False] * (len(inner) - 4) + [True] * 4
    before = [np.array(value) for value in model.get_layer("image_encoder").weights]
    fit(model, batches(model))
    moved = [(np.array(a) != b).any() for a, b in zip(model.get_layer("image_encoder").weights, before, strict=True)]
    assert any(moved[-6:])
    assert not any(moved[:-10])
    model.freeze("image", frozen=False)
    assert all(layer.trainable for layer in inner)


@pytest.mark.parametrize(
    "name",
    [
        "cross_attn_captioner",
        pytest.param("merged_attn_matcher", marks=pytest.mark.slow),
        pytest.param("retriever", marks=pytest.mark.slow),
    ],
)
def test_lora_trains_beside_the_matrices_and_merges(name, tmp_path):
    model = toy(name)
    x = inputs(model)
    before = outputs(model, x)
    model.enable_lora(2)
    np.testing.assert_allclose(outputs(model, x), before, atol=1e-5)
    dense = [layer for layer in leaves(model) if getattr(layer, "lora_enabled", False)]
    kernels = [np.array(_compat.own_kernel(layer)) for layer in dense]
    fit(model, batches(model), epochs=3)
    assert all(
        (np.array(_compat.own_kernel(layer)) == kernel).all() for layer, kernel in zip(dense, kernels, strict=True)
    )
    after = outputs(model, x)
    assert np.abs(after - before).max() > 1e-4
    merged = model.merged()
    assert not any(getattr(layer, "lora_enabled", False) for layer in leaves(merged))
    np.testing.assert_allclose(outputs(merged, x), after, atol=1e-4)
    assert merged.count_params() == toy(name).count_params()
    zoo.save(model, tmp_path / "mine")
    np.testing.assert_allclose(outputs(zoo.load(tmp_path / "mine"), x), after, atol=1e-4)
    assert np.isfinite(fit(merged, batches(merged)).history["loss"]).all()


def test_a_paced_encoder_learns_at_its_share_of_the_rate():
    model = toy("gated_vqa", vision_depth=2)
    encoder = model.get_layer("image_encoder")
    tuning.pace(model, "image", rate=0.1, decay=0.5)
    model.compile(tuning.PacedAdamW(1e-2, weight_decay=0.0), loss=model.loss)
    learned = [layer for layer in leaves(encoder) if layer.trainable_variables]
    chosen = [learned[-1].trainable_variables[0], learned[-2].trainable_variables[0], model.get_layer("head").kernel]
    before = [np.array(variable) for variable in chosen]
    model.train_on_batch(*batches(model)[0])
    # Adam's first step is the rate itself, whatever the gradient.
    steps = [float(np.abs(np.array(v) - b).max()) for v, b in zip(chosen, before, strict=True)]
    np.testing.assert_allclose(steps, [1e-3, 5e-4, 1e-2], rtol=0.05)
    with pytest.raises(ValueError, match="a number of at least 0, and a share"):
        tuning.pace(model, rate=-1)


@pytest.mark.parametrize("name", ["cross_attn_captioner", "retriever"])
def test_low_rank_additions_change_results_at_once(name):
    model = decisive(name) if name in CAPTIONERS else toy(name)

    def said(model):
        x = pictures(model)
        return model.generate(x) if name in CAPTIONERS else model.similarity(x, texts(4)).round(3).tolist()

    before = said(model)
    model.enable_lora(4)
    draws = np.random.default_rng(0)
    for variable in model.trainable_variables:
        if "lora" in variable.path:
            variable.assign(draws.normal(size=variable.shape))
    assert said(model) != before
    assert said(model) == said(model.merged())
