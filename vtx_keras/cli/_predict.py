"""The commands vtx predict and vtx chat: run a model on images, ask about one."""

from __future__ import annotations

import csv
import glob
import io
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import click

from vtx_keras.batch._run import RUNNERS
from vtx_keras.batch._work import outcomes
from vtx_keras.cli._console import quiet, reporting_errors

MOST_BYTES = 64_000_000  # largest image that is fetched or piped
SECONDS = 30  # to wait for a server


class Source(NamedTuple):
    """An image's name and its path or bytes, or None and an error."""

    name: str
    picture: Any
    error: str = ""


def sources(given: Sequence[str], *, clips: bool = False, recursive: bool = False) -> Iterator[Source]:
    """Yield the images that command-line arguments name; each address is fetched when its turn comes.

    A folder stands for the images in it, with `recursive` also for those in its folders, or with `clips` for one clip
    with them as frames. A pattern is expanded if the shell did not do it. "-" is one image on standard input.

    >>> [source.error for source in sources(["nowhere/*.png"])]
    ['the pattern matches nothing']
    """
    for argument in given:
        if argument == "-":
            yield _read_source("-", _read_stdin)
        elif re.match(r"https?://", argument):
            yield _read_source(argument, lambda argument=argument: _download(argument))
        elif Path(argument).is_dir() and not clips:
            yield from _in_folder(Path(argument), recursive)
        elif not Path(argument).exists() and glob.has_magic(argument):
            paths = sorted(glob.glob(argument, recursive=True))
            yield from (Source(path, Path(path)) for path in paths if clips or not Path(path).is_dir())
            if not paths:
                yield Source(argument, None, "the pattern matches nothing")
        else:
            yield Source(argument, Path(argument))


def _in_folder(folder: Path, recursive: bool) -> Iterator[Source]:
    from vtx_keras.inputs import media

    found = folder.rglob("*") if recursive else folder.iterdir()
    visible = [path for path in sorted(found) if not any(part[0] == "." for part in path.relative_to(folder).parts)]
    paths = [path for path in visible if path.suffix.lower() in media.SUFFIXES and not path.is_dir()]
    if inner := 0 if recursive else sum(path.is_dir() for path in visible):
        click.echo(f"vtx: {folder}: the folders in it ({inner}) are not read: add --recursive", err=True)
    yield from (Source(str(path), path) for path in paths)
    if not paths:
        yield Source(str(folder), None, f"the folder holds no picture ({', '.join(media.SUFFIXES)})")


def _read_source(name: str, read: Any) -> Source:
    from http.client import HTTPException

    try:
        data = read()
    except (OSError, ValueError, HTTPException) as error:  # no network, host or page
        return Source(name, None, f"could not be fetched: {error}")
    if len(data) > MOST_BYTES:
        return Source(name, None, f"more than {MOST_BYTES // 1_000_000} MB: fetch it and make it smaller")
    return Source(name, data) if data else Source(name, None, "no data received")


def _read_stdin() -> bytes:
    if sys.stdin is None:
        raise OSError("standard input is closed")
    return sys.stdin.buffer.read(MOST_BYTES + 1)


def _download(address: str) -> bytes:
    import urllib.parse
    import urllib.request  # slow to load

    address = urllib.parse.quote(address, safe="%/:=&?~#+!$,;'@()*[]")  # spaces and accents are allowed
    request = urllib.request.Request(address, headers={"User-Agent": "vtx"})
    until, data = time.monotonic() + SECONDS, b""
    with urllib.request.urlopen(request, timeout=SECONDS) as answer:
        while len(data) <= MOST_BYTES and (part := answer.read1(1 << 20)):  # a server may send a byte at a time
            data += part
            if time.monotonic() > until:
                raise OSError(f"{len(data):,d} bytes came in {SECONDS} s: fetch it, and give the file")
    return data


AT_ONCE = 32  # images in memory
FORMS = (".html", ".json", ".csv", ".txt")


def check_suffix(forms: Sequence[str]) -> Callable[[click.Context, click.Parameter | None, Path | None], Path | None]:
    """Return a callback that refuses a path without one of these suffixes."""

    def check(context: click.Context, option: click.Parameter | None, path: Path | None) -> Path | None:
        del context, option
        if path is not None and path.suffix.lower() not in forms:
            raise click.BadParameter(f"{path}: expected a name that ends in {', '.join(forms)}")
        return path

    return check


