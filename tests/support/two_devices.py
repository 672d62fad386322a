"""The same run on one host device and on two: `python two_devices.py FOLDER`; JAX makes them by XLA_FLAGS."""

import json
import sys

import keras
import numpy as np

if keras.backend.backend() == "tensorflow":
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    devices = [f"CPU:{number}" for number in range(2)]
else:
    devices = keras.distribution.list_devices()

from toys import WORDS, toy

from vtx_keras import data, train
from vtx_keras.train import parallel

# Texts of one length and no clipping: see `over` about what MirroredStrategy does on each device alone.
TEXTS = [" ".join(np.random.default_rng(row).choice(WORDS, 3)) for row in range(16)]
ON_TENSORFLOW = keras.backend.backend() == "tensorflow"
losses, used = {}, {}
for kind, count in [("data", 1), ("data", 2), *([] if ON_TENSORFLOW else [("model", 2)])]:
    keras.utils.set_random_seed(1)
    with parallel.over(kind, devices[:count]):
        model = toy("gated_captioner")
        if ON_TENSORFLOW:
            used[kind, count] = tf.distribute.get_strategy().num_replicas_in_sync
        else:
            used[kind, count] = keras.distribution.distribution().device_mesh.devices.size
        pictures = np.random.default_rng(0).uniform(0, 255, (16, *model.image_shape)).astype("float32")
        pairs = data.arrays(model, pictures, TEXTS, batch_size=4, shuffle=True)
        history = train.run(
            model, pairs, f"{sys.argv[1]}-{kind}-{count}", epochs=2, learning_rate=1e-2, samples=0, ema=0.5, clip=0.0
        )
        losses[kind, count] = history.history["loss"]
for which, loss in losses.items():
    assert used[which] == which[1], used
    np.testing.assert_allclose(loss, losses["data", 1], rtol=1e-3, err_msg=str(which))
print(json.dumps({"runs": len(losses)}))
