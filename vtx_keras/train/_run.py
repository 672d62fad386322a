"""Run `fit` in a folder: prepare data and optimizer, resume an interrupted run, and return the whole history."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shlex
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras

from vtx_keras._compat import build_training, clear_lora, counted
from vtx_keras.checkpoints import load, save
from vtx_keras.checkpoints._folder import digest
from vtx_keras.data._memory import Batches
from vtx_keras.models._base import VisionText, leaves
from vtx_keras.models._drawing import Generator
from vtx_keras.models.options import did_you_mean
from vtx_keras.train import _folder as run_folder
from vtx_keras.train._callbacks import LATEST, AveragedWeights, Checkpointer, Concerns, Diverged, Stopped
from vtx_keras.train._report import Progress
from vtx_keras.train._settings import Settings, by_cider_of, check_reward, optimizer_of

PIXEL_CHANGES = ("crop", "flip", "rotation", "colour", "background")


class RunHistory(keras.callbacks.History):
    """A Keras `History` of all epochs of a run, with the run's `folder`."""

    folder: Path


def run(
    model: VisionText,
    data: Any,
    folder: str | os.PathLike | None = None,
    *,
    validation: Any = None,
    text: Any = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    optimizer: keras.optimizers.Optimizer | None = None,
    about: Mapping[str, Any] | None = None,
    settings: Settings | None = None,
    **options: Any,
) -> RunHistory:
    """Run `fit` in a folder; killed at any step and called again, it resumes and ends with the same bits.

    `data` and `validation` are examples (`data.load`, `data.from_csv`, your `tf.data`), or `data.arrays` where there is
    no TensorFlow. `folder` is made, or continued; without one it is the unfinished run of the same settings in `runs/`,
    else the next free `runs/NAME-N`. It gets `run.json`, `results.csv`, `results.png`, `samples.html`, and the weights
    folders `best/` (by `monitor`, else the validation loss) and `last/`, which `zoo.build(weights=…)` takes.
    `scores=200` scores the model's captions or answers for that many validation examples after each epoch.

    A captioner with concepts also learns from sentences alone (`data.sentences`): given as `data`, or as `text` beside
    the pictures, `texts=0.5` of them for each row.

    `options` are those of `train.Settings` (`epochs`, `batch_size`, `learning_rate`, `augment`, `ema`, `seed` ...), or
    `settings` gives them as one object. The optimizer is `train.adamw` with these settings, or yours. `callbacks` are
    Keras' own or others', such as loggers: a resumed run restores their attributes that are numbers or strings, and no
    other state; steps since the last saved state are logged once more. If the image encoder is frozen and images are
    not augmented, each image is encoded once (`data.features`, in `features/` beside the run). Returns Keras' `History`
    of all epochs, those before a restart too, with the run's `folder`.

    >>> import tempfile
    >>> from vtx_keras import data, zoo
    >>> model = zoo.build("gated_captioner", weights=None, dim=32, depth=1, vision_depth=1, image_shape=(32, 32, 3))
    >>> pairs = data.arrays(model, np.zeros((4, 32, 32, 3)), ["a cat", "a dog", "two birds", "a tree"], batch_size=2)
    >>> history = run(model, pairs, tempfile.mkdtemp() + "/mine", epochs=2, verbose=False)
    >>> sorted(path.name for path in history.folder.iterdir() if path.is_dir())
    ['best', 'last', 'states']
    """
    if settings is not None and options:
        raise TypeError(f"settings= and {', '.join(options)}: expected one of the two")
    how = settings or Settings.of(**options)
    _check(model, data, callbacks, optimizer, how)
    root = Path(folder).parent if folder is not None else Path("runs")
    alone = text is None and not isinstance(data, Batches) and not _has_pictures(data)
    if how.objective == "cider":
        check_reward(model, data, validation, told=text is not None or alone)
    trained, data, validation_examples = _behind_frozen_encoder(
        model, data, validation, how, root, told=text is not None or alone, alone=alone
    )
    behind = trained is not model
    if how.repeats > 1:
        data = _repeated(data, how.repeats)
    if how.objective == "cider":
        trained = by_cider_of(trained, data, validation_examples, how)
    static = how.jit_compile is True or keras.distribution.distribution() is not None
    common = {"batch_size": how.batch_size, "buckets": how.buckets, "unknown": how.unknown, "static": static}
    if alone or text is not None:
        from vtx_keras.data._behind import prepared

        common["beside"] = prepared(data if alone else text, model)
    beside = {} if alone else {"training": True, "augment": how.augment, "beside_share": how.texts}
    source = _source(data, trained, seed=how.seed, alone=alone, **beside, **common)
    common.pop("beside", None)
    held_out = None if validation is None else _source(validation_examples, trained, **{**common, "unknown": "drop"})
    monitor = how.monitor or _monitor_of(model, held_out, how)
    if optimizer is None:
        optimizer = optimizer_of(trained, source.steps * how.epochs, how)
    built = {"overrides": _as_before(model.options), "vocabulary": model.vocabulary, "dtype": model.spec["dtype"]}
    identity = {
        "model": model.spec["name"],
        "options": _hash(built),
        "trainable": _hash([variable.path for variable in trained.trainable_variables]),
        "start": digest(model),
        "data": source.fingerprint,
        "validation": held_out.fingerprint if held_out else None,
        "optimizer": _unnamed(keras.saving.serialize_keras_object(optimizer)),
        "epochs": how.epochs, "batch_size": how.batch_size, "augment": how.augment, "seed": how.seed,
        "monitor": monitor, "backend": keras.backend.backend(), "steps_per_execution": how.steps_per_execution,
        "jit_compile": how.jit_compile, "callbacks": [type(callback).__name__ for callback in callbacks],
        "scores": how.scores, "tensorboard": how.tensorboard, **how.later(),
    }  # fmt: skip
    folder, resumed = run_folder.choose(folder, model.spec["name"], identity, how.new)
    _compile(trained, optimizer, how, model.run_eagerly)
    first = _first(source)
    build_training(trained, first)  # creates the variables of optimizer and metrics, which states hold
    _check_monitor(monitor, trained, how.scores, callbacks)
    with run_folder.locked(folder), Progress(how.epochs, source.steps, how.verbose) as progress:
        if how.dry_run:
            return _dry_run(trained, first, source, model, folder, how.epochs)
        run_folder.clean(folder / run_folder.STATES)
        position, values = _position(folder, progress) if resumed else ({}, [])
        if resumed and (position.get("ended") or run_folder.read(folder)["state"] == "finished"):
            run_folder.update(folder, state="finished", best=position.get("best"))
            return _finished(model, folder, progress, how.epochs, source.steps)
        run_folder.check_room(folder, 3 * run_folder.size_of(trained) + 3 * 4 * model.count_params())
        record = {"identity": identity, "command": shlex.join(sys.argv), **run_folder.surroundings(), **(about or {})}
        run_folder.update(folder, state="training", **({} if resumed else record))
        averaged, samples = AveragedWeights(), _samples_writer(model, validation, how.samples)
        others = [
            *_scoring(model, validation_examples, how.scores, behind),
            *callbacks,
            *([_tensorboard(folder)] if how.tensorboard else []),
            *([Concerns(progress.say)] if isinstance(model, Generator) else []),
        ]
        checkpointer = Checkpointer(
            folder, model, source, averaged, epochs=how.epochs, save_every=how.save_every, monitor=monitor,
            others=others, position=position, values=values, held_out=held_out, samples=samples, progress=progress,
        )  # fmt: skip
        progress.say(_opening(folder, position, source, how.epochs))
        try:
            with checkpointer.handling_signals(), warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Your input ran out of data")  # a resumed epoch is shorter
                trained.fit(
                    source.batches, validation_data=held_out and held_out.batches, initial_epoch=checkpointer.epoch,
                    epochs=how.epochs, shuffle=False, verbose=0, callbacks=[averaged, *others, checkpointer],
                )  # fmt: skip
        except (Diverged, Stopped) as error:
            with contextlib.suppress(OSError):  # report the error above, not a full disk
                run_folder.update(folder, state=f"{type(error).__name__.lower()}: {error}")
            raise
        found = {"seconds": round(checkpointer.position()["seconds"], 1), "worries": checkpointer.worries()}
        run_folder.update(folder, state="finished", best=checkpointer.best, **found)
        return _history(model, folder, checkpointer.rows, how.epochs, source.steps)


