"""The command vtx train: train in a run folder. The same command again resumes the run."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
from pathlib import Path
from typing import Any

import click

from vtx_keras.cli._console import quiet, reporting_errors

STOPPED, DIVERGED = 75, 3
FEW_HELD_OUT = 8  # rows, too few to validate on
PHOTOS = "photos"  # the release from which captioners of own pictures start
USUAL = {"epochs": 10, "batch_size": 32, "repeats": 1, "learning_rate": 3e-4}
FEW = 300  # updates, too few for a captioner of a few hundred images to learn where captions end


@click.command()
@click.argument("model")
@click.option("--data", "name", required=True, help="A data set (sample, emoji, vqa_rad/official), a CSV or a folder.")
@click.option("--columns", metavar="OURS=THEIRS,...", help="Column mapping: image=photo,caption=title.")
@click.option("--allow-outside", is_flag=True, help="Read pictures outside the folder of a table, too.")
@click.option("--split", help="Split to train on [default: train; all rows of data without splits].")
@click.option("--validation", help="Split of the data, a CSV, or none [default: validation, if it exists].")
@click.option("--folder", type=click.Path(path_type=Path), help="Folder of data sets, as for vtx data.")
@click.option(
    "--weights",
    help="none, default, encoders, a tag or a folder [default: photos for a captioner of a CSV or folder, else none].",
)
@click.option("--size", type=click.Choice(["tiny", "small", "base"]), help="Preset of widths and depths.")
@click.option("--set", "settings", multiple=True, metavar="OPTION=VALUE", help="Model option: dim=256; repeatable.")
@click.option("--vocabulary", help="Vocabulary file; train: learn it from the texts; more: add their words.")
@click.option("--freeze", multiple=True, type=click.Choice(["image", "text", "words"]), help="Part to freeze.")
@click.option("--epochs", type=click.IntRange(1), help="[default: 10, for photos what suits the data]")
@click.option("--batch-size", type=click.IntRange(1), help="[default: 32, for photos what suits the data]")
@click.option(
    "--repeats", type=click.IntRange(1), help="Times that an epoch shows each example. [default: 1, as above]"
)
@click.option("--augment/--no-augment", default=False, show_default=True, help="Crop, rotate and recolour pictures.")
@click.option("--unknown", type=click.Choice(["error", "drop"]), default="error", help="Labels that are no class.")
@click.option("--learning-rate", type=float, help="[default: 0.0003, for photos what suits the data]")
@click.option("--weight-decay", type=float, default=0.05, show_default=True)
@click.option("--warmup", type=click.FloatRange(0, 1), default=0.05, show_default=True, help="Share of warm-up steps.")
@click.option("--clip", type=float, default=1.0, show_default=True, help="Largest gradient norm; 0 for none.")
@click.option("--ema", type=float, help="Momentum of averaged weights, such as 0.999.")
@click.option("--accumulate", type=click.IntRange(1), default=1, show_default=True, help="Batches per update.")
@click.option("--dtype", help="Keras dtype policy: mixed_bfloat16 or mixed_float16.")
@click.option("--xla", is_flag=True, help="Compile with XLA and static shapes.")
@click.option("--steps-per-execution", type=click.IntRange(1), default=1, show_default=True)
@click.option("--parallel", type=click.Choice(["data", "model"]), help="Spread over the devices of this host.")
@click.option("--coordinator", help="address:port of process 0, for several hosts (JAX).")
@click.option("--processes", type=click.IntRange(1), default=1, help="Number of hosts.")
@click.option("--process", type=click.IntRange(0), default=0, help="Number of this host, from 0.")
@click.option("--scores", type=click.IntRange(1), metavar="N", help="Score the model on N examples per epoch.")
@click.option("--monitor", help="Metric that selects best [default: val_loss; of a generator the latest].")
@click.option("--patience", type=click.IntRange(1), help="Stop after this many epochs without improvement.")
@click.option("--save-every", type=click.IntRange(1), default=200, show_default=True, help="Steps between states.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="Run folder [default: runs/MODEL, numbered].")
@click.option("--new", is_flag=True, help="Start a new run even if the same one is unfinished.")
@click.option("--dry-run", is_flag=True, help="Print shapes, steps and memory, and do not train.")
@click.option("--tensorboard", is_flag=True, help="Also write TensorBoard logs.")
def train(model: str, name: str, **options: Any) -> None:
    """Train a model on a data set, a CSV or a folder.

    MODEL is a name of the zoo or a saved model. The run folder gets run.json, results.csv and .png, samples.html, and
    the weights folders best and last. Run the same command again to resume an interrupted run; the result is the same
    as without the interruption.

    Exit codes: 0 success, 2 error, 3 the loss became NaN or infinite, 75 stopped by a signal (run the command again to
    resume).

    \b
    vtx train cross_attn_captioner --weights emoji --data sample --freeze image
    vtx train cross_attn_captioner --data sample --size tiny
    vtx train gated_vqa --data vqa_rad/official --set image_encoder=efficientnet_lite0 --weights encoders --freeze image
    """
    with reporting_errors():
        with quiet():
            import keras
            from keras import ops

            from vtx_keras.train._callbacks import Diverged, Stopped

            ops.zeros(1)  # initialises the devices, which logs
        try:
            if options["coordinator"]:
                from vtx_keras.train import parallel

                parallel.join(options["coordinator"], options["processes"], options["process"])
            keras.utils.set_random_seed(options["seed"])
            ds = _examples(name, options)
            options = _with_defaults(model, name, ds, options)
            history = _run(model, name, ds, options)
        except (Stopped, Diverged) as error:
            click.echo(f"vtx: {error}", err=True)
            raise SystemExit(STOPPED if isinstance(error, Stopped) else DIVERGED) from error
    if not options["dry_run"]:
        reports = sorted(history.folder.glob("results.*")) + sorted(history.folder.glob("*.html"))
        click.echo(f"{history.folder}: best and last weights, {', '.join(path.name for path in reports)}")
        _warn_of_few(model, history, options)
        held_out = options["validation"] or "validation"
        worries = json.loads((history.folder / "run.json").read_text("utf-8")).get("worries", [])
        for line in worries:
            click.echo(f"vtx: {line}", err=True)
        own = held_out.lower().endswith((".csv", ".tsv"))
        if (history.folder / "samples.html").is_file() and not own and not worries:
            data_options = [f"--{key}={options[key]}" for key in ("columns", "folder") if options[key]]
            data_options += ["--allow-outside"] * options["allow_outside"]
            command = ["vtx", "eval", f"{history.folder}/best", "--data", name, *data_options, "--split", held_out]
            click.echo(f"next: {shlex.join(command)}")


def _with_defaults(model: str, name: str, ds: Any, options: dict[str, Any]) -> dict[str, Any]:
    """Fill in where to start: a captioner of own pictures starts from photographs."""
    from vtx_keras import zoo
    from vtx_keras.checkpoints._folder import released_tags
    from vtx_keras.data._load import is_catalogued
    from vtx_keras.models.options import lookup

    own = "path" in ds.encoded.element_spec and not is_catalogued(name)  # a table or a folder of the user's
    changed = options["settings"] or options["size"] or options["vocabulary"] or options["dtype"] or zoo.is_saved(model)
    known = not changed and lookup(model).task == "captioner" and PHOTOS in released_tags(model)
    if options["weights"] is None and own and known:
        found = {"weights": PHOTOS, "freeze": ("image",), "vocabulary": "more", "hold_out": True, "suited": True}
        click.echo(
            f"starts from {model}/{PHOTOS} for {len(_texts(ds))} captions of {len(ds)} pictures; --weights none starts "
            "anew",
            err=True,
        )
    else:
        found = {"weights": "none", "hold_out": False, "suited": False}
    return _filled(options, found)


def _filled(options: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """Return options with those that were not given as found."""
    return {**options, **{key: value for key, value in found.items() if options.get(key) in (None, ())}}


def _examples(name: str, options: dict[str, Any]) -> Any:
    """Return the examples to train on; sets the split, if the data have splits and none was named."""
    from vtx_keras import data

    if options["split"] is None and data.has_splits(name, options["columns"]):
        options["split"] = "train"
    return data.named(name, options["split"], **_place(options))


def _place(options: dict[str, Any]) -> dict[str, Any]:
    """Return where data are, and how they are read."""
    return {key: options[key] for key in ("folder", "columns", "allow_outside")}


def _warn_of_few(model: str, history: Any, options: dict[str, Any]) -> None:
    """Warn if new layers got too few updates."""
    from vtx_keras import zoo
    from vtx_keras.checkpoints._folder import released_tags

    updates = history.params["steps"] * len(history.epoch) // options["accumulate"]
    if options["weights"] not in ("none", "encoders") or zoo.is_saved(model) or updates >= FEW:
        return
    advice = ["more --epochs", "a smaller --batch-size", "--learning-rate 1e-3", "--vocabulary train"]
    if released_tags(model):
        advice.append("--weights default, to start from the released weights")
    click.echo(
        f"vtx: {updates} updates are few for layers that start from random weights. If the model has not learned: "
        f"{', '.join(advice)}",
        err=True,
    )


def _warn_of_unseen(texts: list[str], held_out: list[str]) -> None:
    """Warn if most words of the validation texts are new: their scores then say little about the model."""
    known = {word for text in texts for word in text.lower().split()}
    words = [word for text in held_out for word in text.lower().split()]
    unseen = [word for word in words if word not in known]
    if 2 * len(unseen) > len(words):
        click.echo(
            f"vtx: {len(unseen)} of {len(words)} words of the validation texts are in no training text "
            f"({unseen[0]}, …): no model learns them from these. Validate on texts like those "
            "for training, or --validation none",
            err=True,
        )


def _run(model: str, name: str, ds: Any, options: dict[str, Any]) -> Any:
    import keras

    from vtx_keras.train import parallel
    from vtx_keras.train._callbacks import lower_is_better
    from vtx_keras.train._run import run

    validation = _validation(name, options)
    if validation is None and options["validation"] is None and options["hold_out"]:
        ds, validation = _parted(ds)
    if validation is not None and "path" in ds.encoded.element_spec:
        _warn_of_unseen(_texts(ds), _texts(validation))
    devices = parallel.over(options["parallel"]) if options["parallel"] else contextlib.nullcontext()
    out = options["out"]
    if options["process"]:  # host 0 writes the run folder; the others need folders of their own
        out = Path(f"{out or 'runs/' + Path(model).name}-host{options['process']}")
    with devices:
        network = _network(model, ds, options)
        options = _suited(network, ds, options) if options["suited"] else _filled(options, USUAL)
        callbacks = []
        monitor = options["monitor"] or ("val_loss" if validation is not None else "loss")
        if options["patience"]:
            mode = "min" if lower_is_better(monitor) else "max"
            callbacks.append(keras.callbacks.EarlyStopping(monitor, patience=options["patience"], mode=mode))
        passed_on = (
            "epochs", "batch_size", "repeats", "augment", "unknown", "learning_rate", "weight_decay", "warmup", "clip",
            "ema", "accumulate", "steps_per_execution", "scores", "save_every", "seed", "new", "dry_run", "tensorboard",
        )  # fmt: skip
        return run(
            network, ds, out, validation=validation, monitor=monitor, callbacks=callbacks,
            jit_compile=True if options["xla"] else "auto", about=_about(name, network, options),
            **{key: options[key] for key in passed_on},
        )  # fmt: skip


def _suited(network: Any, ds: Any, options: dict[str, Any]) -> dict[str, Any]:
    """Fill in the settings that suit the data, and tell them."""
    from vtx_keras.train._settings import MEASURED, NEAR, by_distance, loss_of

    loss = loss_of(network, ds.take(MEASURED), (options["out"] or Path("runs/run")).parent)
    options = _filled(options, by_distance(len(ds), loss))
    click.echo(
        f"the captions are {'near to' if loss < NEAR else 'far from'} what it writes (loss {loss:.1f} a word): "
        f"{options['epochs']} epochs that show each picture {options['repeats']} times, batches of "
        f"{options['batch_size']}, learning rate {options['learning_rate']:g}",
        err=True,
    )
    return options


def _parted(ds: Any) -> tuple[Any, Any]:
    """Return the examples to train on, and those of about a tenth of the pictures; (all, None) if those are few."""
    import tensorflow as tf

    from vtx_keras import data

    def kept(row: dict) -> Any:
        name = tf.strings.regex_replace(row["path"], r".*[/\\]", "")  # the folder may move
        return tf.strings.to_hash_bucket_fast(name, 10) > 0

    parts = [data.Examples(ds.encoded.filter(one)) for one in (kept, lambda row: tf.logical_not(kept(row)))]
    train, held_out = (sum(1 for _ in part.encoded.map(lambda row: True)) for part in parts)
    if held_out < FEW_HELD_OUT:
        return ds, None
    click.echo(f"{held_out} of {train + held_out} rows, of a tenth of the pictures, are held out to validate", err=True)
    counted = [tf.data.experimental.assert_cardinality(count) for count in (train, held_out)]
    return tuple(data.Examples(part.encoded.apply(one)) for part, one in zip(parts, counted, strict=True))


def _validation(name: str, options: dict[str, Any]) -> Any:
    from vtx_keras import data

    validation = options["validation"]
    if validation == "none":
        return None
    if validation and validation.lower().endswith((".csv", ".tsv")):
        return data.named(validation, **{**_place(options), "folder": None})
    try:
        if validation or data.has_splits(name, options["columns"]):
            return data.named(name, validation or "validation", **_place(options))
    except (ValueError, KeyError) as error:
        if validation or "split" not in str(error):
            raise
    click.echo(f"vtx: {name} has no split called validation: nothing is validated", err=True)
    return None


def _network(model: str, ds: Any, options: dict[str, Any]) -> Any:
    from vtx_keras import zoo
    from vtx_keras.checkpoints import published
    from vtx_keras.checkpoints._folder import find, read_config
    from vtx_keras.inputs import text
    from vtx_keras.models.options import lookup

    overrides = dict(_setting(setting) for setting in options["settings"])
    if options["size"]:
        overrides["size"] = options["size"]
    if zoo.is_saved(model):
        if overrides or options["dtype"] or options["vocabulary"] or options["weights"] != "none":
            raise ValueError(
                f"{model} is a saved model: leave out --set, --size, --dtype, --vocabulary and --weights, or name the "
                f"zoo's model and give --weights {model}"
            )
        network = zoo.load(model)
    else:
        weights = None if options["weights"] == "none" else options["weights"]
        entry = lookup(model)
        if entry.task in ("vqa", "classifier") and "classes" not in overrides and weights in (None, "encoders"):
            overrides["classes"] = _classes(ds)
            click.echo(f"{len(overrides['classes'])} classes, as in {options['split'] or 'the table'}", err=True)
        if options["vocabulary"]:
            overrides["vocabulary"] = options["vocabulary"]
            if options["vocabulary"] == "train":
                overrides["vocabulary"] = text.learn(_texts(ds))
            elif options["vocabulary"] == "more":
                if weights in (None, "encoders"):
                    raise ValueError("--vocabulary more adds words to those of a model: name it with --weights")
                if published.is_published(weights):
                    raise ValueError(f"--vocabulary more: {weights} has a tokenizer of its own: leave it out")
                released = read_config(find(model, str(weights), entry.default))
                overrides["vocabulary"] = text.extended(released["vocabulary"], _texts(ds))
        network = zoo.build(model, weights=weights, dtype=options["dtype"], **overrides)
        for part in options["freeze"] if weights is None else ():
            raise ValueError(
                f"--freeze {part}: this encoder is new and would never learn. Start with --weights encoders and a "
                f"published one, such as --set {part}_encoder={'mobilenet_v2' if part == 'image' else 'minilm_l6'}"
            )
    if options["freeze"]:
        network.freeze(*options["freeze"])
    return network


def _setting(setting: str) -> tuple[str, Any]:
    """Read OPTION=VALUE; a shape may be written without brackets, which some shells expand.

    >>> _setting("image_shape=97x97"), _setting("image_shape=97x97x3"), _setting("dim=256")
    (('image_shape', [97, 97, 3]), ('image_shape', [97, 97, 3]), ('dim', 256))
    """
    name, equals, value = setting.partition("=")
    if not equals:
        raise ValueError(f"--set {setting}: expected OPTION=VALUE, such as dim=256")
    if name == "image_shape" and re.fullmatch(r"\d+(x\d+)+", value):
        sides = [int(side) for side in value.split("x")]
        return name, sides if sides[-1] == 3 else [*sides, 3]
    try:
        return name, json.loads(value)
    except ValueError:
        return name, {"True": True, "False": False}.get(value, value)


def _classes(ds: Any) -> list[str]:
    """Return the labels of the data, the most frequent first; class numbers become names in numerical order."""
    from collections import Counter

    import numpy as np

    from vtx_keras.data._examples import LABELS, as_numpy, as_texts

    counts: Counter = Counter()
    largest = -1  # label that is a number
    for example in as_numpy(ds):
        label = next((key for key in LABELS if key in example), None)
        if label is None:
            raise ValueError(f"examples have {sorted(example)}: this task learns an answer or label")
        counts.update(as_texts(example[label]))
        if np.asarray(example[label]).dtype.kind in "iu":
            largest = max(largest, int(np.max(example[label])))
    return [label for label, _ in counts.most_common()] if largest < 0 else list(map(str, range(largest + 1)))


def _texts(ds: Any) -> list[str]:
    """Return all texts that the model reads or writes."""
    import numpy as np

    from vtx_keras.data._examples import LABELS, as_numpy, as_texts
    from vtx_keras.inputs.text import TEXT_FIELDS

    return [
        text
        for example in as_numpy(ds)
        for key in (*TEXT_FIELDS, "prompt", *LABELS)
        if key in example and np.asarray(example[key]).dtype.kind not in "iu"
        for text in as_texts(example[key])
    ]


def _about(name: str, network: Any, options: dict[str, Any]) -> dict[str, Any]:
    """Return fields of run.json that the run does not know: arguments and licences."""
    from vtx_keras.checkpoints.published._encoders import PUBLISHED
    from vtx_keras.data import sets

    licences = {}
    data_set = sets.SETS.get(name.split("/")[0])
    if data_set:
        licences[name] = data_set.licence
    elif name.startswith("sample"):
        licences[name] = "see vtx_keras/sample/LICENCES.md"
    for option in ("image_encoder", "text_encoder"):
        encoder = network.options.get(option)
        if isinstance(encoder, str) and encoder in PUBLISHED:
            licences[encoder] = PUBLISHED[encoder].licence
    return {"arguments": {"data": name, **options}, "licences": licences}
