"""The command vtx search: a folder of pictures, found by words, by a picture, or by both."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import click

from vtx_keras.cli._console import quiet, reporting_errors, show_rows
from vtx_keras.cli._predict import check_suffix

USUAL: dict[str, Any] = {"prompt": None, "beams": 1, "max_length": None}  # what a captioner's file would be made with


@click.command()
@click.argument("pictures", type=click.Path(path_type=Path))
@click.argument("query", required=False)
@click.option("--like", type=click.Path(path_type=Path), help="A picture that the found ones should be like.")
@click.option("--model", default="retriever", show_default=True, help="A name of the zoo, or a saved retriever.")
@click.option("--weights", default="default", show_default=True, help="A released tag, or a weights folder.")
@click.option("--runtime", type=click.Choice(["keras", "litert"]), help="What computes, as for vtx predict.")
@click.option("-k", "--count", type=click.IntRange(1), default=10, show_default=True, help="Pictures to find.")
@click.option("--index", type=click.Path(path_type=Path), help="Folder of the index [default: one in the cache].")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), callback=check_suffix((".html",)), help="Write a contact sheet."
)
def search(
    pictures: Path,
    query: str | None,
    like: Path | None,
    model: str,
    weights: str,
    runtime: str | None,
    count: int,
    index: Path | None,
    as_json: bool,
    out: Path | None,
) -> None:
    """Search a folder of pictures by words, by a picture, or by both.

    PICTURES is a folder, read with the folders in it; QUERY is what to find, in words. The first search reads all
    pictures; later ones read only what is new or changed. Without QUERY and --like, pictures are only indexed. Pictures
    that show nearly the same stand behind the best of them.

    \b
    vtx search holiday "two dogs in the snow"
    vtx search holiday --like dog.jpg --out dogs.html
    vtx search holiday "on a beach" --like dog.jpg
    """
    with reporting_errors():
        from vtx_keras.search import Index

        if not pictures.is_dir():
            raise ValueError(f"{pictures} is no folder: expected one with pictures")
        towers = _towers(model, weights, runtime)
        found = Index(index or _place(pictures, towers.name), towers)
        counts = found.update(pictures)
        told = f"{counts['pictures']:,} pictures in {found.folder}: {counts['new']:,} new, {counts['gone']:,} gone"
        unreadable = f", {counts['unreadable']:,} cannot be read" if counts["unreadable"] else ""
        click.echo(f"vtx: {told}{unreadable}", err=True)
        if not counts["pictures"]:
            raise ValueError(f"{pictures} holds no picture that can be read")
        hits = found.find(query, like=like, count=count) if query or like else []
    if out:
        _sheet(out, query, like, hits)
        click.echo(str(out))
    elif as_json:
        for hit in hits:
            click.echo(json.dumps({"picture": hit.path, "score": hit.score, "alike": hit.alike}, ensure_ascii=False))
    else:
        rows = [(f"{hit.score:.3f}", hit.path + (f" (+{len(hit.alike)})" if hit.alike else "")) for hit in hits]
        if rows:
            show_rows(("score", "picture"), rows)
    sys.exit(0)


def _towers(model: str, weights: str, runtime: str | None) -> Any:
    """Return the towers of a retriever, by a file of it if there is one; either has the same name."""
    from vtx_keras import search
    from vtx_keras.cli._runtime import named, towers, wanted

    light = wanted(model, weights, USUAL, runtime)
    name = named(model, weights)
    if light:
        return towers(light, name)
    with quiet():
        from keras import ops

        from vtx_keras import zoo

        ops.zeros(1)  # initialises the devices, which logs
    of = search.towers(zoo.named(model, weights))
    return of._replace(name=name) if name else of


def _place(pictures: Path, name: str) -> Path:
    """Return where the index of a folder is kept, one for each model."""
    from vtx_keras._files import cache

    key = hashlib.sha256(f"{pictures.resolve()} {name}".encode()).hexdigest()[:16]
    return cache() / "indexes" / f"{pictures.resolve().name}-{key}"


def _sheet(out: Path, query: str | None, like: Path | None, hits: list) -> None:
    from vtx_keras.evaluate import _pages as pages

    asked = [pages.Card([like], [("like", str(like))])] if like else []
    cards = [
        pages.Card([Path(hit.path)], [(f"{hit.score:.3f}", hit.path), *(("nearly the same", one) for one in hit.alike)])
        for hit in hits
    ]
    pages.write_page(out, query or f"like {like}", [*([("Asked", asked)] if asked else []), ("Found", cards)])
