"""Search for the settings of a captioner behind a frozen image encoder: learning rate, width, dropout and fusion.

    pip install "vtx_keras[study]"                         # keras-tuner
    python -m recipes.study                                # the bundled drawings: two or three minutes on two cores
    python -m recipes.study --data mine.csv --encoder efficientnet_lite0 --side 224 --trials 30 --epochs 10
    python -m recipes.study --trials 12                    # four more trials of the first study

A trial is a run of `train.run` in OUT/TRIAL. The encoder encodes each picture once, for all trials: their features are
in OUT/features. A study that was killed and is started again keeps the trials that had finished, and the one that had
not goes on from its last state. OUT/trials.csv has them all, and the last line printed is the best as a command of
`vtx train`. It is best on the pictures that it was chosen by: judge it on others.
"""

from __future__ import annotations

import argparse
import csv
import json
import shlex
from pathlib import Path
from typing import Any

import keras

from vtx_keras import data, text, train, zoo
from vtx_keras.data._examples import as_texts

FUSIONS = ("concat_mlp", "gated", "cross_attn", "merged_attn")
COLUMNS = ("trial", "val_loss", "val_accuracy", "epoch", "fusion", "dim", "dropout", "learning_rate")


def main() -> None:
    """Run the trials that are missing, write OUT/trials.csv, and print the table and the best command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="sample", help="with the splits train and validation")
    parser.add_argument("--encoder", default="mobilenet_v2_emoji", help="a published image encoder, which stays frozen")
    parser.add_argument("--side", type=int, default=97, help="of the pictures that the encoder takes")
    parser.add_argument("--dims", type=int, nargs="+", default=[64, 128], help="widths to choose from")
    parser.add_argument("--fusions", nargs="+", default=list(FUSIONS), choices=FUSIONS)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--trials", type=int, default=8, help="in all, those of earlier starts too")
    parser.add_argument("--search", default="random", choices=("random", "bayesian"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="runs/study", type=Path)
    parser.add_argument("--allow-outside", action="store_true", help="read pictures outside the table's folder")
    args = parser.parse_args()

    same_as_before(args)
    examples, held_out = (
        data.named(args.data, split, allow_outside=args.allow_outside) for split in ("train", "validation")
    )
    captions = examples.encoded.map(lambda row: row["caption"]).as_numpy_iterator()
    words = text.learn([one for caption in captions for one in as_texts(caption)])
    tuner = tuner_of(args, lambda values, folder: tried(values, folder, args, examples, held_out, words))
    tuner.search()
    rows = written(tuner, args.out)
    for row in ({name: name for name in COLUMNS}, *rows):
        print("  ".join(f"{row[name]!s:>13}" for name in COLUMNS))
    print(command(rows[0], args))


def same_as_before(args: argparse.Namespace) -> None:
    """Write the study's settings into its folder, or raise an error if the folder holds another study."""
    settings = {name: value for name, value in vars(args).items() if name not in ("trials", "out", "allow_outside")}
    path = args.out / "study.json"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(settings, indent=1) + "\n")
    before = json.loads(path.read_text())
    if before != settings:
        other = [f"{name}={before.get(name)!r}" for name in settings if before.get(name) != settings[name]]
        raise SystemExit(f"{args.out} holds a study with {', '.join(other)}: use these settings, or another --out")


def tuner_of(args: argparse.Namespace, trial_of: Any) -> Any:
    """Return a tuner that calls `trial_of(values, folder)` for each trial, and reads the trials of earlier starts."""
    try:
        import keras_tuner
    except ImportError as error:
        raise SystemExit('a study needs keras-tuner: pip install "vtx_keras[study]"') from error
    base = {"random": keras_tuner.RandomSearch, "bayesian": keras_tuner.BayesianOptimization}[args.search]

    class Study(base):
        def run_trial(self, trial: Any, *_args: Any, **_kwargs: Any) -> dict[str, float]:
            try:
                return trial_of(trial.hyperparameters.values, args.out / trial.trial_id)
            except train.Stopped as error:  # by a signal: the study ends, and the trial has not failed
                raise SystemExit(f"{error}, and the study with it") from error

        def on_trial_end(self, trial: Any) -> None:
            super().on_trial_end(trial)
            written(self, args.out)

    space = keras_tuner.HyperParameters()
    space.Choice("fusion", args.fusions)
    space.Choice("dim", args.dims)
    space.Choice("dropout", [0.0, 0.1, 0.3])
    space.Float("learning_rate", 3e-4, 5e-3, sampling="log")
    objective = keras_tuner.Objective("val_loss", "min")
    return Study(
        objective=objective, max_trials=args.trials, seed=args.seed, hyperparameters=space, tune_new_entries=False,
        max_retries_per_trial=0, max_consecutive_failed_trials=2, directory=args.out, project_name="tuner",
    )  # fmt: skip


