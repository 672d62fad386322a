"""A run that is killed: `python killed_run.py FOLDER STEP HOW SOURCE` (STEP 0: it is not)."""

import hashlib
import json
import os
import resource
import signal
import sys
from pathlib import Path

import keras
import numpy as np

keras.utils.set_random_seed(1)

from toys import WORDS, texts, toy  # noqa: E402 (the seed comes first)

from vtx_keras import data, train  # noqa: E402
from vtx_keras.checkpoints._restore import digest  # noqa: E402
from vtx_keras.train import _folder as run_folder  # noqa: E402

folder, kill_at, how, source = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]


class Killer(keras.callbacks.Callback):
    seen = 0

    def on_train_batch_end(self, batch, logs=None):
        Killer.seen += 1
        if how == "FULL" and Killer.seen == 3:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        elif kill_at and Killer.seen == kill_at:
            os.kill(os.getpid(), getattr(signal, how))


drawing = source == "generator"
model = toy("cross_attn_generator" if drawing else "cross_attn_captioner", dropout=0.2)
pictures = np.random.default_rng(0).uniform(0, 255, (18, *model.image_shape)).astype("float32")
if source in ("arrays", "generator"):
    pairs = held_out = data.arrays(model, pictures, texts(18), batch_size=4, shuffle=True)
    held_out = data.arrays(model, pictures[:6], texts(6), batch_size=4)
else:
    import tensorflow as tf

    rows = {"image": pictures.astype("uint8"), "captions": [[one, WORDS[3]] for one in texts(18)]}
    pairs = tf.data.Dataset.from_tensor_slices(rows)
    held_out = pairs.take(6)
try:
    history = train.run(
        model, pairs, folder, validation=held_out, epochs=3, batch_size=4, augment=source == "tf.data", save_every=2,
        ema=0.9, accumulate=1 if drawing else 2, learning_rate=1e-2, samples=0,
        callbacks=[Killer(), keras.callbacks.EarlyStopping("val_loss", patience=5)],
    )  # fmt: skip
except train.Stopped as stopped:
    print(stopped, file=sys.stderr)
    sys.exit(75)
except (train.BadRun, OSError) as error:
    print(error, file=sys.stderr)
    sys.exit(2)
values = run_folder.latest(folder / "states")[1]
everything = hashlib.sha256(b"".join(np.ascontiguousarray(value).tobytes() for value in values)).hexdigest()
print(json.dumps({"weights": digest(model), "everything": everything, "history": history.history}))
