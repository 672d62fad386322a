"""The command vtx eval: evaluate a model on a data set, beside baselines."""

from __future__ import annotations

import contextlib
import json
import shlex
import sys
from pathlib import Path
from typing import Any

import click

from vtx_keras.cli._console import quiet, reporting_errors


@click.command("eval")
@click.argument("model")
@click.option(
    "--data", "name", required=True, help="A data set (sample, emoji, vqa_rad/official, ...), a CSV or a folder."
)
@click.option("--columns", metavar="OURS=THEIRS,...", help="Column mapping: image=photo,caption=title.")
@click.option("--allow-outside", is_flag=True, help="Read pictures outside the folder of a table, too.")
@click.option("--split", help="Split to evaluate on [default: test; all rows of data without splits].")
@click.option("--train-split", default="train", show_default=True, help="Split that baselines use.")
@click.option("--weights", default="default", show_default=True, help="A released tag, or a weights folder.")
@click.option("--limit", type=click.IntRange(1), help="Evaluate only this many random rows.")
@click.option("--prompt", help="Start of every caption; only the rest is evaluated.")
@click.option("--beams", type=click.IntRange(1), default=1, show_default=True)
@click.option("--batch-size", type=click.IntRange(1), default=32, show_default=True)
@click.option(
    "--baselines/--no-baselines", default=True, help="Also evaluate baselines that need no model.", show_default=True
)
@click.option(
    "--baseline",
    "chosen",
    multiple=True,
    help="Only these: most_frequent, question_alone, nearest_neighbour, chance, and of captions, on request, consensus"
    " or human; repeatable.",
)
@click.option("--scorer", "scorers", multiple=True, help="bleu, rouge_l, cider, meteor or spice; repeatable.")
@click.option("--tokenizer", type=click.Choice(["plain", "penn"]), default="plain", show_default=True)
@click.option("--consistency", is_flag=True, help="Also ask in other ways, and count how often the answers agree.")
@click.option("--judge", "judges", multiple=True, help="A retriever that searches a drawing's text; repeatable.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of --limit and of the intervals.")
@click.option("--folder", type=click.Path(path_type=Path), help="Folder of data sets, as for vtx data.")
@click.option("--out", type=click.Path(path_type=Path), help="Write results.json and results.html here.")
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON.")
def evaluate(
    model: str,
    name: str,
    columns: str | None,
    allow_outside: bool,
    split: str | None,
    train_split: str,
    weights: str,
    limit: int | None,
    prompt: str | None,
    beams: int,
    batch_size: int,
    baselines: bool,
    chosen: tuple[str, ...],
    scorers: tuple[str, ...],
    tokenizer: str,
    consistency: bool,
    judges: tuple[str, ...],
    seed: int,
    folder: Path | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Evaluate a model on a data set, beside baselines.

    MODEL is a name of the zoo or a saved model. Figures come with 95 % intervals.

    \b
    vtx eval cross_attn_captioner --data emoji --split vendor
    vtx eval runs/mine.keras --data pictures.csv --out report
    """
    with reporting_errors():
        with quiet():
            from keras import ops

            from vtx_keras import zoo
            from vtx_keras.evaluate import BASELINES, run

            ops.zeros(1)  # initialises the devices, which logs
        names = (chosen or BASELINES) if baselines else ()
        if chosen and not baselines:
            raise ValueError("--baseline names baselines and --no-baselines wants none: leave one of them out")
        # Check what is fast to check before loading what is slow to load.
        path = _place(model, weights)
        place = {"folder": folder, "columns": columns, "allow_outside": allow_outside}
        ds, about = _examples(name, split, place)
        learned = set(names) - {"human"}  # from the training split
        train, missing = _training(name, about["split"], train_split, place) if learned else (None, "")
        about |= {"missing": missing} if missing else {}
        network = zoo.named(model, weights)
        about = {"command": _command(), **about, **_files(model, weights, path)}
        ds = ds if prompt is None else _prompted(network, ds, prompt)
        results = run(
            network, ds, train=train, baselines=names, limit=limit, folder=out, seed=seed,
            beams=beams, batch_size=batch_size, scorers=scorers or None, tokenizer=tokenizer,
            consistency=consistency, judges=_judges(network, name, judges), about=about,
        )  # fmt: skip
    if as_json:
        click.echo(json.dumps(results.as_dict(), indent=1, ensure_ascii=False))
        return
    _print(results)
    for line in [*results.summary(), *([missing] if missing else [])]:
        click.echo(line)
    if out:
        click.echo(f"{out / 'results.html'}\n{out / 'results.json'}")


def _judges(network: Any, name: str, models: tuple[str, ...]) -> dict[str, Any]:
    """Return what judges a generator's pictures: the rules of the data set, and the retrievers that were named."""
    from vtx_keras import zoo
    from vtx_keras.data._load import judges as rules
    from vtx_keras.models._drawing import Generator
    from vtx_keras.models._methods import Retriever

    judges: dict[str, Any] = {}
    for model in models:
        judges[Path(model).name] = judge = zoo.named(model)
        if not isinstance(judge, Retriever):
            raise ValueError(f"--judge {model}: expected a retriever, such as retriever")
    return judges | (rules(name) if isinstance(network, Generator) else {})


def _command() -> str:
    """Return the command line, so that the evaluation can be repeated."""
    context = click.get_current_context()
    words = ["vtx eval", str(context.params["model"])]
    for option in context.command.params[1:]:
        value = context.params[option.name]
        if context.get_parameter_source(option.name) is click.core.ParameterSource.COMMANDLINE:
            flag = option.opts[0] if value is not False else option.secondary_opts[0]
            values = value if isinstance(value, tuple) else [value]
            words += [flag] if isinstance(value, bool) else [f"{flag} {shlex.quote(str(item))}" for item in values]
    return " ".join(words)


def _examples(name: str, split: str | None, place: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Return the examples and what identifies them."""
    from vtx_keras import data
    from vtx_keras._files import file_hash

    if split is None and data.has_splits(name, place["columns"]):
        split = data.held_out(name)
    ds, path = data.named(name, split, **place), Path(name)
    own = {"sha256": file_hash(path)} if path.is_file() else {}
    version = own if path.exists() else _version(name, place["folder"])
    return ds, {"data": name, "split": split or "all", **version}


def _prompted(network: Any, examples: Any, prompt: str) -> Any:
    """Add the prompt to every example."""
    if not hasattr(network, "generate") or "question" in examples.fields:
        raise ValueError("--prompt is for captioners and captions: leave it out, questions are read as they are")

    def with_prompt(row: dict) -> dict:
        return {**row, "prompt": prompt}

    return examples.map(with_prompt)


def _training(name: str, split: str, train_split: str, place: dict[str, Any]) -> tuple[Any, str]:
    """Return the training split, or a reason why there is none."""
    if train_split == split:
        return None, f"no baselines: {split!r} is the split that is evaluated"
    if split == "all":
        return None, "no baselines: the table has no splits"
    try:
        return _examples(name, train_split, place)[0], ""
    except (ValueError, KeyError, OSError) as error:
        return None, f"no baselines: {str(error).splitlines()[0]}"


def _version(name: str, folder: Path | None) -> dict[str, str]:
    """Return the version of a data set, or the hash of a bundled sample's table."""
    from vtx_keras._files import file_hash
    from vtx_keras.data import sets
    from vtx_keras.data._load import SAMPLE, SAMPLES

    if name in SAMPLES:
        return {"sha256": file_hash(SAMPLE / SAMPLES[name])}
    import tensorflow_datasets as tfds

    return {"version": tfds.builder(name, data_dir=str(sets.data_dir(folder))).info.full_name}


def _place(model: str, weights: str) -> Path:
    """Return the path of a saved or published model, or of released weights."""
    from vtx_keras import zoo
    from vtx_keras.checkpoints import published
    from vtx_keras.checkpoints._folder import find

    if published.is_published(model if weights == "default" else weights):
        return published.folder_of(model if weights == "default" else weights)
    return Path(model) if zoo.is_saved(model) else find(model, weights, zoo.lookup(model).default)


def _files(model: str, weights: str, path: Path) -> dict[str, str]:
    """Return a description and the hash of the weights at `path`."""
    from vtx_keras import zoo
    from vtx_keras._files import file_hash
    from vtx_keras.checkpoints import published
    from vtx_keras.checkpoints._folder import CONFIG, WEIGHTS

    saved = zoo.is_saved(model)
    if path.is_dir() and published.is_transformers(path):
        names = ("model.safetensors", "pytorch_model.bin", CONFIG)  # of shards, the config stands for all
        path = next(path / name for name in names if (path / name).is_file())
    elif path.is_dir():
        path = (path if (path / WEIGHTS).is_file() else path / "best") / WEIGHTS
    return {"weights": model if saved else f"{model} {weights}", "weights_file_sha256": file_hash(path)}


def _print(results: Any) -> None:
    if sys.stdout.isatty():
        with contextlib.suppress(ImportError):
            from rich.console import Console
            from rich.table import Table

            header, rows = results.grid()
            table = Table(box=None, header_style="bold")
            for column, cell in enumerate(header):
                table.add_column(cell, justify="right" if column else "left")
            for row in rows:
                table.add_row(*row)
            Console().print(table)
            return
    click.echo(results.table())