def _check(model: Any, data: Any, callbacks: Sequence[Any], optimizer: Any, how: Settings) -> None:
    """Raise an error for arguments that do not go together, before any data is read."""
    if not isinstance(model, VisionText):
        raise TypeError(f"train.run takes a model from zoo.build, not a {type(model).__name__}: call its own fit")
    if optimizer is not None and (how.ema is not None or how.accumulate > 1):
        raise ValueError("optimizer= is yours: give it use_ema and gradient_accumulation_steps yourself")
    for name, wanted in (("augment", how.augment), ("repeats", how.repeats > 1)):
        if isinstance(data, Batches) and wanted:
            raise ValueError(f"{name}= needs examples, such as those of data.load; data.arrays are batches already")
    for callback in callbacks:
        if isinstance(callback, keras.callbacks.SwapEMAWeights):
            raise ValueError("a run swaps averaged weights by itself: pass ema=0.999 and leave SwapEMAWeights out")
        if isinstance(callback, keras.callbacks.BackupAndRestore):
            raise ValueError("a run keeps and restores its own states: leave BackupAndRestore out")
        if isinstance(callback, keras.callbacks.ReduceLROnPlateau) and optimizer is None:
            raise ValueError("the run's own optimizer follows a schedule: ReduceLROnPlateau needs optimizer= of yours")


