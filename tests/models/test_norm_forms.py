"""The norm of the zoo in every form that Keras' own takes."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from vtx_keras.models.layers import RowNorm


@pytest.mark.parametrize(
    "form", [{}, {"scale": False}, {"center": False}, {"scale": False, "center": False}, {"axis": 1}, {"axis": [1, 2]}],
    ids=str,
)  # fmt: skip
def test_every_form_of_the_norm_gives_the_numbers_of_keras(form):
    x = np.random.default_rng(0).normal(size=(2, 3, 5)).astype("float32")
    ours, keras_own = RowNorm(**form), keras.layers.LayerNormalization(**form)
    np.testing.assert_allclose(np.array(ours(x)), np.array(keras_own(x)), atol=1e-5)
