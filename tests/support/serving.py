"""What the tests of servers share: programs as modules, a stand-in that serves, requests to it."""

from __future__ import annotations

import functools
import importlib.util
import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import tensorflow as tf
from paths import PROGRAMS
from toys import decisive

from vtx_keras import data
from vtx_keras.export import _saved_model as savedmodel

SERVING = PROGRAMS / "serving"
PHOTOS = sorted(Path(str(data.sample("photos/cat.jpg"))).parent.glob("*.jpg"))
loaded = functools.cache(tf.saved_model.load)  # loading takes longer than most tests


def program(path: str):
    """Import a program of export/serving."""
    spec = importlib.util.spec_from_file_location(f"serving_{Path(path).stem}", SERVING / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextmanager
def standing_in(folder: Path, name: str = "captions", **limits) -> Iterator[str]:
    """Serve a folder while the block runs; its value is the address."""
    server = program("stand_in.py").serve(folder, name, 0, **limits)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://localhost:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def asked(url: str, body: bytes | None = None) -> tuple[int, dict]:
    """Return the status and the answer, whichever it is."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body), timeout=20) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


@contextmanager
def a_captioner(folder: Path, **limits) -> Iterator[tuple]:
    """Serve a toy captioner from a folder: its value is the folder, the address and the model."""
    model = decisive("cross_attn_captioner")
    (folder / "1").mkdir(parents=True)
    savedmodel.save(model, savedmodel.signatures(model), folder / "1")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tf.saved_model, "load", loaded)
        with standing_in(folder, **limits) as url:
            yield folder, url, model
