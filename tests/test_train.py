"""A run of training: killed and gone on with, watched, kept."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from toys import WORDS, eager, texts, toy, vtx

from vtx_keras import data, train, zoo
from vtx_keras.cli._train import _warn_of_few
from vtx_keras.train import _folder as run_folder

TF = keras.backend.backend() == "tensorflow"
SCRIPT = Path(__file__).with_name("killed_run.py")


def pairs(model, count: int = 12, batch_size: int = 4, **kwargs) -> data.Batches:
    pictures = np.random.default_rng(0).uniform(0, 255, (count, *model.image_shape)).astype("float32")
    return data.arrays(model, pictures, texts(count), batch_size=batch_size, shuffle=True, **kwargs)


def small_run(folder, model=None, **kwargs):
    model = eager(model or toy("gated_captioner"))
    return train.run(model, pairs(model), folder, **{"epochs": 2, "verbose": False, **kwargs})


def script(folder: Path, kill_at: int = 0, how: str = "SIGKILL", source: str = "arrays") -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(SCRIPT), str(folder), str(kill_at), how, source], capture_output=True, text=True
    )


def digest_of(run: subprocess.CompletedProcess) -> dict:
    assert run.returncode == 0, run.stderr[-3000:]
    return json.loads(run.stdout.splitlines()[-1])


@pytest.mark.parametrize("source", ["tf.data" if TF else "arrays", pytest.param("arrays", marks=pytest.mark.slow)])
def test_a_run_stopped_at_random_ends_with_the_same_bits(tmp_path, source):
    """Weights, optimizer, averages, seeds, metrics and the history, after SIGKILL and SIGTERM."""
    whole = digest_of(script(tmp_path / "whole", source=source))
    seed = random.SystemRandom().randrange(2**32)
    steps = sorted(random.Random(seed).sample(range(2, 15), 2))
    done = 0
    for step, how in zip(steps, ("SIGKILL", "SIGTERM"), strict=True):
        run = script(tmp_path / "stopped", kill_at=max(1, step - done), how=how, source=source)
        done = max([int(path.stem.split("-")[1]) for path in (tmp_path / "stopped" / "states").glob("step-*")])
        if how == "SIGTERM":
            assert run.returncode == 75, (seed, run.stderr[-3000:])
            assert "The same command goes on from there" in run.stderr
            assert step == done, "a run that is asked to stop saves the very step"
        else:
            assert run.returncode == -signal.SIGKILL, (seed, run.stderr[-3000:])
            assert step - done <= 2, "more than save_every=2 steps were lost"
    assert digest_of(script(tmp_path / "stopped", source=source)) == whole, f"seed {seed}, stopped at {steps}"


def test_a_damaged_state_is_passed_over_with_a_message(tmp_path, capfd):
    model = toy("gated_captioner")
    small_run(tmp_path / "run", model)
    assert model.run_eagerly == TF, "the run forgot how the model was to be run"
    newest, older = run_folder.states(tmp_path / "run" / "states")
    newest.write_bytes(newest.read_bytes()[:-100])
    position, values, complaints = run_folder.latest(tmp_path / "run" / "states")
    assert position["done"] == 0
    assert len(values) == len(run_folder.variables(model))
    assert len(complaints) == 1
    assert newest.name in complaints[0]
    assert "the one before it is used" in complaints[0]
    flipped = bytearray(older.read_bytes())
    flipped[len(flipped) // 2] ^= 1
    older.write_bytes(flipped)
    position, values, complaints = run_folder.latest(tmp_path / "run" / "states")
    assert not position
    assert not values
    assert older.name in complaints[0]
    kept = run_folder.save_state(tmp_path / "run" / "states", model, {"epoch": 0}, 1)  # damaged ones do not crowd out new ones
    assert run_folder.states(tmp_path / "run" / "states") == [kept]


def test_a_run_leaves_what_it_promises(tmp_path):
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

    class Look(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if hasattr(self.model, "jax_state_sync"):
                self.model.jax_state_sync()
            seen.append(np.array(self.model.get_layer("norm").gamma))

    history = small_run(tmp_path / "run", model, ema=0.5, epochs=1, learning_rate=1e-2, warmup=0.0, callbacks=[Look()])
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


def test_the_rate_warms_up_and_falls_to_nothing():
    optimizer = train.adamw(toy("gated_captioner"), 100, learning_rate=1.0, warmup=0.1)
    rates = [float(optimizer._learning_rate(step)) for step in (0, 5, 10, 55, 100)]
    np.testing.assert_allclose(rates, [0.0, 0.5, 1.0, 0.5, 0.0], atol=1e-6)


def test_a_nan_loss_stops_names_the_examples_and_keeps_good_weights(tmp_path):
    model = toy("gated_captioner")
    source = pairs(model)
    bad = int(source.order[5])  # in the second batch of the first epoch
    source.pixels = source.pixels.copy()
    source.pixels[bad] = np.nan
    with pytest.raises(train.Diverged, match="epoch 1, batch 2") as error:
        train.run(model, source, tmp_path / "run", epochs=2, verbose=False)
    assert "smaller learning rate" in str(error.value)
    about = json.loads((tmp_path / "run" / "diverged.json").read_text())
    assert about["batches"] == [2, 2]
    assert bad in [example["row"] for example in about["examples"]]
    assert len(about["examples"]) == 4
    assert json.loads((tmp_path / "run" / "run.json").read_text())["state"].startswith("diverged")
    kept = zoo.build("gated_captioner", weights=tmp_path / "run" / "last")
    assert all(np.isfinite(np.array(weight)).all() for weight in kept.weights)


def test_weights_that_are_not_finite_are_never_saved(tmp_path):
    model = toy("gated_captioner")
    model.get_layer("norm").gamma.assign(np.full(32, np.inf))
    with pytest.raises(run_folder.NotFinite):
        run_folder.save_state(tmp_path, model, {}, 1)
    assert not list(tmp_path.iterdir())


def test_two_processes_in_one_folder(tmp_path):
    with run_folder.alone(tmp_path), pytest.raises(train.BadRun, match="another process is training"), run_folder.alone(tmp_path):
        pass
    with run_folder.alone(tmp_path):
        run = script(tmp_path)
    assert run.returncode == 2
    assert "another process is training" in run.stderr


def test_other_settings_in_the_same_folder_are_refused_by_name(tmp_path):
    small_run(tmp_path / "run")
    with pytest.raises(train.BadRun, match="epochs was 2, now is 3"):
        small_run(tmp_path / "run", epochs=3)
    with pytest.raises(train.BadRun, match="holds a run already"):
        small_run(tmp_path / "run", new=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(train.BadRun, match="not a run"):
        small_run(tmp_path / "mine")


def test_a_finished_run_is_not_run_again(tmp_path):
    first = toy("gated_captioner")
    history = small_run(tmp_path / "run", first)
    second = toy("gated_captioner")
    again = small_run(tmp_path / "run", second)
    assert again.history == history.history
    for ours, theirs in zip(first.weights, second.weights, strict=True):
        np.testing.assert_array_equal(np.array(ours), np.array(theirs))


def test_runs_are_numbered_and_an_unfinished_one_is_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def seeded(**kwargs):
        keras.utils.set_random_seed(1)
        return small_run(None, epochs=1, **kwargs).folder

    assert seeded() == Path("runs/gated_captioner")
    assert seeded() == Path("runs/gated_captioner-2")
    run_folder.tell(Path("runs/gated_captioner"), state="stopped")
    (tmp_path / "runs/gated_captioner_notes").mkdir()
    (tmp_path / "runs/gated_captioner_notes/run.json").write_text('{"note": "mine"}')
    assert seeded() == Path("runs/gated_captioner")
    assert seeded(new=True) == Path("runs/gated_captioner-3")


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes anywhere")
def test_a_folder_that_cannot_be_written_is_found_before_training(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(train.BadRun, match="cannot write"):
        small_run(tmp_path / "run")


def test_too_little_room_is_found_before_training(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=1000))
    with pytest.raises(train.BadRun, match="MB free: this run needs"):
        small_run(tmp_path / "run")


def test_a_disk_that_fills_up_does_not_end_the_run(tmp_path, capfd):
    """A limit on file size stands for the full disk: the states no longer fit, the small files do."""
    run = script(tmp_path / "run", how="FULL")
    assert run.returncode == 2, run.stderr[-2000:]
    assert "could not be saved" in run.stderr
    assert "the run goes on" in run.stderr
    assert run_folder.latest(tmp_path / "run" / "states")[1], "the state from before is kept"
    assert not list((tmp_path / "run" / "states").glob(".step-*"))


def test_a_dry_run_tells_and_leaves_nothing(tmp_path, capsys):
    model = toy("gated_captioner")
    before = run_folder.digest(model)
    stopping = [keras.callbacks.EarlyStopping("loss")]
    small_run(tmp_path / "run", model, dry_run=True, warmup=0.0, callbacks=stopping)
    told = capsys.readouterr().out
    for line in ("image (4, 32, 32, 3)", "2 epochs of 3 batches: 6", "MB at its peak", "can be saved"):
        assert line in told
    assert run_folder.digest(model) == before
    assert len(small_run(tmp_path / "run", model, warmup=0.0, callbacks=stopping).history["loss"]) == 2


def test_a_dry_run_takes_no_number(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small_run(None, toy("gated_captioner"), dry_run=True)
    assert small_run(None, toy("gated_captioner")).folder == Path("runs/gated_captioner")


def test_a_figure_that_no_epoch_has_is_told_before_the_first(tmp_path):
    with pytest.raises(ValueError, match=r"monitor='val_los'.*did you mean val_loss.*scores=200"):
        small_run(tmp_path / "run", monitor="val_los")
    assert not (tmp_path / "run").exists()


def test_the_best_weights_that_a_killed_process_put_aside_come_back(tmp_path):
    small_run(tmp_path / "run")
    (tmp_path / "run" / "best").rename(tmp_path / "run" / ".best.abc.old")
    (tmp_path / "run" / ".best.def").mkdir()
    with run_folder.alone(tmp_path / "run"):
        pass
    assert (tmp_path / "run" / "best" / "config.json").is_file()
    assert not list((tmp_path / "run").glob(".best*"))


def test_a_finished_run_of_low_rank_additions_is_loaded_again(tmp_path):
    first, second = toy("gated_captioner"), toy("gated_captioner")
    for model in (first, second):
        model.enable_lora(2)
    small_run(tmp_path / "run", first, learning_rate=0.01)
    small_run(tmp_path / "run", second, learning_rate=0.01)
    for ours, theirs in zip(first.merged().weights, second.merged().weights, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_a_run_that_died_between_its_last_state_and_the_word_finished(tmp_path):
    first, second = toy("gated_captioner"), toy("gated_captioner")
    small_run(tmp_path / "run", first)
    run_folder.tell(tmp_path / "run", state="training")
    small_run(tmp_path / "run", second)
    assert run_folder.digest(first) == run_folder.digest(second)
    assert run_folder.read(tmp_path / "run")["state"] == "finished"


def test_other_starting_weights_do_not_go_on_with_a_strangers_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = toy("gated_captioner")
    first = small_run(None, model)
    run_folder.tell(first.folder, state="stopped")
    assert small_run(None, toy("gated_captioner")).folder != first.folder


def test_validation_draws_the_same_after_a_restart(tmp_path):
    """Masked words of the held-out texts are drawn; which, must not depend on how often it was validated."""
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
def test_what_cannot_be_is_said(tmp_path, wrong, told):
    with pytest.raises(ValueError, match=told):
        small_run(tmp_path / "run", **wrong)
    with pytest.raises(TypeError, match="from zoo"):
        train.run(keras.Sequential([keras.layers.Dense(1)]), None)


@pytest.mark.slow
def test_early_stopping_goes_on_counting_after_a_restart(tmp_path):
    whole, part = tmp_path / "whole", tmp_path / "part"
    stopping = {"epochs": 6, "learning_rate": 0.0, "weight_decay": 0.0, "clip": 0.0}

    stop_at = -1

    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == stop_at:
                raise RuntimeError("the power failed")

    def early():
        return keras.callbacks.EarlyStopping("loss", min_delta=100.0, patience=3)

    assert len(small_run(whole, callbacks=[early(), Stop()], **stopping).history["loss"]) == 4
    stop_at = 2
    with pytest.raises(RuntimeError, match="the power failed"):
        small_run(part, callbacks=[early(), Stop()], **stopping)
    stop_at = -1
    for _ in range(2):  # it goes on, and then has ended for good
        assert len(small_run(part, callbacks=[early(), Stop()], **stopping).history["loss"]) == 4


@pytest.mark.skipif(not TF, reason="tf.data through Pillow is the same on both backends")
def test_a_frozen_encoder_looks_once(tmp_path, capsys):
    model = toy("gated_captioner")
    model.freeze("image")
    eager(model)  # and so is what is trained behind the encoder
    before = run_folder.digest(model.get_layer("image_encoder"))
    ds = data.load("sample", "train").take(12)
    with contextlib.suppress(Warning):
        train.run(model, ds, tmp_path / "run", validation=ds, epochs=2, batch_size=4, learning_rate=1e-2)
    assert "it looks at each picture once" in capsys.readouterr().out
    assert list((tmp_path / "features").glob("*.npy"))
    assert run_folder.digest(model.get_layer("image_encoder")) == before
    assert (tmp_path / "run" / "samples.html").is_file()
    kept = zoo.build("gated_captioner", weights=tmp_path / "run" / "last")
    assert run_folder.digest(kept) == run_folder.digest(model)


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
    """Both devices train, and what they learn is what one device learns."""
    run = subprocess.run(
        [sys.executable, str(SCRIPT.with_name("two_devices.py")), str(tmp_path / "run")],
        capture_output=True,
        text=True,
        env={**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=2"},
    )
    assert digest_of(run)["runs"] >= 2


@pytest.mark.skipif(not TF, reason="what TensorFlow cannot do")
def test_many_hosts_and_cut_matrices_need_jax():
    from vtx_keras.train import parallel

    with pytest.raises(ValueError, match="KERAS_BACKEND=jax"):
        parallel.join("localhost:1234", 2, 0)
    with pytest.raises(ValueError, match="KERAS_BACKEND=jax"), parallel.over("model"):
        pass


@pytest.mark.skipif(not TF, reason="one backend is enough for the command line")
@pytest.mark.parametrize(
    ("model", "weights", "epochs", "told"),
    [
        ("cross_attn_video_vqa", "encoders", 10, "70 updates"),  # not released
        ("cross_attn_captioner", "none", 42, "294 updates"),
        ("cross_attn_captioner", "none", 43, None),
        ("cross_attn_captioner", "default", 10, None),
    ],
)
def test_few_updates_from_nothing_are_told(model, weights, epochs, told, capsys):
    history = keras.callbacks.History()
    history.epoch = list(range(epochs))
    history.set_params({"epochs": epochs, "steps": 7})
    _warn_of_few(model, history, {"weights": weights, "accumulate": 1})
    said = capsys.readouterr().err
    assert said.startswith(f"vtx: {told}") if told else said == ""
    assert ("--weights default" in said) == (told is not None and model == "cross_attn_captioner")


def test_the_command_line_trains_goes_on_and_is_polite(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = ["--set", "dim=32", "--set", "depth=1", "--set", "vision_depth=1", "--set", "image_shape=[32, 32, 3]"]
    words = ["train", "cross_attn_captioner", "--data", "sample", *small, "--epochs", "2", "--learning-rate", "0.003"]
    run = subprocess.run([sys.executable, "-m", "vtx_keras.cli", *words], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-3000:]
    rows = (tmp_path / "runs/cross_attn_captioner/results.csv").read_text().splitlines()
    losses = [float(row.split(",")[rows[0].split(",").index("loss")]) for row in rows[1:]]
    assert losses[1] < losses[0]
    assert (tmp_path / "runs/cross_attn_captioner/samples.html").is_file()
    assert "next: vtx eval runs/cross_attn_captioner/best" in run.stdout
    assert "14 updates are few" in run.stderr
    assert "--weights default" in run.stderr
    run = vtx("train", "cross_attn_captionr", "--data", "sample")
    assert run.exit_code == 2
    assert "did you mean cross_attn_captioner" in run.stderr
    assert "Traceback" not in run.stderr
    run = vtx("train", "cross_attn_captioner", "--data", "sample", *small, "--freeze", "image")
    assert run.exit_code == 2
    assert "would never learn" in run.stderr
    run = vtx("train", "gated_vqa", "--data", "sample/questions", *small, "--dry-run")
    assert run.exit_code == 0, run.stderr[-3000:]
    assert "can be saved" in run.stdout
