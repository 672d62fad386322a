"""A run over host devices: `python two_devices.py FOLDER COUNT`; JAX takes their number from XLA_FLAGS."""

import json
import sys

import keras
import numpy as np

count = int(sys.argv[2])
if keras.backend.backend() == "tensorflow":
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * count)
    devices = [f"CPU:{number}" for number in range(count)]
else:
    devices = keras.distribution.list_devices()

from toys import WORDS, toy  # noqa: E402 (devices come first)

from vtx_keras import data, train  # noqa: E402
from vtx_keras.train import parallel  # noqa: E402

# Texts of one length and no clipping: see `over` about what MirroredStrategy does on each device alone.
TEXTS = [" ".join(np.random.default_rng(row).choice(WORDS, 3)) for row in range(16)]
losses, used = {}, 0
for kind in ["data"] if keras.backend.backend() == "tensorflow" else ["data", "model"]:
    keras.utils.set_random_seed(1)
    with parallel.over(kind, devices):
        model = toy("gated_captioner")
        if keras.backend.backend() == "tensorflow":
            used = tf.distribute.get_strategy().num_replicas_in_sync
        else:
            used = keras.distribution.distribution().device_mesh.devices.size
        pictures = np.random.default_rng(0).uniform(0, 255, (16, *model.image_shape)).astype("float32")
        pairs = data.arrays(model, pictures, TEXTS, batch_size=4, shuffle=True)
        history = train.run(
            model, pairs, f"{sys.argv[1]}-{kind}", epochs=2, learning_rate=1e-2, samples=0, ema=0.5, clip=0.0
        )
        losses[kind] = history.history["loss"]
for kind, loss in losses.items():
    np.testing.assert_allclose(loss, losses["data"], rtol=1e-3, err_msg=kind)
print(json.dumps({"devices": int(used), "loss": losses["data"]}))
