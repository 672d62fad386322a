"""Training on the CIDEr-D of sampled captions: a toy gets better at it, and a stopped run ends with the same bits."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from toys import WORDS, eager, toy

from vtx_keras import data, train
from vtx_keras.checkpoints._restore import digest
from vtx_keras.train import _folder as run_folder
from vtx_keras.train._settings import by_cider_of

pytest.importorskip("tensorflow")
CAPTIONS = [" ".join(WORDS[at : at + 4]) for at in (0, 4, 8)]


def examples(rows: int = 12, **fields):
    """Pictures of one grey, each with the captions of its grey."""
    import tensorflow as tf

    kinds = np.arange(rows) % len(CAPTIONS)
    pictures = np.zeros((rows, 32, 32, 3), "uint8") + (80 * kinds + 40).astype("uint8")[:, None, None, None]
    captions = [[CAPTIONS[kind], f"{CAPTIONS[kind]} {WORDS[20]}"] for kind in kinds]
    return data.Examples(tf.data.Dataset.from_tensor_slices({"image": pictures, "captions": captions, **fields}))


def run(folder, model, **settings):
    options = {"objective": "cider", "batch_size": 4, "epochs": 1, "learning_rate": 1e-2, "verbose": False}
    return train.run(model, examples(), folder, validation=examples(6), samples=0, **{**options, **settings})


class Stop(keras.callbacks.Callback):
    """Stops the run like a signal after `steps` of its steps."""

    def __init__(self, steps: int = 0):
        super().__init__()
        self.steps = steps

    def on_train_batch_end(self, batch, logs=None):
        self.steps -= 1
        if self.steps == 0:
            raise KeyboardInterrupt


def test_a_stopped_run_ends_with_the_same_bits(tmp_path):
    def again(folder, steps=0):
        keras.utils.set_random_seed(1)
        model = toy("cross_attn_captioner", dropout=0.1, max_length=6)
        model.freeze("image")
        model = eager(model)
        settings = {"ema": 0.5, "scores": 2, "save_every": 1, "callbacks": [Stop(steps)]}
        history = run(tmp_path / folder, model, **settings)
        return digest(model), history.history, run_folder.latest(tmp_path / folder / "states")[1]

    ended, history, values = again("whole")
    assert {"reward", "val_reward", "val_cider", "val_loss", "accuracy"} <= set(history)
    with pytest.raises(KeyboardInterrupt):
        again("stopped", steps=2)
    resumed = again("stopped")
    assert resumed[:2] == (ended, history)
    for ours, theirs in zip(resumed[2], values, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.slow
def test_captions_score_higher():
    """After a short training of words, the reward alone leads towards the references."""
    keras.utils.set_random_seed(1)
    model = toy("cross_attn_captioner", dropout=0.1)
    model.compile(keras.optimizers.Adam(3e-3), loss=model.loss)
    model.fit(data.batches(examples(), model, batch_size=12, training=True).repeat(30), verbose=0)
    settings = train.Settings(objective="cider", weight_of_words=0.0)
    rewarded = by_cider_of(model, examples(), examples(6), settings)
    rewarded.compile(keras.optimizers.Adam(1e-3), loss=model.loss)
    pairs = data.batches(examples(), rewarded, batch_size=12, training=True).repeat(20)
    held_out = data.batches(examples(6), rewarded, batch_size=6)
    history = rewarded.fit(pairs, validation_data=held_out, epochs=7, verbose=0).history
    assert history["reward"][-1] > history["reward"][0] + 1
    assert history["val_reward"][-1] > history["val_reward"][0] + 1


def test_what_has_no_reward_is_an_error(tmp_path):
    model = toy("cross_attn_captioner")
    with pytest.raises(ValueError, match="leave out text="):
        run(tmp_path / "a", model, text=data.sentences(CAPTIONS))
    arrays = data.arrays(model, np.zeros((3, 32, 32, 3)), CAPTIONS)
    with pytest.raises(ValueError, match="needs examples"):
        train.run(model, arrays, tmp_path / "b", objective="cider")
    with pytest.raises(ValueError, match="trains captioners"):
        train.run(toy("gated_vqa"), examples(), tmp_path / "c", objective="cider")
    with pytest.raises(ValueError, match="objective='clip'"):
        train.Settings(objective="clip")
