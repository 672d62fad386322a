"""vtx train: a run from the command line. The same command again goes on where it was."""

from __future__ import annotations

import contextlib
import json
import shlex
from pathlib import Path
from typing import Any

import click

from vtx_keras.cli._console import polite, quiet

STOPPED, DIVERGED = 75, 3
FEW = 300  # updates, after which a captioner of a few hundred pictures has hardly learned that captions end


@click.command()
@click.argument("model")
@click.option("--data", "name", required=True, help="A data set (sample, emoji, vqa_rad/official), a CSV or a folder.")
@click.option("--columns", metavar="OURS=THEIRS,...", help="What the data calls them: image=photo,caption=title.")
@click.option("--split", help="What to learn from [default: train; of a table without splits, all].")
@click.option("--validation", help="A split of the same data, or a CSV; none for none [default: validation if there].")
@click.option("--folder", type=click.Path(path_type=Path), help="Where data lives, as for vtx data.")
@click.option("--weights", default="none", show_default=True, help="none, default, encoders, a tag or a folder.")
@click.option("--size", type=click.Choice(["tiny", "small", "base"]), help="Widths and depths that go together.")
@click.option("--set", "settings", multiple=True, metavar="OPTION=VALUE", help="An option of the model: dim=256.")
@click.option("--vocabulary", help="A file of pieces, or train: learn it from the texts.")
@click.option("--freeze", multiple=True, type=click.Choice(["image", "text"]), help="An encoder that is not to learn.")
@click.option("--epochs", type=click.IntRange(1), default=10, show_default=True)
@click.option("--batch-size", type=click.IntRange(1), default=32, show_default=True)
@click.option("--augment/--no-augment", default=False, show_default=True, help="Crop, turn, colour, mirror pictures.")
@click.option("--unknown", type=click.Choice(["error", "drop"]), default="error", help="Labels that are no class.")
@click.option("--learning-rate", type=float, default=3e-4, show_default=True)
@click.option("--weight-decay", type=float, default=0.05, show_default=True)
@click.option("--warmup", type=click.FloatRange(0, 1), default=0.05, show_default=True, help="Share of the steps.")
@click.option("--clip", type=float, default=1.0, show_default=True, help="Most length of the gradient; 0 for none.")
@click.option("--ema", type=float, help="Average the weights with this momentum, such as 0.999.")
@click.option("--accumulate", type=click.IntRange(1), default=1, show_default=True, help="Batches per update.")
@click.option("--dtype", help="A Keras dtype policy: mixed_bfloat16, mixed_float16.")
@click.option("--xla", is_flag=True, help="Compile with XLA, with static shapes throughout.")
@click.option("--steps-per-execution", type=click.IntRange(1), default=1, show_default=True)
@click.option("--parallel", type=click.Choice(["data", "model"]), help="Spread over this host's devices.")
@click.option("--coordinator", help="address:port of process 0, for many hosts (JAX).")
@click.option("--processes", type=click.IntRange(1), default=1, help="How many hosts.")
@click.option("--process", type=click.IntRange(0), default=0, help="Which of them this is.")
@click.option("--scores", type=click.IntRange(1), metavar="N", help="Each epoch, judge what is said of N examples.")
@click.option("--monitor", help="What `best` goes by [default: val_loss].")
@click.option("--patience", type=click.IntRange(1), help="Stop after so many epochs without a better one.")
@click.option("--save-every", type=click.IntRange(1), default=200, show_default=True, help="Steps between states.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="The run's folder [default: runs/MODEL, numbered].")
@click.option("--new", is_flag=True, help="Begin anew, even if the same run is unfinished.")
@click.option("--dry-run", is_flag=True, help="Say shapes, parameters, steps and memory; save once; train nothing.")
@click.option("--tensorboard", is_flag=True, help="Also write TensorBoard logs.")
def train(model: str, name: str, **options: Any) -> None:
    """Train MODEL, a name of the zoo or a saved model, with fit.

    The run's folder gets run.json, results.csv and .png, samples.html, and the weights folders best and last. A run
    that was killed goes on when the same command is given again, and ends as if nothing had happened.

    Exit codes: 0 done, 2 could not begin, 3 the loss became NaN or infinite, 75 stopped by a signal (give the command
    again to go on).

    \b
    vtx train cross_attn_captioner --weights default --data sample --freeze image
    vtx train cross_attn_captioner --data sample --size tiny
    vtx train gated_vqa --data vqa_rad/official --set image_encoder=efficientnet_lite0 --weights encoders --freeze image
    """
    with polite():
        with quiet():
            import keras
            from keras import ops

            from vtx_keras.train._callbacks import Diverged, Stopped

            ops.zeros(1)  # looks for a GPU
        try:
            if options["coordinator"]:
                from vtx_keras.train import parallel

                parallel.join(options["coordinator"], options["processes"], options["process"])
            keras.utils.set_random_seed(options["seed"])
            history = _run(model, name, options)
        except (Stopped, Diverged) as ended:
            click.echo(f"vtx: {ended}", err=True)
            raise SystemExit(STOPPED if isinstance(ended, Stopped) else DIVERGED) from ended
    if not options["dry_run"]:
        shown = [path.name for path in sorted(history.folder.glob("results.*")) + sorted(history.folder.glob("*.html"))]
        click.echo(f"{history.folder}: best and last weights, {', '.join(shown)}")
        _warn_of_few(model, history, options)
        held_out = options["validation"] or "validation"
        if (history.folder / "samples.html").is_file() and not held_out.lower().endswith((".csv", ".tsv")):
            same = [f"--{key}={options[key]}" for key in ("columns", "folder") if options[key]]
            words = ["vtx", "eval", f"{history.folder}/best", "--data", name, *same, "--split", held_out]
            click.echo(f"next: {shlex.join(words)}")


def _warn_of_few(model: str, history: Any, options: dict[str, Any]) -> None:
    """Say it where what began from nothing was hardly taught."""
    from vtx_keras import zoo
    from vtx_keras.checkpoints._folder import released_tags

    updates = history.params["steps"] * len(history.epoch) // options["accumulate"]
    if options["weights"] not in ("none", "encoders") or zoo.is_saved(model) or updates >= FEW:
        return
    ways = ["more --epochs", "a smaller --batch-size", "--learning-rate 1e-3", "--vocabulary train"]
    if released_tags(model):
        ways.append("--weights default, to begin as what is released")
    click.echo(
        f"vtx: {updates} updates are few for layers that begin from nothing. If it has not learned: {', '.join(ways)}",
        err=True,
    )


def _run(model: str, name: str, options: dict[str, Any]) -> Any:
    import keras

    from vtx_keras import data
    from vtx_keras.train import parallel
    from vtx_keras.train._callbacks import falling
    from vtx_keras.train._run import run

    if options["split"] is None and data.has_splits(name, options["columns"]):
        options["split"] = "train"
    ds = data.named(name, options["split"], options["folder"], options["columns"])
    validation = _validation(name, options)
    spread = parallel.over(options["parallel"]) if options["parallel"] else contextlib.nullcontext()
    out = options["out"]
    if options["process"]:  # one host keeps the books; the others keep their states beside it
        out = Path(f"{out or 'runs/' + Path(model).name}-host{options['process']}")
    with spread:
        network = _network(model, ds, options)
        callbacks = []
        monitor = options["monitor"] or ("val_loss" if validation is not None else "loss")
        if options["patience"]:
            mode = "min" if falling(monitor) else "max"
            callbacks.append(keras.callbacks.EarlyStopping(monitor, patience=options["patience"], mode=mode))
        same = ("epochs", "batch_size", "augment", "unknown", "learning_rate", "weight_decay", "warmup", "clip", "ema",
                "accumulate", "steps_per_execution", "scores", "save_every", "seed", "new", "dry_run",
                "tensorboard")  # fmt: skip
        return run(
            network, ds, out, validation=validation, monitor=monitor, callbacks=callbacks,
            jit_compile=True if options["xla"] else "auto", about=_about(name, network, options),
            **{key: options[key] for key in same},
        )  # fmt: skip


def _validation(name: str, options: dict[str, Any]) -> Any:
    from vtx_keras import data

    wanted = options["validation"]
    if wanted == "none":
        return None
    if wanted and wanted.lower().endswith((".csv", ".tsv")):
        return data.named(wanted, columns=options["columns"])
    try:
        if wanted or data.has_splits(name, options["columns"]):
            return data.named(name, wanted or "validation", options["folder"], options["columns"])
    except (ValueError, KeyError) as error:
        if wanted or "split" not in str(error):
            raise
    click.echo(f"vtx: {name} has no split called validation: nothing is validated", err=True)
    return None


def _network(model: str, ds: Any, options: dict[str, Any]) -> Any:
    from vtx_keras import zoo
    from vtx_keras.inputs import text
    from vtx_keras.models.options import lookup

    given = dict(_setting(one) for one in options["settings"])
    if options["size"]:
        given["size"] = options["size"]
    if zoo.is_saved(model):
        if given or options["dtype"] or options["vocabulary"] or options["weights"] != "none":
            raise ValueError(
                f"{model} is a saved model: leave out --set, --size, --dtype, --vocabulary and --weights, or name the "
                f"zoo's model and give --weights {model}"
            )
        network = zoo.load(model)
    else:
        weights = None if options["weights"] == "none" else options["weights"]
        entry = lookup(model)
        if entry.task in ("vqa", "classifier") and "classes" not in given and weights in (None, "encoders"):
            given["classes"] = _classes(ds)
            click.echo(f"{len(given['classes'])} classes, as in {options['split'] or 'the table'}", err=True)
        if options["vocabulary"]:
            learned = options["vocabulary"] == "train"
            given["vocabulary"] = text.learn(_texts(ds)) if learned else options["vocabulary"]
        network = zoo.build(model, weights=weights, dtype=options["dtype"], **given)
        for part in options["freeze"] if weights is None else ():
            raise ValueError(
                f"--freeze {part}: this encoder is new and would never learn. Begin with --weights encoders and a "
                f"published one, such as --set {part}_encoder={'mobilenet_v2' if part == 'image' else 'minilm_l6'}"
            )
    if options["freeze"]:
        network.freeze(*options["freeze"])
    return network


def _setting(one: str) -> tuple[str, Any]:
    name, equals, value = one.partition("=")
    if not equals:
        raise ValueError(f"--set {one}: expected OPTION=VALUE, such as dim=256")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, {"True": True, "False": False}.get(value, value)


def _classes(ds: Any) -> list[str]:
    """The labels there are, the most frequent first; numbers without names are their own names, in their order."""
    from collections import Counter

    import numpy as np

    from vtx_keras.data._examples import LABELS, plain, several

    found: Counter = Counter()
    most = -1  # of labels that are numbers
    for example in plain(ds):
        label = next((key for key in LABELS if key in example), None)
        if label is None:
            raise ValueError(f"examples have {sorted(example)}: this task learns an answer or label")
        found.update(several(example[label]))
        if np.asarray(example[label]).dtype.kind in "iu":
            most = max(most, int(np.max(example[label])))
    return [label for label, _ in found.most_common()] if most < 0 else list(map(str, range(most + 1)))


def _texts(ds: Any) -> list[str]:
    """All that is read or written."""
    import numpy as np

    from vtx_keras.data._examples import LABELS, plain, several
    from vtx_keras.inputs.text import TEXT_FIELDS

    return [
        text
        for example in plain(ds)
        for key in (*TEXT_FIELDS, "prompt", *LABELS)
        if key in example and np.asarray(example[key]).dtype.kind not in "iu"
        for text in several(example[key])
    ]


def _about(name: str, network: Any, options: dict[str, Any]) -> dict[str, Any]:
    """What run.json says beside what the run itself knows: data and licences."""
    from vtx_keras.checkpoints._encoders import PUBLISHED
    from vtx_keras.data import sets

    licences = {}
    known = sets.SETS.get(name.split("/")[0])
    if known:
        licences[name] = known.licence
    elif name.startswith("sample"):
        licences[name] = "see vtx_keras/sample/LICENCES.md"
    for option in ("image_encoder", "text_encoder"):
        encoder = network.options.get(option)
        if isinstance(encoder, str) and encoder in PUBLISHED:
            licences[encoder] = PUBLISHED[encoder].licence
    return {"arguments": {"data": name, **options}, "licences": licences}
