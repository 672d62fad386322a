"""vtx: the zoo on the command line. Help and listings load neither TensorFlow nor Keras."""

from __future__ import annotations

import gc
import json
import os
import sys
from typing import Any

import click

from vtx_keras.data.cli import data
from vtx_keras.doctor import doctor
from vtx_keras.evaluate.cli import evaluate
from vtx_keras.explain.cli import explain
from vtx_keras.export.bench import bench
from vtx_keras.export.cli import export
from vtx_keras.predict.cli import predict
from vtx_keras.train.cli import train


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="vtx_keras")
def main() -> None:
    """A Keras model zoo for seeing and reading at once.

    Exit codes: 0 all went well, 1 some pictures failed (the others were done), 2 nothing could be done.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    gc.set_threshold(10_000, 20, 50)  # what TensorFlow brings stays: it need not be searched for garbage so often


for command in (predict, data, train, evaluate, explain, export, bench, doctor):
    main.add_command(command)


@main.command("list")
@click.argument("pattern", default="*")
@click.option("--released", is_flag=True, help="Only models that come with weights.")
@click.option("--json", "as_json", is_flag=True, help="A JSON list.")
def list_command(pattern: str, released: bool, as_json: bool) -> None:
    """Name the models that match PATTERN, and what is released: size, data, a figure on held-out data, licence."""
    from vtx_keras import table, tables, weights

    names = table.list_models(pattern, released=True if released else None)
    rows: list[dict[str, Any]] = [{"name": name, "released": weights.released_tags(name)} for name in names]
    if as_json:
        for row in rows:
            row["facts"] = {tag: table.facts(row["name"], tag) for tag in row["released"]}
        click.echo(json.dumps(rows, indent=1))
    elif names:
        tables.show(
            ["model", "task", "weights", "size", "data", "on held-out data", "licence"],
            [
                [row["name"], table.MODELS[row["name"]].task, *cells]
                for row in rows
                for cells in [_fact(tag, table.facts(row["name"], tag)) for tag in row["released"]] or [[""] * 5]
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


@main.command()
@click.argument("model")
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
def show(model: str, as_json: bool) -> None:
    """Describe MODEL: what it does, its options, and the cards of its released weights."""
    from vtx_keras import table, weights

    try:
        about = table.describe(model)
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
        card = weights.released_root() / model / tag / "README.md"
        click.echo("\n" + (card.read_text(encoding="utf-8") if card.is_file() else f"{tag} has no card"))


if __name__ == "__main__":
    main()
