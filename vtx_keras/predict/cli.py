"""The command `vtx predict`."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

import click

from vtx_keras.polite import polite, quiet

AT_ONCE = 32  # pictures in memory
FORMS = (".html", ".json", ".csv", ".txt")


def _form(context: click.Context, option: click.Parameter, path: Path | None) -> Path | None:
    if path is not None and path.suffix.lower() not in FORMS:
        raise click.BadParameter(f"{path}: expected a name that ends in {', '.join(FORMS)}")
    return path


@click.command()
@click.argument("model")
@click.argument("pictures", nargs=-1, required=True)
@click.option("--weights", default="default", help="A released tag, or a weights folder.", show_default=True)
@click.option("--text", "question", help="The question, label text or candidate text, for models that read one.")
@click.option("--prompt", help="How the caption begins.")
@click.option("--beams", type=click.IntRange(1), default=1, show_default=True)
@click.option("--max-length", type=click.IntRange(1), help="Most tokens to write.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), callback=_form,
    help="Write a contact sheet (.html), .json, .csv or .txt there instead.",
)  # fmt: skip
def predict(
    model: str,
    pictures: tuple[str, ...],
    weights: str,
    question: str | None,
    prompt: str | None,
    beams: int,
    max_length: int | None,
    as_json: bool,
    out: Path | None,
) -> None:
    """Caption PICTURES (or answer --text about them) with MODEL, a name of the zoo or a saved model.

    PICTURES are files, folders, patterns, http(s) addresses, or - for standard input. What cannot be read is reported,
    and the others are done.

    \b
    vtx predict cross_attn_captioner photo.png
    vtx predict runs/mine.keras holiday "*.jpg" --beams 4 --out holiday.html
    curl -s https://example.org/a.png | vtx predict cross_attn_captioner -
    """
    with polite():
        with quiet():
            from keras import ops

            from vtx_keras import zoo
            from vtx_keras.predict.sources import sources
            from vtx_keras.vision_text import FEW, soon_seen

            ops.zeros(1)  # looks for a GPU
        network = zoo.named(model, weights)
        say = speaker(network, model, question, {"prompt": prompt, "beams": beams, "max_length": max_length})
        found = sources(pictures, clips=len(network.image_shape) == 4)
        first = list(islice(found, FEW + 1))
        network.run_eagerly = soon_seen(len(first))
        rows = said(say, chain(first, found))
        frames = network.image_shape[0] if len(network.image_shape) == 4 else 0
        failed = _write(rows, out, model, frames) if out else _print(rows, as_json)
    sys.exit(0 if not any(failed) else 2 if all(failed) else 1)


def speaker(network: Any, name: str, question: str | None, settings: dict[str, Any]) -> Callable[[list], Iterable]:
    """From pictures to what the model says of each."""
    from vtx_keras.models import Captioner, Retriever

    if isinstance(network, Captioner):
        if question is not None:
            raise ValueError(f"{name} writes captions: --text is for models that read a text; use --prompt")
        return lambda pictures: network.generate(pictures, **settings)
    if settings != {"prompt": None, "beams": 1, "max_length": None}:
        raise ValueError(f"{name} writes no captions: leave out --prompt, --beams and --max-length")
    if question is None:
        raise ValueError(f"{name} reads a text beside the picture: give it with --text")
    if isinstance(network, Retriever):
        return lambda pictures: network.similarity(pictures, [question])
    return lambda pictures: (getattr(network, "answer", None) or network.match)(pictures, question)


def said(say: Callable[[list], Iterable], found: Iterable[Any]) -> Iterator[dict[str, Any]]:
    """A row for every picture: its name and `result`, or `error`. Some are in memory at a time."""
    from vtx_keras.media import BadItems

    found = iter(found)
    while some := list(islice(found, AT_ONCE)):
        good = [one for one in some if not one.error]
        results: Iterator[dict[str, Any]] = iter(())
        if good:
            try:
                results = iter([{"result": _plain(one)} for one in say([one.picture for one in good])])
            except BadItems as error:
                told = enumerate(error.results)
                results = iter(
                    [{"error": error.errors[at]} if at in error.errors else {"result": _plain(one)} for at, one in told]
                )
        for one in some:
            name = os.fsencode(one.name).decode("utf-8", "replace")  # a file's name may be any bytes
            yield {"picture": name, "source": one.picture, **({"error": one.error} if one.error else next(results))}


def _plain(result: Any) -> Any:
    """What JSON takes: a sentence, names, or a number."""
    if isinstance(result, (str, list)):
        return result
    return float(result[0] if getattr(result, "shape", ()) else result)


def _words(result: Any) -> str:
    return ", ".join(result) if isinstance(result, list) else str(result)


def _told(row: dict) -> dict:
    """A row without the picture itself."""
    return {key: value for key, value in row.items() if key != "source"}


def _print(rows: Iterable[dict], as_json: bool) -> list[bool]:
    """Each row as it comes, named where there are several; which of them failed."""
    rows, failed = iter(rows), []
    first = list(islice(rows, 2))
    for row in chain(first, rows):
        failed.append("error" in row)
        if as_json:
            click.echo(json.dumps(_told(row), ensure_ascii=False))
        elif "error" in row:
            click.echo(f"vtx: {row['picture']}: {row['error']}", err=True)
        else:
            click.echo(_words(row["result"]) if len(first) == 1 else f"{row['picture']}\t{_words(row['result'])}")
    return failed


def _write(rows: Iterable[dict], out: Path, model: str, frames: int = 0) -> list[bool]:
    """All rows into one file, whole or not at all; which of them failed. A clip's `frames` stand side by side."""
    failed: list[bool] = []

    from vtx_keras.progress import telling
    from vtx_keras.whole import whole

    def told() -> Iterator[dict]:
        with telling("pictures") as tell:
            for row in rows:
                failed.append("error" in row)
                if "error" in row:
                    click.echo(f"vtx: {row['picture']}: {row['error']}", err=True)
                tell(len(failed))
                yield row

    if out.suffix.lower() == ".html":
        from vtx_keras import media, pages

        def shown(row: dict) -> list:
            if row["source"] is None:
                return []
            return list(media.read_clip(row["source"], frames)) if frames and "result" in row else [row["source"]]

        cards = (
            pages.Card(
                shown(row),
                [(row["picture"], _words(row["result"]) if "result" in row else row["error"])],
            )
            for row in told()
        )
        pages.write(out, model, [("", cards)])
    else:
        with whole(out) as part:
            part.write_text(_as_text([_told(row) for row in told()], out.suffix.lower()), encoding="utf-8")
    click.echo(str(out))
    return failed


def _as_text(rows: list[dict], form: str) -> str:
    if form == ".json":
        return json.dumps(rows, indent=1, ensure_ascii=False) + "\n"
    if form == ".csv":
        file = io.StringIO()
        table = csv.writer(file)
        table.writerow(["picture", "result", "error"])
        table.writerows([row["picture"], _words(row.get("result", "")), row.get("error", "")] for row in rows)
        return file.getvalue()
    return "".join(f"{row['picture']}\t{_words(row['result'])}\n" for row in rows if "result" in row)