def _monitor_of(model: VisionText, held_out: Any, how: Settings) -> str:
    """Return the metric that selects `best`. The losses of a generator say nothing of its pictures."""
    if isinstance(model, Generator):
        return "val_frechet" if how.scores else LATEST
    return ("val_" if held_out else "") + ("loss" if how.objective == "words" else "reward")


def _check_monitor(monitor: str, trained: VisionText, scores: int, callbacks: Sequence[Any]) -> None:
    """Raise an error before training if no epoch will have the monitored metric; callbacks may add others."""
    names = trained.get_metrics_result()
    available = {*names, *(f"val_{name}" for name in names)}
    others = [callback for callback in callbacks if not isinstance(callback, keras.callbacks.EarlyStopping)]
    if monitor not in {*available, LATEST} and not scores and not others:
        hint = "; scores=200 (--scores 200) adds scores of the outputs"
        raise ValueError(
            f"monitor={monitor!r}{did_you_mean(monitor, available)}: expected {', '.join(sorted(available))}{hint}"
        )


def _has_pictures(data: Any) -> bool:
    spec = getattr(getattr(data, "encoded", data), "element_spec", {"image": None})
    return not isinstance(spec, dict) or bool({"image", "path"} & set(spec))


def _behind_frozen_encoder(
    model: VisionText, data: Any, validation: Any, settings: Settings, root: Path, *, told: bool, alone: bool
) -> tuple[VisionText, Any, Any]:
    """With a frozen image encoder, return the model behind it, and data with cached features in place of images.

    With `told`, for sentences beside pictures or `alone`, the model also reads what is seen.
    """
    if told and (not model.has_layer("concepts") or model.get_layer("image_encoder").trainable):
        raise ValueError(
            "sentences without pictures teach a captioner with concepts, behind a frozen encoder: build it with "
            'concepts=5 and call model.freeze("image")'
        )
    if isinstance(data, Batches) or not model.has_layer("image_encoder"):
        return model, data, validation
    from vtx_keras.data import features
    from vtx_keras.data._pipeline import augmentation

    how = augmentation(settings.augment)
    if model.get_layer("image_encoder").trainable or any(how.get(name) for name in PIXEL_CHANGES):
        return model, data, validation
    if settings.verbose and not alone:
        print(f"the image encoder is frozen: each picture is encoded once (features in {root / 'features'})")
    folder = root / "features"
    data = data if alone else features(data, model, folder, seen=told)
    validation = None if validation is None else features(validation, model, folder, seen=told)
    return model.behind_encoder(told), data, validation


