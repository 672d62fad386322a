"""The overhead of a run's callbacks: the CPU time inside them as a share of the training step.

`train.run` trains the tiny captioner, and every method of its callbacks is timed. Saving the state is spread over the
200 steps between two saves by default, the end of an epoch over the 222 batches of 32 in an epoch of `emoji`.

    python benchmarks/fit.py [--steps 24]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from common import one_thread, store

BATCH, SAVE_EVERY, EPOCH = 32, 200, 222


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=24)
    steps = parser.parse_args().steps
    one_thread()
    import keras
    import numpy as np

    from vtx_keras import data, train, zoo
    from vtx_keras.train import _callbacks as keeping

    spent: dict[str, list[float]] = defaultdict(list)

    def timed(name: str, method):
        def run(*args, **kwargs):
            start = time.process_time()
            try:
                return method(*args, **kwargs)
            finally:
                spent[name].append(1000 * (time.process_time() - start))

        return run

    class Clock(keras.callbacks.Callback):
        """Times Keras' own step: from the beginning of a batch to the first of the run's callbacks."""

        def on_train_batch_begin(self, batch, logs=None):
            self.start = time.process_time()

        def on_train_batch_end(self, batch, logs=None):
            spent["step"].append(1000 * (time.process_time() - self.start))

    for name in ("on_train_batch_end", "on_epoch_end", "save"):
        setattr(keeping.Checkpointer, name, timed(name, getattr(keeping.Checkpointer, name)))
    model = zoo.build("cross_attn_captioner", weights=None, size="tiny")
    pictures = np.random.default_rng(0).uniform(0, 255, (BATCH * steps, *model.image_shape)).astype("float32")
    pairs = data.arrays(model, pictures, ["a cat on a mat"] * len(pictures), batch_size=BATCH)
    with tempfile.TemporaryDirectory() as folder:
        train.run(model, pairs, Path(folder) / "run", epochs=2, callbacks=[Clock()], save_every=steps // 3, samples=0)

    step = statistics.median(spent["step"][2:])
    plain = statistics.median(spent["on_train_batch_end"])  # a step that saves nothing, as most do
    save, epoch_end = statistics.median(spent["save"]), statistics.median(spent["on_epoch_end"])
    overhead = (plain + save / SAVE_EVERY + epoch_end / EPOCH) / step
    store(
        "fit",
        [
            {
                "model": "cross_attn_captioner tiny",
                "batch": BATCH,
                "step_ms": round(step, 2),
                "callbacks_per_step_ms": round(plain, 3),
                "save_ms": round(save, 1),
                "epoch_end_ms": round(epoch_end, 1),
                "overhead": round(overhead, 5),
            }
        ],
    )


if __name__ == "__main__":
    main()
