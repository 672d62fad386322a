"""vtx export and vtx bench: files that run without us, each tried, and timed side by side."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vtx_keras.cli._console import TOLD, polite, quiet, told

FORMATS = ("savedmodel", "litert", "onnx")


@click.command()
@click.argument("model")
@click.option(
    "--to", "formats", default="savedmodel,litert,onnx", show_default=True, help="Which formats, with commas."
)
@click.option("--out", type=click.Path(path_type=Path), default=Path("exported"), show_default=True, help="A folder.")
@click.option("--weights", default="default", show_default=True, help="A released tag, or a weights folder.")
@click.option("--quant", "quantize", help="float16, int8 or (litert) int8_encoder [default: float32].")
@click.option(
    "--form", type=click.Choice(["one", "split"]), default="one", show_default=True, help="A captioner's form."
)
@click.option("--beams", type=click.IntRange(1), default=1, show_default=True)
@click.option("--max-length", type=click.IntRange(1), help="Most tokens to write.")
@click.option("--prompt", help="How every caption begins (of form one).")
@click.option("--verify-data", help="A data set (emoji) or a CSV to try the files on [default: the bundled sample].")
@click.option("--columns", metavar="OURS=THEIRS,...", help="What that data calls them: image=photo,caption=title.")
@click.option("--folder", type=click.Path(path_type=Path), help="Where data lives, as for vtx data.")
@click.option("--verify-split", help="Of --verify-data [default: test, or all of a CSV].")
@click.option("--share", type=click.FloatRange(0, 1), help="Of the results that must be identical.")
@click.option("--json", "as_json", is_flag=True, help="The reports as one JSON list.")
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
    verify_data: str | None,
    columns: str | None,
    folder: Path | None,
    verify_split: str | None,
    share: float | None,
    as_json: bool,
) -> None:
    """Write MODEL, a name of the zoo or a saved model, for servers, phones and everything else.

    Each file is run in its own runtime, in a fresh process, and compared with the model; the figures are printed and
    kept beside it. Exit codes: 0 all are equal, 1 some are not, 2 nothing could be done.

    \b
    vtx export cross_attn_captioner --to litert --quant int8 --out phone
    vtx export runs/mine.keras --to savedmodel,onnx --verify-data my.csv
    """
    wanted = [name.strip() for name in formats.split(",")]
    unknown = [name for name in wanted if name not in FORMATS]
    if unknown:
        _fail(f"--to {unknown[0]}: expected some of {', '.join(FORMATS)}, with commas")
    with polite():
        with quiet():
            from vtx_keras import data, zoo
            from vtx_keras.export import NotEqual
            from vtx_keras.export._litert import QUANTIZE
        if quantize not in QUANTIZE:
            raise ValueError(f"--quant {quantize}: expected one of {', '.join(filter(None, QUANTIZE))}")
        network = zoo.named(model, weights)
        settings: dict[str, Any] = {"share": share}
        if verify_data is None and (columns or folder or verify_split):
            raise ValueError("--columns, --folder and --verify-split say more of --verify-data: give that too")
        if verify_data is not None:
            split = verify_split or (None if Path(verify_data).exists() else data.held_out(verify_data))
            settings["verify_data"] = data.named(verify_data, split, folder, columns)
        settings |= {"beams": beams, "max_length": max_length, "prompt": prompt}
    reports, failed = [], False
    for name in wanted:
        try:
            with quiet():
                report = _one(name, network, out, form, quantize, settings)
        except NotEqual as error:
            report, failed = error.report, True
            click.echo(f"vtx: {error}" if not as_json else f"vtx: {name} is not equal to its model", err=True)
        except TOLD as error:
            click.echo(f"vtx: {name}: {told(error)}", err=True)
            failed = True
            continue
        reports.append(report)
        if not as_json and report.ok:
            click.echo(f"{report}\n")
    if as_json:
        click.echo(json.dumps([json.loads(report.to_json()) for report in reports], indent=1, ensure_ascii=False))
    sys.exit(0 if not failed else 1 if reports else 2)


def _one(name: str, network: Any, out: Path, form: str, quantize: str | None, settings: dict) -> Any:
    """One format's report."""
    from vtx_keras import export as exporters

    if name == "savedmodel":  # a server has room: always float32, always whole; and it looks for a version's number
        return exporters.saved_model(network, out / "savedmodel" / "1", **settings)
    if name == "litert":
        return exporters.litert(network, out / "model.tflite", form=form, quantize=quantize, **settings)
    return exporters.onnx(network, out / "onnx" / "model.onnx", form=form, quantize=quantize, **settings)


def _fail(message: str) -> None:
    click.echo(f"vtx: {message}", err=True)
    sys.exit(2)


if TYPE_CHECKING:
    from vtx_keras.export import Report
    from vtx_keras.models._base import VisionText


TIMED = ("keras", *FORMATS)
PRECISIONS = ("float32", "float16", "int8")
COLUMNS = ("file", "identical", "MB", "load s", "ms p50", "ms p95", "peak MB", "faster")


