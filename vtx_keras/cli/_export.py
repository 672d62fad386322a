"""The commands vtx export, vtx bench, vtx push, vtx convert: files that are verified, timed, uploaded, fetched."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vtx_keras.cli._console import USER_ERRORS, message_of, quiet, reporting_errors

if TYPE_CHECKING:
    from vtx_keras.export import Report
    from vtx_keras.models._base import VisionText

FORMATS = ("savedmodel", "litert", "onnx")


@click.command()
@click.argument("model")
@click.option(
    "--to", "formats", default="savedmodel,litert,onnx", show_default=True, help="Formats, separated by commas."
)
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("exported"), show_default=True, help="Folder to write."
)
@click.option("--weights", default="default", show_default=True, help="A released tag, or a weights folder.")
@click.option("--quant", "quantize", help="float16, int8, (litert) int8_encoder or (onnx) int4 [default: float32].")
@click.option(
    "--form",
    type=click.Choice(["one", "split"]),
    default="one",
    show_default=True,
    help="One file for a captioner, or encoder and decoder.",
)
@click.option("--beams", type=click.IntRange(1), default=1, show_default=True)
@click.option("--max-length", type=click.IntRange(1), help="Most tokens per caption.")
@click.option("--prompt", help="Start of every caption (form one).")
@click.option("--attention", is_flag=True, help="Files also tell where each word looks (litert, onnx).")
@click.option("--verify-data", help="Data set or CSV to verify the files on [default: the bundled sample].")
@click.option("--columns", metavar="OURS=THEIRS,...", help="Column mapping: image=photo,caption=title.")
@click.option("--allow-outside", is_flag=True, help="Read pictures outside the folder of a table, too.")
@click.option("--folder", type=click.Path(path_type=Path), help="Folder of data sets, as for vtx data.")
@click.option("--verify-split", help="Split of --verify-data [default: test; all rows of a CSV].")
@click.option("--share", type=click.FloatRange(0, 1), help="Share of the results that must be identical.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def export(
    model: str,
    formats: str,
    out: Path,
    weights: str,
    quantize: str | None,
    form: str,
    beams: int,
    max_length: int | None,
    prompt: str | None,
    attention: bool,
    verify_data: str | None,
    columns: str | None,
    allow_outside: bool,
    folder: Path | None,
    verify_split: str | None,
    share: float | None,
    as_json: bool,
) -> None:
    """Export a model and verify the files.

    MODEL is a name of the zoo or a saved model. Each file is run by its own runtime in a new process and compared with
    the model; the report is printed and written beside the file. Exit codes: 0 all files agree with the model, 1 some
    do not, 2 error.

    \b
    vtx export cross_attn_captioner --to litert --quant int8 --out phone
    vtx export runs/mine.keras --to savedmodel,onnx --verify-data my.csv
    """
    names = [name.strip() for name in formats.split(",")]
    unknown = [name for name in names if name not in FORMATS]
    if unknown:
        _fail(f"--to {unknown[0]}: expected some of {', '.join(FORMATS)}, separated by commas")
    if attention and "savedmodel" in names:
        _fail("--attention is for litert and onnx: name them with --to")
    with reporting_errors():
        with quiet():
            from vtx_keras import data, zoo
            from vtx_keras.export import NotEqual
            from vtx_keras.export._litert import QUANTIZE
        if quantize not in QUANTIZE:
            raise ValueError(f"--quant {quantize}: expected one of {', '.join(filter(None, QUANTIZE))}")
        network = zoo.named(model, weights)
        settings: dict[str, Any] = {"share": share}
        if verify_data is None and (columns or folder or verify_split):
            raise ValueError(
                "--columns, --folder and --verify-split describe --verify-data: --verify-data is required here"
            )
        if verify_data is not None:
            split = verify_split or (None if Path(verify_data).exists() else data.held_out(verify_data))
            settings["verify_data"] = data.named(verify_data, split, folder, columns, allow_outside)
        settings |= {"beams": beams, "max_length": max_length, "prompt": prompt}
        settings |= {"attention": True} if attention else {}
    reports, failed = [], False
    for name in names:
        try:
            with quiet():
                report = _export_one(name, network, out, form, quantize, settings)
        except NotEqual as error:
            report, failed = error.report, True
            click.echo(f"vtx: {error}" if not as_json else f"vtx: {name} is not equal to its model", err=True)
        except USER_ERRORS as error:
            click.echo(f"vtx: {name}: {message_of(error)}", err=True)
            failed = True
            continue
        reports.append(report)
        if not as_json and report.ok:
            click.echo(f"{report}\n")
    if as_json:
        click.echo(json.dumps([json.loads(report.to_json()) for report in reports], indent=1, ensure_ascii=False))
    sys.exit(0 if not failed else 1 if reports else 2)


def _export_one(name: str, network: Any, out: Path, form: str, quantize: str | None, settings: dict) -> Any:
    """Export to one format and return its report."""
    from vtx_keras import export as exporters

    if name == "savedmodel":  # for servers: always float32 and one model, in a folder named by version
        return exporters.saved_model(network, out / "savedmodel" / "1", **settings)
    if name == "litert":
        return exporters.litert(network, out / "model.tflite", form=form, quantize=quantize, **settings)
    return exporters.onnx(network, out / "onnx" / "model.onnx", form=form, quantize=quantize, **settings)


def _fail(message: str) -> None:
    click.echo(f"vtx: {message}", err=True)
    sys.exit(2)


TIMED = ("keras", *FORMATS)
PRECISIONS = ("float32", "float16", "int8")
COLUMNS = ("file", "identical", "MB", "load s", "ms p50", "ms p95", "peak MB", "faster", "of limit")


@click.command()
@click.argument("model")
@click.option("--to", "formats", default=",".join(TIMED), show_default=True, help="Formats, separated by commas.")
@click.option(
    "--quant",
    "quantize",
    default="float32,int8",
    show_default=True,
    help="Precisions of LiteRT and ONNX: float32, float16, int8.",
)
@click.option("--weights", default="default", show_default=True, help="A released tag, or a weights folder.")
@click.option("--beams", type=click.IntRange(1), default=1, show_default=True)
@click.option("--max-length", type=click.IntRange(1), help="Most tokens per caption.")
@click.option(
    "--pictures", type=click.IntRange(1), default=20, show_default=True, help="How many pictures of the bundled sample."
)
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True, help="Runs per file, in turns.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def bench(
    model: str,
    formats: str,
    quantize: str,
    weights: str,
    beams: int,
    max_length: int | None,
    pictures: int,
    rounds: int,
    as_json: bool,
) -> None:
    """Compare the speed of a model in Keras and of its exported files.

    MODEL is a name of the zoo or a saved model. The files are written to a temporary folder; each is run by its own
    runtime, one picture at a time on one thread, in turns. `faster` is the ratio of the medians to Keras. `of limit`
    is what one thread of this machine needs at least, to multiply in float32 and to read the weights, divided by the
    median: 100 % cannot be beaten, but by int8. A SavedModel also decodes the picture and joins the words.

    \b
    vtx bench cross_attn_captioner
    vtx bench runs/mine.keras --to keras,litert --quant float32,float16,int8 --beams 4
    """
    with reporting_errors():
        names, precisions = _choices(formats, TIMED, "--to"), _choices(quantize, PRECISIONS, "--quant")
        with quiet():
            from vtx_keras import zoo
        network = zoo.named(model, weights)
        settings: dict[str, Any] = {"beams": beams, "max_length": max_length}
        with quiet():
            reports = side_by_side(network, names, precisions, pictures=pictures, rounds=rounds, **settings)
            least = limit_of(network, pictures, **settings)
    if as_json:
        rows = [{**asdict(report), "least_ms": least} for report in reports]
        click.echo(json.dumps(rows, indent=1, ensure_ascii=False))
    else:
        click.echo(table(reports, least))
        if least is not None:
            click.echo(f"limit: {least:.1f} ms a picture in float32, on one thread of this machine")


def limit_of(model: VisionText, pictures: int, beams: int = 1, max_length: int | None = None) -> float | None:
    """Return the milliseconds that a picture takes at least, or None where what a model computes is not counted."""
    from vtx_keras.compress import least_ms
    from vtx_keras.export import _verify as verify
    from vtx_keras.models._methods import Answerer, Captioner, Matcher

    if not isinstance(model, (Answerer, Captioner, Matcher)) or isinstance(model.options.get("text_decoder"), dict):
        return None
    words = 0.0
    if isinstance(model, Captioner):
        samples = verify.load_examples(model, verify.rows_of(model, None, pictures))
        ids = verify.expected(model, samples, beams=beams, max_length=max_length)["ids"]
        words = float((1 + (ids != 0).sum(axis=1)).clip(max=ids.shape[1]).mean())
    return least_ms(model, words, beams)


def _choices(value: str, choices: tuple[str, ...], option: str) -> list[str]:
    """Split an option's value at commas and check each part."""
    names = [name.strip() for name in value.split(",")]
    unknown = [name for name in names if name not in choices]
    if unknown:
        raise ValueError(f"{option} {unknown[0]}: expected some of {', '.join(choices)}, separated by commas")
    return names


