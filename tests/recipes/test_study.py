"""A study on the sample: trials are kept when it is killed, features are made once, the best command repeats."""

from __future__ import annotations

import argparse
import csv
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import pytest
from paths import ROOT
from toys import vtx

from recipes import study

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="the recipes read tf.data")
SMALL = ("--encoder", "mobilenet_v2_emoji", "--epochs", "2", "--fusions", "concat_mlp", "gated", "--dims", "32")


def trials_of(folder: Path) -> list[dict]:
    with open(folder / "trials.csv", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def process(folder: Path, trials: int) -> subprocess.Popen:
    words = [sys.executable, "-m", "recipes.study", *SMALL, "--trials", str(trials), "--out", str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(words, cwd=folder.parent, env=environment, stdout=subprocess.PIPE, text=True)


def test_the_best_command_is_one_that_vtx_train_takes():
    args = argparse.Namespace(data="sample", encoder="mobilenet_v2_emoji", side=97, epochs=1, batch_size=16, seed=0)
    row = {"fusion": "gated", "dim": 32, "dropout": 0.1, "learning_rate": 0.002}
    words = shlex.split(study.command(row, args))
    run = vtx(*words[1:], "--help")
    assert run.exit_code == 0, run.output
    known = {word for word in run.output.replace(",", " ").split() if word.startswith("--")}
    assert {word for word in words if word.startswith("--")} <= known


def test_a_folder_of_another_study_is_refused(tmp_path):
    args = argparse.Namespace(epochs=2, trials=3, out=tmp_path / "study")
    study.same_as_before(args)
    args.trials = 9  # more trials are the same study
    study.same_as_before(args)
    args.epochs = 3
    with pytest.raises(SystemExit, match="epochs=2: use these settings, or another --out"):
        study.same_as_before(args)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["SIGKILL", "SIGTERM"])
def test_a_stopped_study_keeps_its_trials_and_its_best_command_repeats_the_best(how, tmp_path):
    pytest.importorskip("keras_tuner", reason="keras-tuner is not installed, so no study was run: pip install .[study]")
    folder = tmp_path / "study"
    first = process(folder, 3)
    begun = time.monotonic()
    while not (folder / "trials.csv").is_file() and time.monotonic() - begun < 300 and first.poll() is None:
        time.sleep(0.2)
    begun = time.monotonic()
    while not list(folder.glob("1/states/*")) and time.monotonic() - begun < 300 and first.poll() is None:
        time.sleep(0.05)
    os.kill(first.pid, getattr(signal, how))  # in the second trial
    first.wait()
    (kept,) = trials_of(folder)
    stopped = folder / "1" / "run.json"
    stopped.write_text(json.dumps({**json.loads(stopped.read_text()), "command": "the first"}))
    record = folder / kept["trial"] / "run.json"
    before = record.read_bytes(), record.stat().st_mtime_ns
    again = process(folder, 3)
    output, _ = again.communicate(timeout=300)
    assert again.returncode == 0, output[-3000:]
    assert (record.read_bytes(), record.stat().st_mtime_ns) == before
    rows = trials_of(folder)
    assert kept in rows
    assert len({row["trial"] for row in rows}) == 3
    assert rows == sorted(rows, key=lambda row: float(row["val_loss"]))
    after = json.loads(stopped.read_text())
    assert (after["command"], after["state"]) == ("the first", "finished")  # it went on; a new run records its own
    assert output.count("features of 198 pictures: 198 read, 0 made") == 2  # by trials after the restart

    words = shlex.split(output.splitlines()[-1])
    run = vtx(*words[1:], "--out", str(tmp_path / "again"))
    assert run.exit_code == 0, run.output
    with open(tmp_path / "again" / "results.csv", encoding="utf-8") as file:
        losses = [float(row["val_loss"]) for row in csv.DictReader(file)]
    assert min(losses) == pytest.approx(float(rows[0]["val_loss"]), abs=0.02)
    assert json.loads((tmp_path / "again" / "run.json").read_text())["state"] == "finished"
