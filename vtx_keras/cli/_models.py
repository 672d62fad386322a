"""vtx list, vtx show and vtx convert: the names of the zoo, their cards, and published encoders."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from vtx_keras.cli._console import polite, quiet, show_rows


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
@click.option("--out", help="The folder to write [default: the cache].")
@click.option("--archives", help="Where archives lie or are fetched to [default: in the cache].")
@click.option("--url", help="Where to get the archive instead of its registry.")
@click.option("--half", is_flag=True, help="Store float16, half the size.")
def convert(name: str, out: str | None, archives: str | None, url: str | None, half: bool) -> None:
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