@click.command()
@click.argument("model")
@click.option("--to", "formats", default=",".join(TIMED), show_default=True, help="Which, with commas.")
@click.option("--quant", "quantize", default="float32,int8", show_default=True, help="float16 too; of LiteRT and ONNX.")
@click.option("--weights", default="default", show_default=True, help="A released tag, or a weights folder.")
@click.option("--beams", type=click.IntRange(1), default=1, show_default=True)
@click.option("--max-length", type=click.IntRange(1), help="Most tokens to write.")
@click.option("--pictures", type=click.IntRange(1), default=20, show_default=True, help="Of the bundled sample.")
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True, help="How often each has its turn.")
@click.option("--json", "as_json", is_flag=True, help="The reports as one JSON list.")
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
    """Measure MODEL, a name of the zoo or a saved model, in Keras and as files for servers, phones and the rest.

    The files are written to a temporary folder; each runs in its own runtime, one picture at a time on one thread, and
    all take turns. `faster` is the median's ratio to Keras. A SavedModel also decodes the picture and joins the words.

    \b
    vtx bench cross_attn_captioner
    vtx bench runs/mine.keras --to keras,litert --quant float32,float16,int8 --beams 4
    """
    with polite():
        wanted, precisions = _some(formats, TIMED, "--to"), _some(quantize, PRECISIONS, "--quant")
        with quiet():
            from vtx_keras import zoo
        network = zoo.named(model, weights)
        settings: dict[str, Any] = {"beams": beams, "max_length": max_length}
        with quiet():
            reports = side_by_side(network, wanted, precisions, pictures=pictures, rounds=rounds, **settings)
    if as_json:
        click.echo(json.dumps([asdict(report) for report in reports], indent=1, ensure_ascii=False))
    else:
        click.echo(table(reports))


def _some(given: str, known: tuple[str, ...], option: str) -> list[str]:
    names = [name.strip() for name in given.split(",")]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"{option} {unknown[0]}: expected some of {', '.join(known)}, with commas")
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
    """A report for every file, on pictures of the bundled sample, timed over `rounds` turns of all.

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
        made = [
            _made(model, rows, format, precision, Path(folder) / format / precision, settings)
            for format in formats
            for precision in (precisions if format in ("litert", "onnx") else ["float32"])
        ]
        turns = [[verify.run(*run) for _, run in made] for _ in range(rounds)]
    reports = []
    for (report, _), *costs in zip(made, *turns, strict=True):
        load_s, ms, peak = (np.stack([cost[name] for cost in costs]) for name in ("load_s", "ms", "peak_megabytes"))
        times = {"ms_p50": float(np.percentile(ms, 50)), "ms_p95": float(np.percentile(ms, 95))}
        cost = {"load_s": float(np.median(load_s)), "peak_megabytes": float(peak.max()), **times}
        reports.append(replace(report, path="", next_command="", **cost))  # the file was temporary
    return reports


def _made(
    model: VisionText, rows: list[dict], format: str, precision: str, folder: Path, settings: dict[str, Any]
) -> tuple[Report, tuple]:
    """A file's report, and what `verify.run` is told to run it again."""
    from vtx_keras import export, zoo
    from vtx_keras.export import _saved_model as savedmodel
    from vtx_keras.export import _verify as verify
    from vtx_keras.models._captioner import Captioner
    from vtx_keras.models._readers import Retriever

    tried = verify.examples(model, rows)
    arrays = {"image": tried.images} | ({} if tried.tokens is None else {"tokens": tried.tokens})
    common = {**settings, "verify_data": rows, "share": 0.0}  # what differs is told, not refused
    if format == "savedmodel":
        report = export.saved_model(model, folder / "1", **common)
        signatures = ["serving_default", *["text"] * isinstance(model, Retriever)]
        return report, ("savedmodel", folder / "1", savedmodel.encoded(model, tried), *signatures)
    if format != "keras":
        path = folder / {"litert": "model.tflite", "onnx": "model.onnx"}[format]
        quantize = None if precision == "float32" else precision
        report = getattr(export, format)(model, path, quantize=quantize, **common)
        return report, (format, path, arrays)
    folder.mkdir(parents=True)
    zoo.save(model, folder / "model.keras")
    settings = settings if isinstance(model, Captioner) else {}
    run = ("keras", folder / "model.keras", arrays, str(Path(__file__).parents[2]), json.dumps(settings))
    wanted, found = verify.expected(model, tried, **settings), verify.run(*run)
    about: dict[str, Any] = {"format": "keras", "form": "one", "megabytes": verify.size_of(run[1]), "share": 0.0}
    return verify.compare(model, tried, wanted, found, path=run[1], settings=settings, **about), run


def table(reports: list[Report]) -> str:
    """Reports side by side, a line for each.

    >>> table([])
    'file  identical  MB  load s  ms p50  ms p95  peak MB  faster'
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
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows]
    return "\n".join(lines)
