"""A recipe's training where there is a GPU and no TensorFlow: packed here, trained there, taken home.

    python -m zoo.far pack zoo.cross_attn_captioner.languages.recipe    # writes runs/far/cross_attn_captioner-languages
    KERAS_BACKEND=jax python -m zoo.far train runs/far/cross_attn_captioner-languages    # there
    python -m zoo.far take zoo.cross_attn_captioner.languages.recipe      # releases what came back into that folder
    python -m zoo.cross_attn_captioner.languages.recipe judge export card

Where a recipe on a CPU keeps a few changed copies of each picture, here every picture is changed anew each time. There,
keras, keras-hub and jax are enough. `pack --pictures runs/ENCODER/pictures.npz` uses the pictures that were packed for
an encoder (`zoo.eyes`) in place of a copy.
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

from vtx_keras import train as training
from vtx_keras import zoo as models
from vtx_keras.models._readers import Matcher
from vtx_keras._files import whole, write
from recipes import encoder as eyes
from recipes.augment import Shown

FOLDER, SIDE = Path("runs/far"), 128  # pictures that are changed are kept at this size
ROWS, TOLD, START, RELEASED = "rows.npz", "told.json", "start", "released"
COLUMNS = ("number", "tokens", "labels", "weight")


def pack(release: Any, pictures: Path | None = None) -> None:
    """Writes the pictures, each once (unless `pictures` is a file of them), the ids of all texts, and how to train."""
    from recipes import augment as copies, release as making

    examples, folder = release.examples("train"), FOLDER / release.run.name
    special = release.eye is not None or release.begins_as is not None or release.prepared is not None
    model = making.begun(release, examples, pretrained=special)  # another is built there
    if isinstance(model, Matcher) or len(model.image_shape) == 4:
        raise SystemExit(f"{release.name}: expected a model of stills, and no matcher, whose batches make negatives")
    if special:
        models.save(model, folder / START, half=True)
    folder.mkdir(parents=True, exist_ok=True)
    changes, side = release.copies > 1, model.image_shape[0]
    if pictures is None:
        pictures, unlike = folder / eyes.PICTURES, {}
        for row in examples.encoded.as_numpy_iterator():
            unlike.setdefault(eyes.key(row["image"]), row)
        shown = [copies.with_clearness(row, SIDE if changes else side) for row in unlike.values()]
        eyes.store(pictures, shown, exact=not changes, keys=list(unlike))
    with np.load(pictures) as kept:
        places = {key: place for place, key in enumerate(kept["keys"].tolist())}
    with whole(folder / ROWS) as made, made.open("wb") as file:
        np.savez_compressed(file, **rows_of(examples, model, places))
    told = {
        "name": release.name,
        "options": None if special else model.options,
        "vocabulary": model.vocabulary,
        "pictures": str(pictures),
        "changes": changes,
        "epochs": release.epochs_there,
        "batch_size": release.batch_size,
        "learning_rate": release.learning_rate,
    }
    write(folder / TOLD, json.dumps(told, indent=1, ensure_ascii=False))
    print(f"packed {folder}, pictures in {pictures}")


def rows_of(examples: Any, model: Any, places: dict[str, int]) -> dict[str, np.ndarray]:
    """What `fit` would read of each example; its picture's place is there as a very plain feature."""
    import tensorflow as tf

    from vtx_keras import data

    head = model.behind_encoder()
    keys = [eyes.key(row["image"]) for row in examples.encoded.as_numpy_iterator()]
    if missing := sum(key not in places for key in keys):
        raise SystemExit(f"{missing} of {len(keys)} pictures are not in that file: pack without --pictures")
    found = [places[key] for key in keys]
    others = examples.encoded.map(lambda row: {name: row[name] for name in row if name not in ("image", "alpha")})
    plain = tf.data.Dataset.zip(others, tf.data.Dataset.from_tensor_slices(np.array(found, "float32"))).map(
        lambda row, place: {**row, "image": tf.fill(head.image_shape, place)}
    )
    parts: list[tuple] = [
        (inputs["image"].numpy().reshape(len(labels), -1)[:, 0].astype("int32"), inputs["tokens"], labels, weight)
        for inputs, labels, weight in data.batches(plain, head, batch_size=256)
    ]
    return dict(zip(COLUMNS, map(np.concatenate, zip(*parts, strict=True)), strict=True))


def train(folder: Path) -> None:
    """Trains what was packed, behind its frozen eye, and writes the weights into the same folder."""
    told = json.loads((folder / TOLD).read_text(encoding="utf-8"))
    with np.load(told["pictures"]) as kept:
        pictures = eyes.pictures_of(kept)
    with np.load(folder / ROWS) as kept:
        rows = {name: kept[name] for name in COLUMNS}
    keras.utils.set_random_seed(0)
    if told["options"] is None:
        model = models.build(told["name"], weights=folder / START)
    else:
        model = models.build(told["name"], weights="encoders", vocabulary=told["vocabulary"], **told["options"])
    model.freeze("image")
    paint = np.ones(len(pictures), "float32") if told["changes"] else None
    shown = Shown(pictures, model.image_shape[0], paint, name="shown")
    number, tokens = keras.Input((), dtype="int32"), keras.Input(rows["tokens"].shape[1:], dtype="int32")
    learner = keras.Model((number, tokens), model({"image": shown(number), "tokens": tokens}))
    order = eyes.in_whole_batches(len(rows["number"]), told["batch_size"])
    steps = told["epochs"] * len(order) // told["batch_size"]
    learner.compile(training.adamw(learner, steps, learning_rate=told["learning_rate"], ema=0.99), loss=model.loss)
    start = time.monotonic()
    learner.fit(
        (rows["number"][order], rows["tokens"][order]), rows["labels"][order], sample_weight=rows["weight"][order],
        batch_size=told["batch_size"], epochs=told["epochs"], verbose=2,
    )  # fmt: skip
    models.save(model, folder / RELEASED, half=True)
    told = {
        "wall_minutes": eyes.minutes(time.monotonic() - start),
        "hardware": eyes.hardware(),
        "rows": len(rows["number"]),
        "epochs": told["epochs"],
    }
    write(folder / "training.json", json.dumps(told))


def take(release: Any) -> None:
    """Puts what came back where it is released."""
    from recipes import release as making

    folder = FOLDER / release.run.name
    for file in (folder / RELEASED).iterdir():
        shutil.copy2(file, release.folder / file.name)
    making.remember(release, training=json.loads((folder / "training.json").read_text(encoding="utf-8")))


def main() -> None:
    """Packs, trains or takes several, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=["pack", "train", "take"])
    parser.add_argument("what", nargs="+", help="recipes' modules; to train, folders")
    parser.add_argument("--pictures", type=Path, metavar="FILE", help="to pack: pictures that were packed before")
    given = parser.parse_args()
    for what in given.what:
        if given.step == "train":
            train(Path(what))
        elif given.step == "pack":
            pack(importlib.import_module(what).RELEASE, given.pictures)
        else:
            take(importlib.import_module(what).RELEASE)


if __name__ == "__main__":
    main()
