"""vtx bench: a model in Keras and as exported files, side by side, each in a process of its own."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vtx_keras.polite import polite, quiet

if TYPE_CHECKING:
    from vtx_keras.export import Report
    from vtx_keras.vision_text import VisionText

FORMATS = ("keras", "savedmodel", "litert", "onnx")
PRECISIONS = ("float32", "float16", "int8")
COLUMNS = ("file", "identical", "MB", "load s", "ms p50", "ms p95", "peak MB", "faster")


@click.command()
@click.argument("model")
@click.option("--to", "formats", default=",".join(FORMATS), show_default=True, help="Which, with commas.")
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
        wanted, precisions = _some(formats, FORMATS, "--to"), _some(quantize, PRECISIONS, "--quant")
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

    from vtx_keras.export import graphs, verify

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
    from vtx_keras.export import savedmodel, verify
    from vtx_keras.models import Captioner, Retriever

    tried = verify.examples(model, rows)
    arrays = {"image": tried.images} | ({} if tried.tokens is None else {"tokens": tried.tokens})
    common = {**settings, "verify_data": rows, "share": 0.0}  # what differs is told, not refused
    if format == "savedmodel":
        report = export.saved_model(model, folder / "1", **common)
        signatures = ["serving_default", *["text"] * isinstance(model, Retriever)]
        return report, ("run_savedmodel", folder / "1", savedmodel.encoded(model, tried), *signatures)
    if format != "keras":
        path = folder / {"litert": "model.tflite", "onnx": "model.onnx"}[format]
        quantize = None if precision == "float32" else precision
        report = getattr(export, format)(model, path, quantize=quantize, **common)
        return report, (f"run_{format}", path, arrays)
    folder.mkdir(parents=True)
    zoo.save(model, folder / "model.keras")
    settings = settings if isinstance(model, Captioner) else {}
    run = ("run_keras", folder / "model.keras", arrays, str(Path(__file__).parents[2]), json.dumps(settings))
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