def side_by_side(
    model: VisionText,
    formats: list[str],
    precisions: list[str],
    *,
    pictures: int = 20,
    rounds: int = 3,
    beams: int = 1,
    max_length: int | None = None,
) -> list[Report]:
    """Return a report per file, on images of the bundled sample, timed in `rounds` turns.

    reports = side_by_side(zoo.build("cross_attn_captioner"), ["keras", "litert"], ["float32", "int8"])
    print(table(reports))
    """
    import tempfile
    from dataclasses import replace

    import numpy as np

    from vtx_keras.export import _graphs as graphs
    from vtx_keras.export import _verify as verify

    graphs.check(model, "one", beams, max_length)
    settings = {"beams": beams, "max_length": max_length}
    rows = verify.rows_of(model, None, pictures)
    with tempfile.TemporaryDirectory() as folder:
        exported = [
            _export_and_verify(model, rows, format, precision, Path(folder) / format / precision, settings)
            for format in formats
            for precision in (precisions if format in ("litert", "onnx") else ["float32"])
        ]
        turns = [[verify.run(*run) for _, run in exported] for _ in range(rounds)]
    reports = []
    for (report, _), *costs in zip(exported, *turns, strict=True):
        load_s, ms, peak = (np.stack([cost[name] for cost in costs]) for name in ("load_s", "ms", "peak_megabytes"))
        times = {"ms_p50": float(np.percentile(ms, 50)), "ms_p95": float(np.percentile(ms, 95))}
        cost = {"load_s": float(np.median(load_s)), "peak_megabytes": float(peak.max()), **times}
        reports.append(replace(report, path="", next_command="", **cost))  # the file was temporary
    return reports


