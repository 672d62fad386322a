"""Files written before the modules of the package were moved: they load, predict the same, and the run continues."""

from __future__ import annotations

import shutil

import keras
import numpy as np
import pytest
from make_flat_layout import PIXELS, inputs, train_run
from paths import FLAT_LAYOUT

from vtx_keras import zoo


@pytest.fixture(scope="module")
def stored():
    with np.load(FLAT_LAYOUT / "outputs.npz") as outputs:
        assert (outputs["pixels"] == PIXELS).all()
        return dict(outputs)


@pytest.mark.parametrize("file", ["cross_attn_captioner.keras", "gated_vqa", "retriever"])
def test_models_load_and_predict_the_same(file, stored):
    model = zoo.load(FLAT_LAYOUT / file)
    outputs = model.predict(inputs(model), verbose=0)
    outputs = outputs["logits"] if isinstance(outputs, dict) else outputs
    np.testing.assert_allclose(outputs, stored[file.removesuffix(".keras")], atol=1e-5)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="the run was trained on TensorFlow")
def test_a_stopped_run_continues_to_the_same_losses_and_weights(tmp_path, stored):
    shutil.copytree(FLAT_LAYOUT / "run", tmp_path / "run")
    model, history = train_run(tmp_path / "run", keras.callbacks.LambdaCallback())
    np.testing.assert_allclose(history.history["loss"], stored["run"], atol=1e-5)
    last = zoo.load(tmp_path / "run" / "last")
    np.testing.assert_allclose(last.predict(inputs(model), verbose=0), stored["run_weights"], atol=1e-5)
