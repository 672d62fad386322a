"""The command line `vtx`. Help and listings load neither TensorFlow nor Keras."""

from __future__ import annotations

import gc
import importlib
import os
import sys

import click

from vtx_keras.cli._catalogue import data, doctor, list_models, show
from vtx_keras.cli._compress import compress
from vtx_keras.cli._console import reporting_errors
from vtx_keras.cli._demo import demo
from vtx_keras.cli._evaluate import evaluate
from vtx_keras.cli._export import bench, convert, export, push
from vtx_keras.cli._pictures import draw, explain, search
from vtx_keras.cli._predict import chat, predict
from vtx_keras.cli._train import train

__all__ = ["main"]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="vtx_keras")
@click.option("--import", "modules", multiple=True, help="Import a module of yours first, such as one with a fusion.")
def main(modules: tuple[str, ...]) -> None:
    """A Keras model zoo for seeing and reading at once.

    Exit codes: 0 success, 1 some pictures failed (the others were processed), 2 error.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with reporting_errors():
        for module in modules:
            sys.path[:0] = [] if os.getcwd() in sys.path else [os.getcwd()]  # as `python -m` has it
            importlib.import_module(module)
    gc.set_threshold(10_000, 20, 50)  # importing TensorFlow creates many lasting objects: collect garbage less often


for command in (
    predict, chat, search, demo, draw, data, train, evaluate, explain, compress, export, bench, push, doctor,
    list_models, show, convert,
):  # fmt: skip
    main.add_command(command)
