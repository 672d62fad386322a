"""vtx: the zoo on the command line. Help and listings load neither TensorFlow nor Keras."""

from __future__ import annotations

import gc
import os

import click

from vtx_keras.cli._catalogue import convert, data, doctor, list_models, show
from vtx_keras.cli._evaluate import evaluate
from vtx_keras.cli._export import bench, export
from vtx_keras.cli._predict import explain, predict
from vtx_keras.cli._train import train

__all__ = ["main"]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="vtx_keras")
def main() -> None:
    """A Keras model zoo for seeing and reading at once.

    Exit codes: 0 all went well, 1 some pictures failed (the others were done), 2 nothing could be done.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    gc.set_threshold(10_000, 20, 50)  # the objects of TensorFlow's import stay: search them for garbage less often


for command in (predict, data, train, evaluate, explain, export, bench, doctor, list_models, show, convert):
    main.add_command(command)
