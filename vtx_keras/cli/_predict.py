"""vtx predict and vtx explain: what a model says of pictures, and where it looked."""

from __future__ import annotations

import csv
import glob
import http.client
import io
import json
import os
import re
import sys
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import click

from vtx_keras.cli._console import polite, quiet

MOST_BYTES = 64_000_000  # of a picture that is fetched or piped
SECONDS = 30  # to wait for a server


class Source(NamedTuple):
    """A picture's name and where it is: a path, its bytes, or None and what was wrong."""

    name: str
    picture: Any
    error: str = ""


def sources(given: Sequence[str], *, clips: bool = False) -> Iterator[Source]:
    """What each of `given` means, one after another; an address is fetched when its turn comes.

    A folder means the pictures in it, or with `clips` one clip whose frames they are. A pattern is expanded where the
    shell did not. "-" is one picture on standard input.

    >>> [source.error for source in sources(["nowhere/*.png"])]
    ['the pattern matches nothing']
    """
    for one in given:
        if one == "-":
            yield _held("-", _piped)
        elif re.match(r"https?://", one):
            yield _held(one, lambda one=one: _fetched(one))
        elif Path(one).is_dir() and not clips:
            yield from _in_folder(Path(one))
        elif not Path(one).exists() and glob.has_magic(one):
            found = sorted(glob.glob(one, recursive=True))
            yield from (Source(path, Path(path)) for path in found if clips or not Path(path).is_dir())
            if not found:
                yield Source(one, None, "the pattern matches nothing")
        else:
            yield Source(one, Path(one))


def _in_folder(folder: Path) -> Iterator[Source]:
    from vtx_keras.inputs import media

    visible = (path for path in sorted(folder.iterdir()) if not path.name.startswith("."))
    found = [path for path in visible if path.suffix.lower() in media.SUFFIXES]
    yield from (Source(str(path), path) for path in found)
    if not found:
        yield Source(str(folder), None, f"the folder holds no picture ({', '.join(media.SUFFIXES)})")


def _held(name: str, read: Any) -> Source:
    try:
        data = read()
    except (OSError, ValueError, http.client.HTTPException) as error:  # no network, no such page, no such host
        return Source(name, None, f"could not be fetched: {error}")
    if len(data) > MOST_BYTES:
        return Source(name, None, f"more than {MOST_BYTES // 1_000_000} MB: fetch it and make it smaller")
    return Source(name, data) if data else Source(name, None, "nothing came")


def _piped() -> bytes:
    if sys.stdin is None:
        raise OSError("standard input is closed")
    return sys.stdin.buffer.read(MOST_BYTES + 1)


def _fetched(address: str) -> bytes:
    address = urllib.parse.quote(address, safe="%/:=&?~#+!$,;'@()*[]")  # as people write them, with spaces and accents
    request = urllib.request.Request(address, headers={"User-Agent": "vtx"})
    with urllib.request.urlopen(request, timeout=SECONDS) as answer:
        return answer.read(MOST_BYTES + 1)


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
            from vtx_keras.models._base import FEW, soon_seen

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
    from vtx_keras.models._captioner import Captioner
    from vtx_keras.models._readers import Retriever

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
    from vtx_keras.inputs.media import BadItems

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

    from vtx_keras._files import progress, whole

    def told() -> Iterator[dict]:
        with progress("pictures") as tell:
            for row in rows:
                failed.append("error" in row)
                if "error" in row:
                    click.echo(f"vtx: {row['picture']}: {row['error']}", err=True)
                tell(len(failed))
                yield row

    if out.suffix.lower() == ".html":
        from vtx_keras.evaluate import _report as pages
        from vtx_keras.inputs import media

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
        pages.write_page(out, model, [("", cards)])
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


@click.command()
@click.argument("model")
@click.argument("picture", type=click.Path(path_type=Path))
@click.option("--text", help="The question or candidate text; for a captioner, a caption in place of its own.")
@click.option("--word", "words", multiple=True, help="Draw this word only; may be given several times.")
@click.option("--method", type=click.Choice(["attention", "gradcam"]), help="[default: attention where there is any]")
@click.option("--block", help='One block of the fusion by number, or "rollout" [default: the mean of all].')
@click.option("--target", help="Grad-CAM: the class to ask about [default: the likeliest].")
@click.option("--weights", default="default", help="A released tag, or a weights folder.", show_default=True)
@click.option("-o", "--out", type=click.Path(path_type=Path), default="maps.png", show_default=True)
def explain(
    model: str,
    picture: Path,
    text: str | None,
    words: tuple[str, ...],
    method: str | None,
    block: str | None,
    target: str | None,
    weights: str,
    out: Path,
) -> None:
    """Draw where MODEL, a name of the zoo or a saved model, looks in PICTURE: a heat map for each word.

    \b
    vtx explain cross_attn_captioner photo.png --out maps.png
    vtx explain runs/mine photo.png --text "what colour is the cat?" --word cat
    """
    if out.suffix.lower() != ".png":
        raise click.BadParameter(f"{out}: expected a name that ends in .png", param_hint="--out")
    with polite():
        with quiet():
            from keras import ops

            from vtx_keras import zoo
            from vtx_keras.explain._maps import attention
            from vtx_keras.inputs import media

            ops.zeros(1)  # looks for a GPU
        network = zoo.named(model, weights)
        which = int(block) if block is not None and block.lstrip("-").isdigit() else block
        try:
            seen = attention(network, picture, text, method=method, block=which, target=target)
        except media.BadItems as error:
            raise ValueError(f"{picture}: {error.errors[0]}") from error
        assert not isinstance(seen, list)  # it was one picture
        path = seen.save(out, list(words) or None)
    click.echo(f"{seen.said}\n{path}")