@click.command()
@click.argument("model")
@click.argument("pictures", nargs=-1, required=True)
@click.option("--weights", default="default", help="A released tag, or a weights folder.", show_default=True)
@click.option("--text", "question", help="Question or candidate text, for models that read one.")
@click.option("--prompt", help="Start of the caption.")
@click.option("--beams", type=click.IntRange(1), default=1, show_default=True)
@click.option("--max-length", type=click.IntRange(1), help="Most tokens per caption.")
@click.option("-r", "--recursive", is_flag=True, help="Read the folders in a folder, too.")
@click.option(
    "--runtime", type=click.Choice(["keras", "litert", "onnx"]),
    help="What computes; litert and onnx make a file once, which starts at once [default: such a file, else keras].",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")
@click.option(
    "-o", "--out", type=click.Path(path_type=Path),
    help="Write a contact sheet (.html), .json, .csv or .txt instead; with --runner, a folder.",
)  # fmt: skip
@click.option("--runner", type=click.Choice(RUNNERS), help="Write a folder in parts, which goes on where it stopped.")
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Processes, with --runner.")
@click.option("--parquet", is_flag=True, help="Write Parquet, with --runner, instead of JSON lines.")
@click.option("--runner-option", "options", multiple=True, help="Passed to the runner, such as --flink_master=HOST.")
def predict(
    model: str,
    pictures: tuple[str, ...],
    weights: str,
    question: str | None,
    prompt: str | None,
    beams: int,
    max_length: int | None,
    recursive: bool,
    runtime: str | None,
    as_json: bool,
    out: Path | None,
    runner: str | None,
    workers: int,
    parquet: bool,
    options: tuple[str, ...],
) -> None:
    """Caption pictures, or answer a question about them (--text).

    MODEL is a name of the zoo, a saved model, or an exported .tflite or .onnx file. PICTURES are files, folders,
    patterns, http(s) addresses, or - for standard input. Pictures that cannot be read are reported, and the others are
    processed.

    --runner is for many pictures: "here" works in processes of this machine, "direct", "flink" and so on are runners of
    Apache Beam. A folder stands for the pictures in it and in its folders. A retriever without --text gives vectors.

    \b
    vtx predict cross_attn_captioner photo.png
    vtx predict runs/mine.keras holiday "*.jpg" --beams 4 --out holiday.html
    vtx predict cross_attn_captioner holiday --runtime litert
    vtx predict cross_attn_captioner "photos/**/*.jpg" --runner here --workers 4 --out captions
    curl -s https://example.org/a.png | vtx predict cross_attn_captioner -
    """
    with reporting_errors():
        from vtx_keras.cli._runtime import SUFFIXES, wanted, work_of
        from vtx_keras.cli._runtime import runner as light_runner

        settings = {"prompt": prompt, "beams": beams, "max_length": max_length}
        named = Path(model).suffix.lower() in SUFFIXES
        # A file that happens to be kept answers one call, but not a run that goes on tomorrow, or elsewhere.
        light = wanted(model, weights, settings, runtime or ("keras" if runner and not named else None))
        if runner:
            if as_json or (out and out.suffix.lower() in FORMS):
                raise ValueError(
                    "--runner writes JSON lines or Parquet to a folder: leave out --json, and the suffix of --out"
                )
            how = {"runner": runner, "workers": workers, "form": "parquet" if parquet else "jsonl", "options": options}
            sys.exit(_many(work_of(light, model, weights, question, settings), pictures, out, how))
        if parquet or options or workers > 1:
            raise ValueError("--workers, --parquet and --runner-option go with --runner")
        check_suffix(FORMS)(click.get_current_context(), None, out)
        if light:
            run, shape = light_runner(light, question), light.shape
            inputs = sources(pictures, clips=len(shape) == 4, recursive=recursive)
        else:
            run, shape, inputs = _by_keras(model, weights, question, settings, pictures, recursive)
        rows = predictions(run, inputs)
        failed = _write(rows, out, model, shape[0] if len(shape) == 4 else 0) if out else _print(rows, as_json)
    sys.exit(0 if not any(failed) else 2 if all(failed) else 1)


def _many(work: Any, pictures: tuple[str, ...], out: Path | None, how: dict[str, Any]) -> int:
    """Work on pictures in parts, say how it went, and return the exit code."""
    from vtx_keras import batch

    if out is None:
        raise ValueError("--runner writes a folder: say which with --out")
    start = time.monotonic()
    done = batch.run(work, pictures, out, **how)
    took = time.monotonic() - start
    rate = f", {done['new'] / took:.1f} a second" if done["new"] else ""
    click.echo(f"vtx: {done['pictures']:,} pictures in {out}: {done['new']:,} new{rate}; {done['bad']:,} bad", err=True)
    click.echo(str(out))
    return 0 if not done["bad"] else 2 if done["bad"] == done["pictures"] else 1


def _by_keras(
    model: str,
    weights: str,
    question: str | None,
    settings: dict[str, Any],
    pictures: tuple[str, ...],
    recursive: bool,
) -> tuple[Callable[[list], Iterable], tuple[int, ...], Iterator[Source]]:
    """Return a model's runner, the shape of its pictures, and the pictures."""
    with quiet():
        from keras import ops

        from vtx_keras import zoo
        from vtx_keras.cli._runtime import answering
        from vtx_keras.models._base import EAGER_IMAGES, eager_is_faster

        ops.zeros(1)  # initialises the devices, which logs
    network = zoo.named(model, weights)
    run = answering(network, model, question, settings)
    inputs = sources(pictures, clips=len(network.image_shape) == 4, recursive=recursive)
    first = list(islice(inputs, EAGER_IMAGES + 1))
    network.run_eagerly = eager_is_faster(len(first))
    return run, network.image_shape, chain(first, inputs)


def predictions(run: Callable[[list], Iterable], inputs: Iterable[Source]) -> Iterator[dict[str, Any]]:
    """Yield a row for every image: its name, and `result` or `error`. AT_ONCE images are in memory at a time."""
    inputs = iter(inputs)
    while chunk := list(islice(inputs, AT_ONCE)):
        results = iter(outcomes(run, [source.picture for source in chunk if not source.error]))
        for source in chunk:
            name = os.fsencode(source.name).decode("utf-8", "replace")  # a file name may contain any bytes
            yield {
                "picture": name,
                "source": source.picture,
                **({"error": source.error} if source.error else next(results)),
            }


def as_words(result: Any) -> str:
    """Format a result as text."""
    return ", ".join(result) if isinstance(result, list) else str(result)


def _without_source(row: dict) -> dict:
    """Return a row without the image."""
    return {key: value for key, value in row.items() if key != "source"}


def _print(rows: Iterable[dict], as_json: bool) -> list[bool]:
    """Print each row at once, named if there are several; return which of them failed."""
    rows, failed = iter(rows), []
    first = list(islice(rows, 2))
    for row in chain(first, rows):
        failed.append("error" in row)
        if as_json:
            click.echo(json.dumps(_without_source(row), ensure_ascii=False))
        elif "error" in row:
            click.echo(f"vtx: {row['picture']}: {row['error']}", err=True)
        else:
            click.echo(as_words(row["result"]) if len(first) == 1 else f"{row['picture']}\t{as_words(row['result'])}")
    return failed


def _write(rows: Iterable[dict], out: Path, model: str, frames: int = 0) -> list[bool]:
    """Write all rows to one file atomically, a clip as `frames` images; return which rows failed."""
    failed: list[bool] = []

    from vtx_keras._files import progress, whole

    def reported() -> Iterator[dict]:
        with progress("pictures") as update:
            for row in rows:
                failed.append("error" in row)
                if "error" in row:
                    click.echo(f"vtx: {row['picture']}: {row['error']}", err=True)
                update(len(failed))
                yield row

    if out.suffix.lower() == ".html":
        from vtx_keras.evaluate import _pages as pages
        from vtx_keras.inputs import media

        def images_of(row: dict) -> list:
            if row["source"] is None:
                return []
            return list(media.read_clip(row["source"], frames)) if frames and "result" in row else [row["source"]]

        cards = (
            pages.Card(
                images_of(row),
                [(row["picture"], as_words(row["result"]) if "result" in row else row["error"])],
            )
            for row in reported()
        )
        pages.write_page(out, model, [("", cards)])
    else:
        with whole(out) as part:
            part.write_text(
                _as_text([_without_source(row) for row in reported()], out.suffix.lower()), encoding="utf-8"
            )
    click.echo(str(out))
    return failed


def _as_text(rows: list[dict], form: str) -> str:
    """Format rows as JSON, CSV or plain text."""
    if form == ".json":
        return json.dumps(rows, indent=1, ensure_ascii=False) + "\n"
    if form == ".csv":
        file = io.StringIO()
        table = csv.writer(file)
        table.writerow(["picture", "result", "error"])
        table.writerows([row["picture"], as_words(row.get("result", "")), row.get("error", "")] for row in rows)
        return file.getvalue()
    return "".join(f"{row['picture']}\t{as_words(row['result'])}\n" for row in rows if "result" in row)


@click.command()
@click.argument("model")
@click.argument("picture", type=click.Path(path_type=Path))
@click.option("--weights", default="default", help="A released tag, or a weights folder.", show_default=True)
@click.option("--system", help="What the model is told before the conversation.")
@click.option("--max-length", type=click.IntRange(1), default=128, show_default=True, help="Most tokens per answer.")
def chat(model: str, picture: Path, weights: str, system: str | None, max_length: int) -> None:
    """Ask about a picture, question by question; an empty line ends it.

    MODEL is a saved captioner with a language model, or a name of the zoo. Questions may come through a pipe, too.

    \b
    vtx chat runs/mine photo.png
    echo "What is it?" | vtx chat runs/mine photo.png
    """
    with reporting_errors():
        with quiet():
            from keras import ops

            from vtx_keras import zoo
            from vtx_keras.models._methods import Captioner

            ops.zeros(1)  # initialises the devices, which logs
        network = zoo.named(model, weights)
        if not isinstance(network, Captioner):
            raise ValueError(f"{model} writes no text: expected a captioner with a language model")
        talk = network.chat(picture, system)
        while (question := _question()).strip():
            try:
                for part in talk.stream(question.strip(), max_length=max_length):
                    click.echo(part, nl=False)
                click.echo()
            except ValueError as error:  # of this question; the conversation goes on
                click.echo(f"vtx: {error}", err=True)


def _question() -> str:
    """Return the next line that is typed or piped, "" at the end."""
    if sys.stdin is None:
        return ""
    if sys.stdin.isatty():
        click.echo("> ", nl=False, err=True)
    return sys.stdin.readline()
