"""The memory that an export takes."""

from __future__ import annotations

import json
import subprocess
import sys

import keras
import pytest
from paths import ROOT

FIXED = 0.4  # GB, of converters, whatever the model


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="exports are made by TensorFlow")
@pytest.mark.parametrize("name", ["litert", "onnx"])
def test_an_export_takes_a_few_times_the_weights(name):
    pytest.importorskip("resource")
    command = [sys.executable, str(ROOT / "benchmarks/memory.py"), name, "--dim", "768", "--depth", "1", "--one"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["weights_gb"] > 0.1
    assert found["peak_gb"] - found["before_gb"] < 8 * found["weights_gb"] + FIXED, found  # it was 30 times
