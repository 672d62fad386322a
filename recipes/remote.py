"""Train a recipe on a GPU without TensorFlow: pack it here, train it there, release the result here.

    python -m recipes.remote pack zoo.cross_attn_captioner.emoji.recipe    # writes a folder in runs/remote
    KERAS_BACKEND=jax python -m recipes.remote train runs/remote/cross_attn_captioner-emoji    # there
    python -m recipes.remote take zoo.cross_attn_captioner.emoji.recipe    # releases the trained folder
    python -m zoo.cross_attn_captioner.emoji.recipe judge export card

On a CPU a recipe trains on a few augmented copies of each picture; here every picture is augmented anew each time. The
GPU machine needs keras, keras-hub, jax, Pillow, matplotlib and safetensors. `pack --pictures runs/ENCODER/pictures.npz`
uses the pictures that were packed for an encoder (`recipes.encoder`) instead of packing them again.
"""

from __future__ import annotations

import argparse
import importlib
import json
import shutil
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np

from recipes import cards
from recipes.augment import Pictures
from recipes.encoder import PICTURES, fill_batches, hardware, key_of, minutes, read_pictures, store_pictures
from recipes.release import Release
from vtx_keras import zoo
from vtx_keras._files import whole, write
from vtx_keras.train import adamw

FOLDER, SIDE = Path("runs/remote"), 128  # the side at which pictures that will be augmented are packed
ROWS, SETTINGS, START, RELEASED, TRAINING = "rows.npz", "settings.json", "start", "released", "training.json"
COLUMNS = ("number", "tokens", "labels", "weight")


def pack(release: Release, pictures: Path | None = None) -> None:
    """Write each picture once (unless `pictures` is a file of them), the ids of all texts, and the settings."""
    from recipes.copies import with_transparency
    from recipes.steps import initial_model
    from vtx_keras.models._methods import Matcher

    examples, folder = release.examples("train"), FOLDER / release.run.name
    has_start = release.encoder is not None or release.start_from is not None or release.prepare is not None
    model = initial_model(release, examples, pretrained=has_start)  # any other is built on the GPU machine
    if isinstance(model, Matcher) or len(model.image_shape) == 4:
        raise SystemExit(f"{release.name}: expected a model of stills, and no matcher, whose batches make negatives")
    if has_start:
        zoo.save(model, folder / START, half=True)
    folder.mkdir(parents=True, exist_ok=True)
    augmented, side = release.copies > 1, model.image_shape[0]
    if pictures is None:
        pictures, distinct = folder / PICTURES, {}
        for row in examples.encoded.as_numpy_iterator():
            distinct.setdefault(key_of(row["image"]), row)
        arrays = [with_transparency(row, SIDE if augmented else side) for row in distinct.values()]
        store_pictures(pictures, arrays, exact=not augmented, keys=list(distinct))
    with np.load(pictures) as packed:
        numbers = {key: number for number, key in enumerate(packed["keys"].tolist())}
    with whole(folder / ROWS) as part, part.open("wb") as file:
        np.savez_compressed(file, **rows_of(examples, model, numbers))
    settings = {
        "name": release.name,
        "options": None if has_start else model.options,
        "vocabulary": model.vocabulary,
        "pictures": str(pictures),
        "augment": augmented,
        "epochs": release.epochs_on_gpu,
        "batch_size": release.batch_size,
        "learning_rate": release.learning_rate,
    }
    write(folder / SETTINGS, json.dumps(settings, indent=1, ensure_ascii=False))
    print(f"packed {folder}, pictures in {pictures}")


def rows_of(examples: Any, model: Any, numbers: dict[str, int]) -> dict[str, np.ndarray]:
    """Return what `fit` would read of each example, with the picture's number in place of the picture."""
    import tensorflow as tf

    from vtx_keras import data

    head = model.behind_encoder()
    keys = [key_of(row["image"]) for row in examples.encoded.as_numpy_iterator()]
    if missing := sum(key not in numbers for key in keys):
        raise SystemExit(f"{missing} of {len(keys)} pictures are not in that file: pack without --pictures")
    of_rows = np.array([numbers[key] for key in keys], "float32")
    fields = examples.encoded.map(lambda row: {name: row[name] for name in row if name not in ("image", "alpha")})
    # The model's head reads features: the number is passed through `batches` as a constant feature map.
    numbered = tf.data.Dataset.zip(fields, tf.data.Dataset.from_tensor_slices(of_rows)).map(
        lambda row, number: {**row, "image": tf.fill(head.image_shape, number)}
    )
    batches: list[tuple] = [
        (inputs["image"].numpy().reshape(len(labels), -1)[:, 0].astype("int32"), inputs["tokens"], labels, weight)
        for inputs, labels, weight in data.batches(numbered, head, batch_size=256)
    ]
    return dict(zip(COLUMNS, map(np.concatenate, zip(*batches, strict=True)), strict=True))


def train(folder: Path) -> None:
    """Train a packed model behind its frozen encoder, and write the weights into the same folder."""
    settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
    with np.load(settings["pictures"]) as packed:
        pictures = read_pictures(packed)
    with np.load(folder / ROWS) as packed:
        rows = {name: packed[name] for name in COLUMNS}
    keras.utils.set_random_seed(0)
    if settings["options"] is None:
        model = zoo.build(settings["name"], weights=folder / START)
    else:
        vocabulary, options = settings["vocabulary"], settings["options"]
        model = zoo.build(settings["name"], weights="encoders", vocabulary=vocabulary, **options)
    model.freeze("image")
    colour = np.ones(len(pictures), "float32") if settings["augment"] else None
    lookup = Pictures(pictures, model.image_shape[0], colour, name="pictures")
    number, tokens = keras.Input((), dtype="int32"), keras.Input(rows["tokens"].shape[1:], dtype="int32")
    learner = keras.Model((number, tokens), model({"image": lookup(number), "tokens": tokens}))
    order = fill_batches(len(rows["number"]), settings["batch_size"])
    steps = settings["epochs"] * len(order) // settings["batch_size"]
    learner.compile(adamw(learner, steps, learning_rate=settings["learning_rate"], ema=0.99), loss=model.loss)
    start = time.monotonic()
    learner.fit(
        (rows["number"][order], rows["tokens"][order]), rows["labels"][order], sample_weight=rows["weight"][order],
        batch_size=settings["batch_size"], epochs=settings["epochs"], verbose=2,
    )  # fmt: skip
    zoo.save(model, folder / RELEASED, half=True)
    training = {
        "wall_minutes": minutes(time.monotonic() - start),
        "hardware": hardware(),
        "rows": len(rows["number"]),
        "epochs": settings["epochs"],
    }
    write(folder / TRAINING, json.dumps(training))


def take(release: Release) -> None:
    """Copy the trained weights to the release, and store how they were trained."""
    folder = FOLDER / release.run.name
    for file in (folder / RELEASED).iterdir():
        shutil.copy2(file, release.folder / file.name)
    cards.update_results(release.folder, training=json.loads((folder / TRAINING).read_text(encoding="utf-8")))


def main() -> None:
    """Pack, train or take several, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=["pack", "train", "take"])
    parser.add_argument("what", nargs="+", help="modules of recipes; for train, folders")
    parser.add_argument("--pictures", type=Path, metavar="FILE", help="for pack: a file of pictures packed before")
    args = parser.parse_args()
    for what in args.what:
        if args.step == "train":
            train(Path(what))
        elif args.step == "pack":
            pack(importlib.import_module(what).RELEASE, args.pictures)
        else:
            take(importlib.import_module(what).RELEASE)


if __name__ == "__main__":
    main()
