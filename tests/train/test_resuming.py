"""A run that was killed, stopped or diverged, and its folder."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
from pathlib import Path

import keras
import numpy as np
import pytest
from runs import pairs, result_of, script, small_run
from toys import toy

from vtx_keras import train, zoo
from vtx_keras.checkpoints._restore import digest
from vtx_keras.train import _folder as run_folder

TF = keras.backend.backend() == "tensorflow"


SOURCES = ["tf.data" if TF else "arrays", "generator", pytest.param("arrays", marks=pytest.mark.slow)]


@pytest.mark.parametrize("source", SOURCES)
def test_a_run_stopped_at_random_ends_with_the_same_bits(tmp_path, source):
    """Weights, optimizer, averages, seeds, metrics and history are equal after SIGKILL and SIGTERM."""
    whole = result_of(script(tmp_path / "whole", source=source))
    seed = random.SystemRandom().randrange(2**32)
    steps = sorted(random.Random(seed).sample(range(2, 15), 2))
    done = 0
    for step, how in zip(steps, ("SIGKILL", "SIGTERM"), strict=True):
        run = script(tmp_path / "stopped", kill_at=max(1, step - done), how=how, source=source)
        done = max([int(path.stem.split("-")[1]) for path in (tmp_path / "stopped" / "states").glob("step-*")])
        if how == "SIGTERM":
            assert run.returncode == 75, (seed, run.stderr[-3000:])
            assert "The same command resumes from there" in run.stderr
            assert step == done, "a run that is asked to stop saves the very step"
        else:
            assert run.returncode == -signal.SIGKILL, (seed, run.stderr[-3000:])
            assert step - done <= 2, "more than save_every=2 steps were lost"
    assert result_of(script(tmp_path / "stopped", source=source)) == whole, f"seed {seed}, stopped at {steps}"


def test_a_damaged_state_is_skipped_with_a_message(tmp_path, capfd):
    model = toy("gated_captioner")
    small_run(tmp_path / "run", model)
    assert model.run_eagerly == TF, "the run changed how the model runs"
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
    kept = run_folder.save_state(
        tmp_path / "run" / "states", model, {"epoch": 0}, 1
    )  # damaged ones do not crowd out new ones
    assert run_folder.states(tmp_path / "run" / "states") == [kept]


def test_a_nan_loss_stops_the_run_names_the_examples_and_keeps_good_weights(tmp_path):
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


class Breaking(keras.callbacks.Callback):
    """Makes a weight infinite after the last batch of an epoch."""

    def on_epoch_end(self, epoch, logs=None):
        gamma = self.model.get_layer("norm").gamma
        gamma.assign(gamma + np.inf)


def test_weights_that_break_in_the_last_batch_of_an_epoch_end_the_run_as_diverged(tmp_path):
    model = toy("gated_captioner")
    with pytest.raises(train.Diverged, match="norm/gamma has values that are NaN or infinite"):
        train.run(model, pairs(model), tmp_path / "run", epochs=2, callbacks=[Breaking()], verbose=False)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["state"].startswith("diverged")
    assert (tmp_path / "run" / "diverged.json").is_file()


def test_weights_that_are_not_finite_are_never_saved(tmp_path):
    model = toy("gated_captioner")
    model.get_layer("norm").gamma.assign(np.full(32, np.inf))
    with pytest.raises(run_folder.NotFinite):
        run_folder.save_state(tmp_path, model, {}, 1)
    assert not list(tmp_path.iterdir())


def test_a_folder_is_locked_by_one_process(tmp_path):
    with (
        run_folder.locked(tmp_path),
        pytest.raises(train.BadRun, match="another process is training"),
        run_folder.locked(tmp_path),
    ):
        pass
    with run_folder.locked(tmp_path):
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


def test_runs_are_numbered_and_an_unfinished_one_is_continued(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def seeded(**kwargs):
        keras.utils.set_random_seed(1)
        return small_run(None, epochs=1, **kwargs).folder

    assert seeded() == Path("runs/gated_captioner")
    assert seeded() == Path("runs/gated_captioner-2")
    run_folder.update(Path("runs/gated_captioner"), state="stopped")
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
    """A limit on file size simulates the full disk: states no longer fit, small files do."""
    run = script(tmp_path / "run", how="FULL")
    assert run.returncode == 2, run.stderr[-2000:]
    assert "could not be saved" in run.stderr
    assert "training continues" in run.stderr
    assert run_folder.latest(tmp_path / "run" / "states")[1], "the state from before is kept"
    assert not list((tmp_path / "run" / "states").glob(".step-*"))


def test_best_weights_moved_aside_by_a_killed_process_are_restored(tmp_path):
    small_run(tmp_path / "run")
    (tmp_path / "run" / "best").rename(tmp_path / "run" / ".best.abc.old")
    (tmp_path / "run" / ".best.def").mkdir()
    with run_folder.locked(tmp_path / "run"):
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


def test_a_run_killed_after_its_last_state_is_marked_finished(tmp_path):
    first, second = toy("gated_captioner"), toy("gated_captioner")
    small_run(tmp_path / "run", first)
    run_folder.update(tmp_path / "run", state="training")
    small_run(tmp_path / "run", second)
    assert digest(first) == digest(second)
    assert run_folder.read(tmp_path / "run")["state"] == "finished"


def test_other_initial_weights_start_a_run_of_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = toy("gated_captioner")
    first = small_run(None, model)
    run_folder.update(first.folder, state="stopped")
    assert small_run(None, toy("gated_captioner")).folder != first.folder


@pytest.mark.slow
def test_early_stopping_continues_its_count_after_a_restart(tmp_path):
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
    for _ in range(2):  # it continues, and then has ended for good
        assert len(small_run(part, callbacks=[early(), Stop()], **stopping).history["loss"]) == 4
