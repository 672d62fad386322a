"""vtx export: a model as files that run without us, each tried before it gets its name."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from vtx_keras.polite import TOLD, polite, quiet, told

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
            from vtx_keras.export.tflite import QUANTIZE
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