def _repeated(ds: Any, times: int) -> Any:
    from vtx_keras.data import Examples
    from vtx_keras.data._examples import encoded_of

    return Examples(encoded_of(ds).repeat(times))


def _source(ds: Any, model: VisionText, **how: Any) -> Any:
    """Return the `Epochs` of examples or arrays."""
    if isinstance(ds, Batches):
        return SimpleNamespace(
            batches=ds, steps=ds.steps, begin=ds.begin, rows_of=ds.rows_of, fingerprint=ds.fingerprint
        )
    from vtx_keras.data._behind import sentence_epochs
    from vtx_keras.data._pipeline import epochs

    alone = how.pop("alone", False)
    if alone:
        result = sentence_epochs(how["beside"], model, batch_size=how["batch_size"], seed=how["seed"])
    else:
        result = epochs(ds, model, **how)
    return result._replace(batches=counted(result.batches, result.steps))


def _compile(model: VisionText, optimizer: Any, settings: Settings, eager: bool) -> None:
    """Compile the model with its own loss and metrics and the run's optimizer."""
    try:
        config = keras.saving.deserialize_keras_object(model.get_compile_config())
    except (TypeError, ValueError) as error:
        raise ValueError(
            "the model was compiled with a loss or metric that Keras cannot find by name: decorate it with "
            f"keras.saving.register_keras_serializable() ({error})"
        ) from error
    steps = settings.steps_per_execution
    config.update(optimizer=optimizer, run_eagerly=eager, jit_compile=settings.jit_compile, steps_per_execution=steps)
    model.compile(**config)


def _position(folder: Path, progress: Progress) -> tuple[dict, list]:
    """Read position and values of the newest intact state, and report damaged ones."""
    position, values, messages = run_folder.latest(folder / run_folder.STATES)
    for message in messages:
        progress.say(message)
    if not position and messages:
        progress.say(f"{folder} has no sound state: it starts from the beginning")
    return position, values


def _opening(folder: Path, position: dict, source: Any, epochs: int) -> str:
    """Say where the run starts."""
    if not position:
        return f"{folder}: {epochs} epochs of {source.steps} batches"
    at = f"epoch {position['epoch'] + 1} of {epochs}, after batch {position['done']} of {source.steps}"
    return f"{folder}: resumes in {at}"


def _history(model: VisionText, folder: Path, rows: list[dict], epochs: int, steps: int) -> RunHistory:
    """Return the history of all epochs, including those of earlier processes."""
    history = RunHistory()
    history.set_model(model)
    history.set_params({"verbose": 0, "epochs": epochs, "steps": steps})
    history.epoch = [row["epoch"] - 1 for row in rows]
    names = dict.fromkeys(name for row in rows for name in row if name != "epoch")
    history.history = {name: [row[name] for row in rows if name in row] for name in names}
    history.folder = folder
    return history


def _finished(model: VisionText, folder: Path, progress: Progress, epochs: int, steps: int) -> RunHistory:
    """Load the last weights of a finished run into the model, and return its history."""
    progress.say(f"{folder} is finished: its last weights are loaded. Give another folder to train again")
    for layer, saved in zip(leaves(model), leaves(load(folder / "last")), strict=True):
        if getattr(layer, "lora_enabled", False):  # its update was merged when the model was saved
            clear_lora(layer)
        for variable, value in zip(_without_lora(layer), saved.weights, strict=True):
            variable.assign(value)
    position, _, _ = run_folder.latest(folder / run_folder.STATES)
    return _history(model, folder, position.get("rows", []), epochs, steps)


