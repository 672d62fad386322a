"""Maps drawn over the original image."""

from __future__ import annotations

import math

import keras
import numpy as np
import pytest
from PIL import Image
from toys import toy

from vtx_keras import explain
from vtx_keras.explain._pictures import spread
from vtx_keras.inputs import media


@pytest.fixture(autouse=True)
def same_weights():
    """A fixed seed: with some untrained weights a comparison falls within rounding errors."""
    keras.utils.set_random_seed(0)


@pytest.mark.parametrize("fit", ["pad", "crop", "stretch"])
@pytest.mark.parametrize("size", [(40, 40), (20, 97), (111, 30)])
def test_heat_is_mapped_back_through_the_fit(fit, size):
    """A bright spot, fitted by `media` and spread back as heat, is hottest at the spot."""
    for y, x in ((0.5, 0.5), (0.45, 0.3), (0.6, 0.62)):
        at = int(y * size[0]), int(x * size[1])
        picture = np.zeros((*size, 3), "uint8")
        picture[max(at[0] - 2, 0) : at[0] + 3, max(at[1] - 2, 0) : at[1] + 3] = 255
        fitted = media.prepare(picture, (32, 32, 3), fit)[..., 0]
        inside = media.prepare(np.zeros((*size, 3), "uint8"), (32, 32, 3), fit)[..., 0]
        light = fitted * (inside == 0)
        if not light.any():  # cut off
            assert fit == "crop"
            continue
        heat = spread(light, (32, 32), size, fit)
        weight = heat / heat.sum()
        middle = (weight.sum(axis=1) @ np.arange(size[0]), weight.sum(axis=0) @ np.arange(size[1]))
        assert math.dist(middle, at) < max(size) / 32 + 1  # a pixel of the model's input, and one of the picture's


def test_a_cropped_part_has_no_heat():
    heat = spread(np.ones((4, 4)), (64, 64), (50, 100), "crop")
    assert heat.shape == (50, 100)
    assert not heat[:, :25].any()
    assert (heat[:, 26:74] > 0.99).all()
    assert not heat[:, 75:].any()


def test_a_sheet_has_a_panel_for_each_word(tmp_path):
    model = toy("cross_attn_captioner")
    seen = explain.attention(model, np.zeros((30, 60, 3), "uint8"), "w1 w2 w3")
    assert seen.heat("w2").shape == (30, 60)
    assert seen.heat("w2", seen=True).shape == (32, 32)
    assert seen.heat(0, size=(5, 7)).shape == (5, 7)
    np.testing.assert_allclose(seen.heat(), np.mean([seen.heat(n) for n in range(3)], axis=0), atol=1e-6)
    whole = Image.open(seen.save(tmp_path / "new" / "maps.png"))
    fewer = Image.open(seen.save(tmp_path / "one.png", ["w2"]))
    assert whole.width > 1.5 * fewer.width
    assert whole.height == fewer.height
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["maps.png"]
    clip = explain.attention(toy("cross_attn_video_captioner"), np.zeros((3, 30, 60, 3), "uint8"), "w1 w2")
    assert [heat.shape for heat in clip.heat("w1")] == [(30, 60)] * 2
    assert Image.open(clip.save(tmp_path / "clip.png")).height > 3 * 50


def test_an_overlay_is_brightest_where_it_is_hot():
    white = np.full((8, 8, 3), 255, "uint8")
    heat = np.zeros((8, 8))
    heat[2, 3] = 0.5
    drawn = explain.overlay(white, heat)
    assert drawn.dtype == np.uint8
    assert np.unravel_index(drawn.sum(axis=2).argmax(), (8, 8)) == (2, 3)
    assert drawn.sum() > explain.overlay(white, heat, top=1.0).sum(), "a shared top makes panels comparable"
    assert explain.overlay(white, np.ones((2, 2))).shape == (8, 8, 3)
    assert len(np.unique(explain.overlay(white, np.zeros((2, 2))).reshape(-1, 3), axis=0)) == 1
    with pytest.raises(ValueError, match=r"expected .h, w, 3. and .h, w."):
        explain.overlay(np.zeros((2, 8, 8, 3)), heat)
