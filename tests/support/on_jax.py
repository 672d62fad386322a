"""The JAX half of a test: `python on_jax.py FOLDER NAMES`, with KERAS_BACKEND=jax."""

import json
import sys
from pathlib import Path

import jax
import keras
import numpy as np
from toys import batches, fit, outputs

from vtx_keras import zoo

assert keras.backend.backend() == "jax"
folder, names = Path(sys.argv[1]), json.loads(sys.argv[2])
for name in names:
    stored = np.load(folder / f"{name}.npz")
    x = {"image": stored["x_image"], "tokens": stored["x_tokens"]}
    for model in (zoo.build(name, weights=folder / name), zoo.load(folder / f"{name}.keras")):
        np.testing.assert_allclose(outputs(model, x), stored["outputs"], atol=1e-4, err_msg=name)
    for beams in (1, 3):
        if f"ids_{beams}" in stored:
            compiled = jax.jit(lambda image, beams=beams, model=model: model.generate_ids(image, beams=beams))
            np.testing.assert_array_equal(np.array(compiled(x["image"])[0]), stored[f"ids_{beams}"], err_msg=name)
    assert model.jit_compile, "the file that TensorFlow wrote on a CPU would train uncompiled here"
    if hasattr(model, "generate"):
        assert len(model.generate(x["image"], sampler="top_p", seed=1)) == len(x["image"])
    model.optimizer.learning_rate = 3e-3
    losses = fit(model, batches(model), epochs=5).history["loss"]
    assert losses[-1] < losses[0], (name, losses)
    zoo.save(model, folder / f"{name}-from-jax")
    np.savez(folder / f"{name}-from-jax.npz", outputs=outputs(model, x), **x)
