"""Write tests/fixtures/flat_layout: small models and a stopped run, by the code before its modules were moved.

    git worktree add ../flat 6294a06
    PYTHONPATH=../flat python tests/support/make_flat_layout.py tests/fixtures/flat_layout

It needs commit 6294a06: a later one would write files of its own layout, which proves nothing about older ones.
`test_flat_layout.py` loads what this wrote, and imports the models' options and the inputs from here.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import keras
import numpy as np

from vtx_keras import data, train, zoo

SEED = 7
WORDS = [f"w{i}" for i in range(19)]
SMALL = {
    "weights": None, "dim": 16, "heads": 2, "depth": 1, "vision_depth": 1, "image_shape": (32, 32, 3),
    "vocabulary": WORDS, "max_length": 6,
}  # fmt: skip
TEXTS = ["w1 w2", "w3 w4 w5", "w6", "w7 w8"]
PIXELS = np.random.default_rng(0).uniform(0, 255, (4, 32, 32, 3)).astype("float32").round()


def inputs(model: keras.Model) -> dict[str, np.ndarray]:
    return {"image": PIXELS, "tokens": model.tokens_of(TEXTS)}


def train_run(folder: Path, callback: keras.callbacks.Callback) -> tuple[keras.Model, keras.callbacks.History]:
    """Train a new model in `folder`, or continue the run that is there."""
    model = zoo.build("merged_attn_captioner", **SMALL)
    pairs = data.arrays(model, PIXELS, TEXTS, batch_size=2, shuffle=True, seed=3)
    settings = {"epochs": 3, "save_every": 1, "ema": 0.9, "verbose": False}
    return model, train.run(model, pairs, folder, callbacks=[callback], **settings)


def stop_in_second_epoch() -> keras.callbacks.Callback:
    callback = keras.callbacks.LambdaCallback()

    def stop(batch: int, logs: dict | None = None) -> None:
        if callback.model.optimizer.iterations == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    callback.on_train_batch_end = stop
    return callback


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    outputs = {"pixels": PIXELS.astype("uint8")}
    keras.utils.set_random_seed(SEED)
    model = zoo.build("cross_attn_captioner", **SMALL)
    model.fit(data.arrays(model, PIXELS, TEXTS, batch_size=2), epochs=1, verbose=0)
    zoo.save(model, folder / "cross_attn_captioner.keras")
    outputs["cross_attn_captioner"] = model.predict(inputs(model), verbose=0)
    model = zoo.build("gated_vqa", **SMALL, text_depth=1, mlm=True, classes=["no", "yes"])
    zoo.save(model, folder / "gated_vqa")
    outputs["gated_vqa"] = model.predict(inputs(model), verbose=0)["logits"]
    options = {name: value for name, value in SMALL.items() if name != "depth"}
    model = zoo.build("retriever", **options, text_encoder="gru", text_depth=1)
    zoo.save(model, folder / "retriever", half=True)
    model = zoo.load(folder / "retriever")
    outputs["retriever"] = model.predict(inputs(model), verbose=0)
    try:
        train_run(folder / "run", stop_in_second_epoch())
    except train.Stopped as stopped:
        print(stopped)
    with tempfile.TemporaryDirectory() as copy:
        shutil.copytree(folder / "run", copy, dirs_exist_ok=True)
        model, history = train_run(Path(copy), keras.callbacks.LambdaCallback())
        outputs["run"] = np.array(history.history["loss"])
        outputs["run_weights"] = zoo.load(f"{copy}/last").predict(inputs(model), verbose=0)
    np.savez_compressed(folder / "outputs.npz", **outputs)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
