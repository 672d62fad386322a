"""Small runs of training, in this process and in one that is killed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from paths import SUPPORT
from toys import eager, texts, toy

from vtx_keras import data, train


def pairs(model, count: int = 12, batch_size: int = 4, **kwargs) -> data.Batches:
    pictures = np.random.default_rng(0).uniform(0, 255, (count, *model.image_shape)).astype("float32")
    return data.arrays(model, pictures, texts(count), batch_size=batch_size, shuffle=True, **kwargs)


def small_run(folder, model=None, **kwargs):
    model = eager(model or toy("gated_captioner"))
    return train.run(model, pairs(model), folder, **{"epochs": 2, "verbose": False, **kwargs})


def script(folder: Path, kill_at: int = 0, how: str = "SIGKILL", source: str = "arrays") -> subprocess.CompletedProcess:
    """A run in another process, killed after `kill_at` steps (0: never)."""
    command = [sys.executable, str(SUPPORT / "killed_run.py"), str(folder), str(kill_at), how, source]
    return subprocess.run(command, capture_output=True, text=True)


def result_of(run: subprocess.CompletedProcess) -> dict:
    """The JSON of the last line that a process wrote."""
    assert run.returncode == 0, run.stderr[-3000:]
    return json.loads(run.stdout.splitlines()[-1])
