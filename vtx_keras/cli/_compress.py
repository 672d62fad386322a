"""The command vtx compress: a smaller model, trained back, and a table of what it costs."""

from __future__ import annotations

import itertools
import json
import re
import tempfile
from pathlib import Path
from typing import Any

import click

from vtx_keras.cli._console import quiet, reporting_errors, show_rows


@click.command()
@click.argument("model")
@click.option("--data", "name", required=True, help="A data set (sample, emoji, flickr8k), a CSV or a folder.")
@click.option("--columns", metavar="OURS=THEIRS,...", help="Column mapping: image=photo,caption=title.")
@click.option("--allow-outside", is_flag=True, help="Read pictures outside the folder of a table, too.")
@click.option("--split", help="Split to train back on [default: train; all rows of data without splits].")
@click.option("--validation", help="Split, or a CSV, to measure on [default: validation].")
@click.option("--folder", type=click.Path(path_type=Path), help="Folder of data sets, as for vtx data.")
@click.option("--weights", default="default", show_default=True, help="A released tag, or a weights folder.")
@click.option("--target", default="2x", show_default=True, help="How many times fewer parameters.")
@click.option(
    "--keep", type=click.FloatRange(0, 1, min_open=True), default=0.99, show_default=True, help="Share of the metric."
)
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True, help="Steps to the target.")
@click.option("--epochs", type=click.IntRange(1), help="Epochs that each step is trained back [default: 5].")
@click.option("--metric", help="What to keep [default: cider, accuracy …, by the task].")
@click.option(
    "--limit", type=click.IntRange(1), default=500, show_default=True, help="Rows that a step is measured on."
)
@click.option("--beams", type=click.IntRange(1), default=1, show_default=True)
@click.option("--batch-size", type=click.IntRange(1), default=32, show_default=True)
@click.option("--learning-rate", type=float, help="[default: 0.0003]")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--to", "formats", default="litert,onnx", show_default=True, help="Formats to compare, or none.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder to write [default: runs/MODEL-smaller].")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def compress(model: str, name: str, formats: str, target: str, as_json: bool, out: Path | None, **options: Any) -> None:
    """Make a model smaller: take out what matters least, and train back.

    MODEL is a name of the zoo or a saved model. Neurons, heads and channels go in steps; after each the rest learns
    from the whole model, and is measured. The smallest model whose metric holds is written, with the table of steps and
    of exported files. A target that the metric forbids is not reached, and the table says so.

    \b
    vtx compress cross_attn_captioner --data flickr8k --target 2x --keep 0.98
    vtx compress runs/mine/best --data my.csv --validation held_out.csv --out smaller
    """
    wanted = [one.strip() for one in formats.split(",") if one.strip() not in ("", "none")]
    with reporting_errors():
        if not set(wanted) <= {"litert", "onnx"}:
            raise ValueError(f"--to {formats}: expected litert, onnx, both, or none")
        times = re.fullmatch(r"(\d+(?:\.\d+)?)\s*[x×]?", target.strip())
        if not times:
            raise ValueError(f"--target {target}: expected how many times fewer parameters, such as 2x")
        from vtx_keras._files import write

        with quiet():
            from vtx_keras import compress as compressing
            from vtx_keras import data, zoo
        split, held_out = options["split"], options["validation"]
        if split is None and data.has_splits(name, options["columns"]):
            split = "train"
        place = {key: options[key] for key in ("folder", "columns", "allow_outside")}
        examples = data.named(name, split, **place)
        if held_out is not None and Path(held_out).is_file():
            validation = data.named(held_out, None, **place)
        else:
            validation = data.named(name, held_out or "validation", **place)
        network = zoo.named(model, options["weights"])
        out = out or _free(Path("runs") / f"{Path(model).name}-smaller")
        given = {key: options[key] for key in ("epochs", "learning_rate") if options[key] is not None}
        passed = ("keep", "rounds", "metric", "limit", "beams", "batch_size", "seed")
        smaller, steps = compressing.search(
            network, examples, validation, target=float(times[1]), folder=out,
            say=lambda line: click.echo(line, err=True), **{key: options[key] for key in passed}, **given,
        )  # fmt: skip
        models = {"whole": network} | ({} if smaller is network else {"smaller": smaller})
        files = _files(models, wanted)
    record = json.loads((out / "compress.json").read_text("utf-8")) | {"files": files}
    write(out / "compress.json", json.dumps(record, indent=1) + "\n")
    if as_json:
        click.echo(json.dumps(record, indent=1))
        return
    show_rows(
        ("step", "M parameters", "GFLOP", steps[0].metric, "95 % interval", "CPU min"), [_row(step) for step in steps]
    )
    if files:
        click.echo()
        show_rows(("model", "file", "identical", "MB", "ms"), [tuple(map(str, file.values())) for file in files])
    weights = out / "model"
    made = f"{weights}: the smaller model's weights" if weights.is_dir() else "no smaller model holds the metric"
    click.echo(f"\n{made}; {out / 'compress.json'}: this table")


def _free(folder: Path) -> Path:
    """Return the folder, numbered if it exists."""
    numbered = (folder.with_name(f"{folder.name}-{number}") for number in itertools.count(2))
    return next(one for one in itertools.chain([folder], numbered) if not one.exists())


def _row(step: Any) -> tuple[str, ...]:
    interval = "" if step.low is None else f"{step.low:.3f} to {step.high:.3f}"
    held = "" if step.kept else ", below the bound"
    size = (f"{step.parameters / 1e6:.2f}", f"{step.gigaflops:.2f}")
    return (step.how + held, *size, f"{step.value:.3f}", interval, f"{step.cpu_minutes:.1f}")


def _files(models: dict[str, Any], formats: list[str]) -> list[dict[str, Any]]:
    """Export the models, and return what each file measures: it is run in its own runtime, on one thread."""
    from vtx_keras import export

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for kind in formats:
            exporter, end = {"litert": (export.litert, "tflite"), "onnx": (export.onnx, "onnx")}[kind]
            for precision in (None, "int8"):
                for which, network in models.items():
                    try:
                        report = exporter(network, Path(folder) / f"{which}-{precision}.{end}", quantize=precision)
                    except export.NotEqual as error:
                        report = error.report
                    rows.append({
                        "model": which,
                        "file": f"{kind} {precision or 'float32'}",
                        "identical": f"{report.identical}/{report.n}",
                        "megabytes": round(report.megabytes, 2),
                        "ms": round(report.ms_p50, 2),
                    })  # fmt: skip
    return rows
