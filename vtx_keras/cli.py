"""vtx: the zoo on the command line. Help and listings load neither TensorFlow nor Keras."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from vtx_keras.data.cli import data
from vtx_keras.evaluate.cli import evaluate
from vtx_keras.explain.cli import explain
from vtx_keras.export.bench import bench
from vtx_keras.export.cli import export
from vtx_keras.train.cli import train


class Suggesting(click.Group):
    """A group that suggests the command that was meant."""

    def resolve_command(self, context: click.Context, args: list[str]):
        from vtx_keras.options import did_you_mean

        try:
            return super().resolve_command(context, args)
        except click.UsageError as error:
            error.message += did_you_mean(args[0], self.commands)
            raise


@click.group(cls=Suggesting, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="vtx_keras")
def main() -> None:
    """A Keras model zoo for seeing and reading at once.

    Exit codes: 0 all went well, 1 some pictures failed (the others were done), 2 nothing could be done.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


for command in (data, train, evaluate, explain, export, bench):
    main.add_command(command)


@main.command()
@click.argument("model")
@click.argument("pictures", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--weights", default="default", help="A released tag, or a weights folder.", show_default=True)
@click.option("--text", "question", help="The question, label text or candidate text, for models that read one.")
@click.option("--prompt", help="How the caption begins.")
@click.option("--beams", type=click.IntRange(1), default=1, show_default=True)
@click.option("--max-length", type=click.IntRange(1), help="Most tokens to write.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
def predict(
    model: str,
    pictures: tuple[Path, ...],
    weights: str,
    question: str | None,
    prompt: str | None,
    beams: int,
    max_length: int | None,
    as_json: bool,
) -> None:
    """Caption PICTURES (or answer --text about them) with MODEL, a name of the zoo or a saved model.

    \b
    vtx predict cross_attn_captioner photo.png
    vtx predict runs/mine.keras a.png b.jpg --beams 4
    """
    with quiet():
        from keras import ops

        from vtx_keras import zoo
        from vtx_keras.models import Captioner, Retriever

        ops.zeros(1)  # looks for a GPU
    try:
        network = zoo.named(model, weights)
        if isinstance(network, Captioner):
            if question is not None:
                raise ValueError(f"{model} writes captions: --text is for models that read a text; use --prompt")
            settings = {"prompt": prompt, "beams": beams, "max_length": max_length}
            results, errors = _each(network.generate, pictures, **settings)
        elif question is None:
            raise ValueError(f"{model} reads a text beside the picture: give it with --text")
        elif isinstance(network, Retriever):
            results, errors = _each(network.similarity, pictures, [question])
            results = [None if row is None else float(row[0]) for row in results]
        else:
            results, errors = _each(getattr(network, "answer", None) or network.match, pictures, question)
    except (ValueError, TypeError, OSError) as error:
        click.echo(f"vtx: {error}", err=True)
        sys.exit(2)
    for index, (path, result) in enumerate(zip(pictures, results, strict=True)):
        if as_json:
            outcome = {"error": errors[index]} if index in errors else {"result": result}
            click.echo(json.dumps({"picture": str(path), **outcome}, ensure_ascii=False))
        elif index in errors:
            click.echo(f"vtx: {path}: {errors[index]}", err=True)
        else:
            said = ", ".join(result) if isinstance(result, list) else result
            click.echo(said if len(pictures) == 1 else f"{path}\t{said}")
    sys.exit((2 if len(errors) == len(pictures) else 1) if errors else 0)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hides what TensorFlow logs while it starts, before it can be told not to; shows it if the start fails."""
    with tempfile.TemporaryFile() as log:
        stderr = os.dup(2)
        os.dup2(log.fileno(), 2)
        try:
            yield
        except BaseException:
            log.seek(0)
            os.write(stderr, log.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


def _each(run: Callable, pictures: Sequence[Path], *args: Any, **kwargs: Any) -> tuple[Sequence, dict[int, str]]:
    """Results for all pictures and, by index, what was wrong with the bad ones."""
    from vtx_keras.media import BadItems

    try:
        return run(list(pictures), *args, **kwargs), {}
    except BadItems as error:
        return error.results, error.errors


@main.command("list")
@click.argument("pattern", default="*")
@click.option("--released", is_flag=True, help="Only models that come with weights.")
@click.option("--json", "as_json", is_flag=True, help="A JSON list.")
def list_command(pattern: str, released: bool, as_json: bool) -> None:
    """Name the models that match PATTERN."""
    from vtx_keras import table, weights

    names = table.list_models(pattern, released=True if released else None)
    if as_json:
        rows = [{"name": name, "released": weights.released_tags(name)} for name in names]
        click.echo(json.dumps(rows, indent=1))
        return
    for name in names:
        tags = ", ".join(weights.released_tags(name))
        click.echo(f"{name:30s}{table.MODELS[name].task:12s}{tags}".rstrip())
    if not names:
        click.echo(f"vtx: no model matches {pattern!r}", err=True)
        sys.exit(2)


@main.command()
@click.argument("model")
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
def show(model: str, as_json: bool) -> None:
    """Describe MODEL: what it does, its options, and the cards of its released weights."""
    from vtx_keras import table, weights

    try:
        about = table.describe(model)
    except ValueError as error:
        click.echo(f"vtx: {error}", err=True)
        sys.exit(2)
    if as_json:
        click.echo(json.dumps(about, indent=1))
        return
    click.echo(f"{model}: {about['about']}. Fusion: {about['fusion'] or 'none (two towers)'}.\n\nOptions of zoo.build:")
    for name, option in about["options"].items():
        click.echo(f"  {name} = {option['default']!r}: {option['about']} ({option['takes']})")
    for tag in about["released"]:
        card = weights.released_root() / model / tag / "README.md"
        click.echo("\n" + (card.read_text(encoding="utf-8") if card.is_file() else f"{tag} has no card"))


if __name__ == "__main__":
    main()
