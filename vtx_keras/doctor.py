"""vtx doctor: what is installed, what runs where, and what is missing for what."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click

from vtx_keras.polite import quiet

NEEDED_FOR = {  # packages that are not required, and what asks for them
    "ai-edge-litert": 'exporting to LiteRT: pip install "vtx_keras[export]"',
    "onnxruntime": 'exporting to ONNX: pip install "vtx_keras[export]"',
    "resvg-py": 'vtx data build emoji and emoji_more: pip install "vtx_keras[data]"',
    "jax": 'KERAS_BACKEND=jax: pip install "vtx_keras[jax]"',
    "tensorboard": "vtx train --tensorboard: pip install tensorboard",
}
CLIENTS = {
    "npm": "emoji, emoji_more, emoji_video, resnet50",
    "pip": "easy_vqa, encoders",
    "apt-get": "word_cards",
    "java": "METEOR and SPICE",
}


class Finding(NamedTuple):
    """One line: `state` is "ok", "missing" (something optional) or "wrong" (must be mended)."""

    part: str
    what: str
    state: str
    advice: str = ""


def findings() -> list[Finding]:
    """All there is to say, in the order people ask.

    >>> {finding.state for finding in findings()} <= {"ok", "missing", "wrong"}
    True
    """
    return [*_python(), *_packages(), *_backend(), *_folders(), *_clients(), *_models()]


def _python() -> Iterator[Finding]:
    good = (3, 11) <= sys.version_info[:2] <= (3, 13)
    yield Finding(
        "python", platform.python_version(), "ok" if good else "wrong", "" if good else "3.11 to 3.13 is tested"
    )


def _packages() -> Iterator[Finding]:
    from packaging.requirements import Requirement

    for line in importlib.metadata.requires("vtx_keras") or []:
        needed = Requirement(line)
        if needed.marker is None or needed.marker.evaluate({"extra": ""}):
            found = _version(needed.name)
            good = found is not None and needed.specifier.contains(found, prereleases=True)
            advice = "" if good else f"pip install {str(needed)!r}"
            yield Finding(needed.name, found or "not installed", "ok" if good else "wrong", advice)
    for name, use in NEEDED_FOR.items():
        found = _version(name)
        yield Finding(name, found or "not installed", "ok" if found else "missing", "" if found else f"for {use}")


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _backend() -> Iterator[Finding]:
    try:
        import keras

        name = keras.backend.backend()
        devices = keras.distribution.list_devices()
    except Exception as error:  # whatever ails an installation
        yield Finding("backend", type(error).__name__, "wrong", str(error).splitlines()[0] if str(error) else "")
        return
    good = name in ("tensorflow", "jax")
    yield Finding("backend", name, "ok" if good else "wrong", "" if good else "KERAS_BACKEND=tensorflow or jax")
    yield Finding("devices", ", ".join(map(str, devices)), "ok")
    if not any("gpu" in str(device).lower() or "tpu" in str(device).lower() for device in devices):
        yield Finding("accelerator", "none seen", "missing", "for fast training: see docs/accelerators.md")


def _folders() -> Iterator[Finding]:
    from vtx_keras import published
    from vtx_keras.data import sets

    for part, folder, variable in (
        ("data sets", sets.data_dir(), "TFDS_DATA_DIR"),
        ("encoders", published.cache(), "VTX_KERAS_CACHE"),
        ("keras files", Path(os.environ.get("KERAS_HOME") or "~/.keras").expanduser(), "KERAS_HOME"),
    ):
        there = next(parent for parent in (folder, *folder.parents) if parent.exists())
        free = shutil.disk_usage(there).free / 1e9
        writable = os.access(there, os.W_OK)
        advice = "" if writable else f"cannot be written: set {variable}, where something is to be kept there"
        yield Finding(part, f"{folder} ({free:.0f} GB free)", "ok" if writable else "missing", advice)


def _clients() -> Iterator[Finding]:
    for client, use in CLIENTS.items():
        found = shutil.which(client)
        yield Finding(client, found or "not found", "ok" if found else "missing", "" if found else f"for {use}")


def _models() -> Iterator[Finding]:
    from vtx_keras import table, weights

    try:
        from vtx_keras.zoo import kept_encoder
    except Exception:  # Keras itself is ailing, which is told above
        return
    for name in table.list_models(released=True):
        for tag in weights.released_tags(name):
            try:
                kept_encoder(weights.read_config(weights.find(name, tag, None)))
            except weights.BadWeights as error:
                yield Finding(f"{name}/{tag}", "damaged", "wrong", str(error))
            else:
                yield Finding(f"{name}/{tag}", "whole", "ok")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="A JSON list.")
def doctor(as_json: bool) -> None:
    """Say what is installed, what runs where, and what is missing for what.

    Exit codes: 0 nothing is wrong (something optional may be missing), 1 something must be mended.
    """
    from vtx_keras import tables

    with quiet():
        found: list[Any] = findings()
    if as_json:
        click.echo(json.dumps([one._asdict() for one in found], indent=1))
    else:
        rows = [[one.state, one.part, one.what, one.advice] for one in found]
        tables.show(["state", "what", "found", "advice"], rows)
    sys.exit(any(one.state == "wrong" for one in found))