def _without_lora(layer: keras.layers.Layer) -> list:
    return [variable for variable in layer.weights if not variable.name.startswith("lora_")]


def _first(source: Any) -> tuple:
    """Return the first batch as NumPy arrays."""
    batch = source.batches[0] if isinstance(source.batches, Batches) else next(iter(source.batches))
    return keras.tree.map_structure(keras.ops.convert_to_numpy, batch)


def _dry_run(
    trained: VisionText, first: tuple, source: Any, model: VisionText, folder: Path, epochs: int
) -> RunHistory:
    """Print shapes, parameters, steps and memory; save once and train one batch, and undo both."""
    import resource

    with tempfile.TemporaryDirectory(prefix=".dry-", dir=folder) as temporary:
        save(model, Path(temporary) / "last")
        before = run_folder.values_of(trained)
        run_folder.save_state(Path(temporary) / run_folder.STATES, trained, {}, 0)
    inputs, labels, weight = first
    shapes = {name: tuple(value.shape) for name, value in inputs.items()}
    trainable = sum(int(keras.ops.size(variable)) for variable in trained.trainable_variables)
    loss = trained.train_on_batch(inputs, labels, weight, return_dict=True)["loss"]
    run_folder.restore(trained, before)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)
    print(
        f"inputs      {', '.join(f'{name} {shape}' for name, shape in shapes.items())}\n"
        f"parameters  {model.count_params():,d}, of which {trainable:,d} are trained\n"
        f"steps       {epochs} epochs of {source.steps} batches: {epochs * source.steps:,d}\n"
        f"memory      {peak:,.0f} MB at its peak, in one step of this batch size\n"
        f"states      {run_folder.size_of(trained) / 1e6:,.0f} MB each, two are kept\n"
        f"loss        {float(loss):.4f} before training\n"
        f"saved       in {folder}, and removed: this model can be saved"
    )
    return _history(model, folder, [], epochs, source.steps)


def _scoring(model: VisionText, validation: Any, count: int, behind: bool) -> list[keras.callbacks.Callback]:
    """Return the callback that scores the model, `behind` its encoder if validation examples hold features."""
    if not count:
        return []
    if validation is None or isinstance(validation, Batches):
        raise ValueError(f"scores={count}: scores are those of validation examples, so pass validation=")
    from vtx_keras.evaluate._run import Scores

    return [Scores(validation, limit=count, whole=model.behind_encoder() if behind else model)]


def _samples_writer(model: VisionText, validation: Any, count: int) -> Callable[[Path], list] | None:
    if not count or validation is None or isinstance(validation, Batches):
        return None
    from vtx_keras.train._report import samples_writer

    return samples_writer(model, validation, count)


def _tensorboard(folder: Path) -> keras.callbacks.Callback:
    try:
        import tensorboard  # noqa: F401
    except ImportError as error:
        raise ImportError("TensorBoard logs were asked for: pip install tensorboard") from error
    return keras.callbacks.TensorBoard(folder / "tensorboard")


def _unnamed(config: Any) -> Any:
    """Remove the names that Keras numbers within a process, and the modules of classes, from a config."""
    if not isinstance(config, dict):
        return config
    return {key: _unnamed(value) for key, value in config.items() if key not in ("name", "module")}


def _as_before(options: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out the options that came later where they are not used, so that earlier runs resume.

    >>> _as_before({"dim": 8, "concepts": 0, "text_decoder": "blocks"})
    {'dim': 8}
    """
    later = {"concepts": 0, "text_decoder": "blocks", "fuse_every": 0, "image_words": 0, "shapes": {}}
    return {name: value for name, value in options.items() if name not in later or value != later[name]}


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