def _export_and_verify(
    model: VisionText, rows: list[dict], format: str, precision: str, folder: Path, settings: dict[str, Any]
) -> tuple[Report, tuple]:
    """Export one file; return its report and the arguments of `verify.run` that run it again."""
    from vtx_keras import export, zoo
    from vtx_keras.export import _saved_model as savedmodel
    from vtx_keras.export import _verify as verify
    from vtx_keras.models._methods import Captioner, Retriever

    samples = verify.load_examples(model, rows)
    arrays = samples.arrays()
    common = {**settings, "verify_data": rows, "share": 0.0}  # differences are reported, not an error
    if format == "savedmodel":
        report = export.saved_model(model, folder / "1", **common)
        signatures = ["serving_default", *["text"] * isinstance(model, Retriever)]
        return report, ("savedmodel", folder / "1", savedmodel.client_inputs(model, samples), *signatures)
    if format != "keras":
        path = folder / {"litert": "model.tflite", "onnx": "model.onnx"}[format]
        quantize = None if precision == "float32" else precision
        report = getattr(export, format)(model, path, quantize=quantize, **common)
        return report, (format, path, arrays)
    folder.mkdir(parents=True)
    zoo.save(model, folder / "model.keras")
    settings = settings if isinstance(model, Captioner) else {}
    run = ("keras", folder / "model.keras", arrays, str(Path(__file__).parents[2]), json.dumps(settings))
    expected, outputs = verify.expected(model, samples, **settings), verify.run(*run)
    about: dict[str, Any] = {"format": "keras", "form": "one", "megabytes": verify.size_of(run[1]), "share": 0.0}
    return verify.compare(model, samples, expected, outputs, path=run[1], settings=settings, **about), run


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("address")
@click.option("--private", is_flag=True, help="Make a new repository that only you see.")
def push(model: Path, address: str, private: bool) -> None:
    """Upload a weights folder or a .keras file to the Hugging Face Hub, with a card.

    ADDRESS is hf://owner/name. It needs vtx_keras[hf] and a token (hf auth login).

    \b
    vtx push runs/mine/best hf://me/mine --private
    """
    with reporting_errors():
        with quiet():
            from vtx_keras import zoo
        click.echo(zoo.push(zoo.load(model) if model.suffix == ".keras" else model, address, private=private))


@click.command()
@click.argument("name", metavar="NAME")
@click.option("--out", type=click.Path(path_type=Path), help="Folder to write [default: the cache].")
@click.option(
    "--archives", type=click.Path(path_type=Path), help="Folder of archives, found or fetched [default: in the cache]."
)
@click.option("--url", help="Address of the archive, in place of its registry.")
@click.option("--half", is_flag=True, help="Store float16, which halves the size.")
def convert(name: str, out: Path | None, archives: Path | None, url: str | None, half: bool) -> None:
    """Fetch a published encoder or language model for use in models.

    \b
    vtx convert minilm_l6
    vtx convert resnet50 --half
    vtx convert smollm2_135m
    """
    with reporting_errors():
        with quiet():
            from vtx_keras.checkpoints.published import DECODERS, find_decoder
            from vtx_keras.checkpoints.published import _encoders as published
        if name in DECODERS:
            if out or archives or url or half:
                raise ValueError(f"{name} is stored as it comes, in the cache: leave out --out, --url and --half")
            click.echo(f"wrote {find_decoder(name, click.echo)}")
            return
        published.published(name)
        home, store = out or published.cache() / name, archives or published.cache() / "archives"
        click.echo(f"wrote {published.convert(name, home, store, half=half, url=url)}")


def table(reports: list[Report], least: float | None = None) -> str:
    """Format reports as a table, one line each.

    >>> table([])
    'file  identical  MB  load s  ms p50  ms p95  peak MB  faster  of limit'
    """
    keras = next((report.ms_p50 for report in reports if report.format == "keras"), None)
    rows = [COLUMNS]
    for report in reports:
        faster = "" if keras is None else f"{keras / report.ms_p50:.1f} ×"
        rows.append(
            (
                f"{report.format} {report.quantize or 'float32'}",
                f"{report.identical}/{report.n}",
                f"{report.megabytes:.2f}",
                f"{report.load_s:.2f}",
                f"{report.ms_p50:.1f}",
                f"{report.ms_p95:.1f}",
                f"{report.peak_megabytes:.0f}",
                faster,
                "" if least is None else f"{least / report.ms_p50:.0%}",
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows]
    return "\n".join(lines)
