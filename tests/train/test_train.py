"""A run of training: what it writes, its optimizer, and what it refuses."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from paths import SUPPORT
from runs import pairs, result_of, small_run
from toys import WORDS, eager, toy

from vtx_keras import _compat, data, train, zoo
from vtx_keras.checkpoints._restore import digest
from vtx_keras.train import _folder as run_folder
from vtx_keras.train._settings import NEAR, by_distance, loss_of

TF = keras.backend.backend() == "tensorflow"


def test_a_run_writes_its_files(tmp_path):
    model = toy("gated_captioner")
    history = small_run(tmp_path / "run", model, epochs=3)
    assert len(history.history["loss"]) == 3
    about = json.loads((tmp_path / "run" / "run.json").read_text())
    assert about["state"] == "finished"
    assert about["identity"]["epochs"] == 3
    assert about["versions"]["keras"] == keras.__version__
    lines = (tmp_path / "run" / "results.csv").read_text().splitlines()
    assert lines[0].startswith("epoch,")
    assert len(lines) == 4
    assert (tmp_path / "run" / "results.png").read_bytes().startswith(b"\x89PNG")
    assert len(run_folder.states(tmp_path / "run" / "states")) == 2
    again = zoo.build("gated_captioner", weights=tmp_path / "run" / "last")
    for ours, theirs in zip(model.weights, again.weights, strict=True):
        np.testing.assert_array_equal(np.array(ours), np.array(theirs))
    assert zoo.load(tmp_path / "run").options == model.options  # best


def test_best_is_the_epoch_with_the_least_validation_loss(tmp_path):
    model = toy("gated_captioner")
    history = train.run(
        model, pairs(model), tmp_path / "run", validation=pairs(model, 4), epochs=4, learning_rate=3e-2, verbose=False
    )
    best = json.loads((tmp_path / "run" / "run.json").read_text())["best"]
    losses = history.history["val_loss"]
    assert best == {"epoch": int(np.argmin(losses)) + 1, "val_loss": min(losses)}
    kept = zoo.build("gated_captioner", weights=tmp_path / "run" / "best")
    kept.compile(loss=kept.loss, optimizer="adam")
    found = kept.evaluate(pairs(kept, 4), verbose=0, return_dict=True)["loss"]
    assert abs(found - min(losses)) < 1e-4


def test_averaged_weights_are_validated_and_kept(tmp_path):
    model = toy("gated_captioner")
    seen = []

    class Log(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            _compat.sync_jax(self.model)
            seen.append(np.array(self.model.get_layer("norm").gamma))

    history = small_run(tmp_path / "run", model, ema=0.5, epochs=1, learning_rate=1e-2, warmup=0.0, callbacks=[Log()])
    average = seen[0]
    for values in seen[1:]:
        average = 0.5 * average + 0.5 * values
    np.testing.assert_allclose(np.array(model.get_layer("norm").gamma), average, rtol=1e-5)
    kept = zoo.build("gated_captioner", weights=history.folder / "last")
    np.testing.assert_array_equal(np.array(kept.get_layer("norm").gamma), np.array(model.get_layer("norm").gamma))


def test_norms_and_biases_do_not_decay():
    model = toy("gated_captioner")
    optimizer = train.adamw(model, 10, learning_rate=0.1, weight_decay=0.5, warmup=0.0)
    optimizer.build(model.trainable_variables)
    before = [np.array(variable) for variable in model.trainable_variables]
    optimizer.apply([keras.ops.zeros(variable.shape) for variable in model.trainable_variables])
    for variable, was in zip(model.trainable_variables, before, strict=True):
        decayed = not np.array_equal(np.array(variable), was)
        assert decayed == (len(variable.shape) > 1), variable.path


def test_the_learning_rate_warms_up_and_falls_to_zero():
    optimizer = train.adamw(toy("gated_captioner"), 100, learning_rate=1.0, warmup=0.1)
    rates = [float(_compat.schedule_of(optimizer)(step)) for step in (0, 5, 10, 55, 100)]
    np.testing.assert_allclose(rates, [0.0, 0.5, 1.0, 0.5, 0.0], atol=1e-6)


def test_a_dry_run_reports_and_leaves_nothing(tmp_path, capsys):
    model = toy("gated_captioner")
    before = digest(model)
    stopping = [keras.callbacks.EarlyStopping("loss")]
    small_run(tmp_path / "run", model, dry_run=True, warmup=0.0, callbacks=stopping)
    told = capsys.readouterr().out
    for line in ("image (4, 32, 32, 3)", "2 epochs of 3 batches: 6", "MB at its peak", "can be saved"):
        assert line in told
    assert digest(model) == before
    assert len(small_run(tmp_path / "run", model, warmup=0.0, callbacks=stopping).history["loss"]) == 2


def test_a_dry_run_takes_no_number(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small_run(None, toy("gated_captioner"), dry_run=True)
    assert small_run(None, toy("gated_captioner")).folder == Path("runs/gated_captioner")


def test_an_unknown_monitor_is_an_error_before_the_first_epoch(tmp_path):
    with pytest.raises(ValueError, match=r"monitor='val_los'.*did you mean val_loss.*scores=200"):
        small_run(tmp_path / "run", monitor="val_los")
    assert not (tmp_path / "run").exists()


def test_validation_masks_the_same_words_every_time(tmp_path):
    """Which words of held-out texts are masked must not depend on how often they were validated."""
    model = toy("gated_matcher", mlm=True)
    held_out = pairs(model, 8)
    history = train.run(
        model, pairs(model), tmp_path / "run", validation=held_out, epochs=2, learning_rate=0.0, weight_decay=0.0,
        verbose=False,
    )  # fmt: skip
    losses = history.history["val_loss"]
    assert losses[0] == losses[1]


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"epochs": 0}, "epochs=0"),
        ({"ema": 2.0}, "ema=2.0"),
        ({"save_every": 0}, "save_every=0"),
        ({"repeats": 0}, "repeats=0"),
        ({"repeats": 2}, "repeats= needs examples"),
        ({"scores": 5}, "pass validation="),
        ({"callbacks": [keras.callbacks.SwapEMAWeights()]}, "ema=0.999"),
        ({"callbacks": [keras.callbacks.ReduceLROnPlateau()]}, "optimizer= of yours"),
        ({"learning_rate": float("nan")}, "learning_rate=nan"),
        ({"warmup": 2.0}, "from 0 to 1"),
        ({"steps_per_execution": 0}, "steps_per_execution=0"),
        ({"augment": True}, "needs examples"),
        ({"monitor": "los"}, "did you mean loss"),
    ],
)
def test_impossible_settings_are_refused(tmp_path, wrong, told):
    with pytest.raises(ValueError, match=told):
        small_run(tmp_path / "run", **wrong)
    with pytest.raises(TypeError, match="from zoo"):
        train.run(keras.Sequential([keras.layers.Dense(1)]), None)


@pytest.mark.skipif(not TF, reason="tf.data through Pillow is the same on both backends")
def test_a_frozen_encoder_encodes_each_image_once(tmp_path, capsys):
    model = toy("gated_captioner")
    model.freeze("image")
    eager(model)  # and so is what is trained behind the encoder
    before = digest(model.get_layer("image_encoder"))
    ds = data.load("sample", "train").take(12)
    with contextlib.suppress(Warning):
        train.run(model, ds, tmp_path / "run", validation=ds, epochs=2, batch_size=4, learning_rate=1e-2)
    assert "each picture is encoded once" in capsys.readouterr().out
    assert list((tmp_path / "features").glob("*.npy"))
    assert digest(model.get_layer("image_encoder")) == before
    assert (tmp_path / "run" / "samples.html").is_file()
    kept = zoo.build("gated_captioner", weights=tmp_path / "run" / "last")
    assert digest(kept) == digest(model)


@pytest.mark.skipif(not TF, reason="tf.data")
def test_few_examples_are_learned_as_far_as_they_are_from_the_model(tmp_path):
    model = toy("gated_captioner")
    model.freeze("image")
    few = data.load("sample", "train").take(8)
    new = loss_of(model, few, tmp_path)
    suited = train.suited(model, few, tmp_path)
    assert suited == by_distance(8, new) != by_distance(8, NEAR + 1)  # a toy of few words has a small loss
    settings = {**suited, "learning_rate": 1e-3, "epochs": 2, "verbose": False}
    history = train.run(model, few, tmp_path / "run", **settings)
    assert history.params["steps"] == -(-8 * settings["repeats"] // settings["batch_size"]) > 1
    assert loss_of(model, few, tmp_path) < new
    with pytest.raises(TypeError, match="captioners"):
        train.suited(toy("gated_vqa"), few)


def test_what_the_model_knows_is_changed_gently():
    for pictures in (1, 20, 100, 399, 400, 4_000):
        near, far = by_distance(pictures, 3.9), by_distance(pictures, 7.0)
        assert near["learning_rate"] < 1e-5 < far["learning_rate"] / 10
        for one in (near, far):
            steps = one["epochs"] * -(-pictures * one["repeats"] // one["batch_size"])
            assert steps >= 40
    assert by_distance(4_000, 3.9)["repeats"] == 1


@pytest.mark.skipif(not TF, reason="tf.data")
@pytest.mark.parametrize("name", ["cross_attn_vqa", "co_attn_matcher", "retriever"])
def test_samples_and_scores_of_every_task(tmp_path, name):
    overrides = {"vocabulary": WORDS, **({"classes": ["no", "yes"]} if name.endswith("vqa") else {})}
    model = eager(toy(name, **overrides))
    ds = data.load("sample/questions" if name.endswith("vqa") else "sample", "train").take(8)
    history = train.run(
        model, ds, tmp_path / "run", validation=ds, epochs=1, batch_size=4, scores=8, verbose=False, unknown="drop"
    )
    assert (tmp_path / "run" / "samples.html").stat().st_size > 1000
    assert [key for key in history.history if key.startswith("val_") and key not in ("val_loss", "val_accuracy")]


@pytest.mark.skipif(not TF, reason="one device type")
def test_xla_with_static_shapes(tmp_path):
    model = toy("cross_attn_captioner")
    ds = data.load("sample", "train").take(10)
    history = train.run(
        model, ds, tmp_path / "run", epochs=2, batch_size=4, jit_compile=True, learning_rate=1e-2, verbose=False
    )
    assert history.history["loss"][1] < history.history["loss"][0]
    assert model.jit_compile is True


@pytest.mark.gpu
def test_tfds_to_fit_under_xla_on_a_gpu(tmp_path):
    import tensorflow as tf

    if not tf.config.list_physical_devices("GPU"):
        pytest.skip("TensorFlow sees no GPU here: this path has not been run")
    model = zoo.build("cross_attn_captioner", weights=None, size="tiny", dtype="mixed_bfloat16")
    history = train.run(model, data.load("sample", "train"), tmp_path / "run", epochs=2, jit_compile=True)
    assert history.history["loss"][1] < history.history["loss"][0]


@pytest.mark.parametrize("dtype", ["mixed_float16", pytest.param("mixed_bfloat16", marks=pytest.mark.slow)])
def test_mixed_precision(tmp_path, dtype):
    history = small_run(tmp_path / "run", toy("gated_captioner", dtype=dtype), learning_rate=1e-2, epochs=3, ema=0.5)
    losses = history.history["loss"]
    assert losses[-1] < losses[0]


@pytest.mark.slow
def test_two_devices(tmp_path):
    """Both devices train, and the losses equal those of one device."""
    run = subprocess.run(
        [sys.executable, str(SUPPORT / "two_devices.py"), str(tmp_path / "run")],
        capture_output=True,
        text=True,
        env={**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=2"},
    )
    assert result_of(run)["runs"] >= 2


@pytest.mark.skipif(not TF, reason="what TensorFlow cannot do")
def test_several_hosts_and_sharded_matrices_need_jax():
    from vtx_keras.train import parallel

    with pytest.raises(ValueError, match="KERAS_BACKEND=jax"):
        parallel.join("localhost:1234", 2, 0)
    with pytest.raises(ValueError, match="KERAS_BACKEND=jax"), parallel.over("model"):
        pass