def tried(
    values: dict[str, Any], folder: Path, args: argparse.Namespace, examples: Any, held_out: Any, words: Any
) -> dict[str, float]:
    """Train with these values in `folder`, and return the metrics of the best epoch."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(args.seed)
    model = zoo.build(
        f"{values['fusion']}_captioner", weights="encoders", image_encoder=args.encoder, vocabulary=words,
        image_shape=(args.side, args.side, 3), dim=values["dim"], depth=1, dropout=values["dropout"],
    )  # fmt: skip
    model.freeze("image")
    history = train.run(
        model, examples, folder, validation=held_out, epochs=args.epochs, batch_size=args.batch_size, seed=args.seed,
        learning_rate=rounded(values["learning_rate"]), samples=0, verbose=False,
    ).history  # fmt: skip
    best = min(range(len(history["val_loss"])), key=history["val_loss"].__getitem__)
    return {"val_loss": history["val_loss"][best], "val_accuracy": history["val_accuracy"][best], "epoch": best + 1}


def rounded(rate: float) -> float:
    """Return a learning rate with the two digits that a command repeats.

    >>> rounded(0.00123456)
    0.0012
    """
    return float(f"{rate:.1e}")


def written(tuner: Any, folder: Path) -> list[dict[str, Any]]:
    """Write the finished trials to trials.csv, the best first, and return them as rows."""
    rows = []
    for trial in tuner.oracle.trials.values():
        if trial.status == "COMPLETED":
            values = trial.hyperparameters.values
            last = {name: trial.metrics.get_last_value(name) for name in COLUMNS[1:4]}
            rows.append(
                {"trial": trial.trial_id, "val_loss": round(last["val_loss"], 4)}
                | {"val_accuracy": round(last["val_accuracy"], 4), "epoch": int(last["epoch"])}
                | {name: values[name] for name in COLUMNS[4:7]}
                | {"learning_rate": rounded(values["learning_rate"])}
            )
    rows.sort(key=lambda row: row["val_loss"])
    with open(folder / "trials.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, COLUMNS)
        table.writeheader()
        table.writerows(rows)
    return rows


def command(row: dict[str, Any], args: argparse.Namespace) -> str:
    """Return the command of `vtx train` that repeats a trial.

    >>> args = argparse.Namespace(data="sample", encoder="mobilenet_v2", side=97, epochs=8, batch_size=16, seed=0)
    >>> print(command({"fusion": "gated", "dim": 64, "dropout": 0.1, "learning_rate": 0.002}, args).split(" --set "))
    ['vtx train gated_captioner --data sample --weights encoders', 'image_encoder=mobilenet_v2', ...]
    """
    options = {"image_encoder": args.encoder, "image_shape": f"{args.side}x{args.side}", "dim": row["dim"], "depth": 1}
    options["dropout"] = row["dropout"]
    words = ["vtx", "train", f"{row['fusion']}_captioner", "--data", args.data, "--weights", "encoders"]
    words += [part for name, value in options.items() for part in ("--set", f"{name}={value}")]
    words += ["--freeze", "image", "--vocabulary", "train", "--learning-rate", row["learning_rate"]]
    words += ["--batch-size", args.batch_size, "--epochs", args.epochs, "--seed", args.seed]
    words += ["--allow-outside"] if getattr(args, "allow_outside", False) else []
    return shlex.join(str(word) for word in words)


if __name__ == "__main__":
    main()
