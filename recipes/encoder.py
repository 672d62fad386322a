"""The steps of the recipes of image encoders for drawings: a published network is trained further on drawings.

    python -m zoo.encoders.mobilenet_v2_emoji.recipe            # all steps: pack, train, card

`pack` needs `vtx data build` of `emoji`, `emoji_more` and `word_cards`. `METHOD` describes what is learned from them.

`train` reads only the packed file and needs no TensorFlow: with `KERAS_BACKEND=jax` it runs on a machine with a GPU.
`train --without openmoji` leaves one artist out and prints how many of that artist's pictures are named right. This is
how the settings were chosen; it releases nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import re
import shutil
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers, ops
from PIL import Image

from recipes.augment import Pictures
from vtx_keras._files import whole, write
from vtx_keras.checkpoints._folder import WEIGHTS
from vtx_keras.checkpoints.published import _encoders as published
from vtx_keras.data.sets import concepts
from vtx_keras.models.encoders import architecture, backbone_of, features_of
from vtx_keras.train import adamw

METHOD = """Training reads only the training splits: pictures by eight artists, none of them Fluent 3D, of two thirds
of the concepts, and word cards. From the mean of its features the network learns four things at once: the picture's
name, the words of its name and keywords, the skin tone, and the kind of person. The heads are not kept. Pictures are
rotated, scaled, placed on coloured grounds and lit unevenly, because an unseen artist differs in these ways. The
colours of people change little, so that skin tones can still be told apart."""
STEPS, PICTURES = ("pack", "train", "card"), "pictures.npz"
TONES = ("light", "medium-light", "medium", "medium-dark", "dark")
PEOPLE = ("man", "woman", "men", "women", "person", "people", "boy", "girl")
PERSON = re.compile(rf"\b({'|'.join(PEOPLE)})\b")


@dataclass(frozen=True)
class EncoderRelease:
    """One released encoder: the published network that it starts from is given by its name, and how it is trained."""

    recipe: str  # the path of the recipe
    frozen_until: str | None = None  # the layers up to this one keep their weights
    epochs: int = 24
    batch_size: int = 64
    learning_rate: float = 1e-3
    ema: float | None = None
    dropout: float = 0.2
    dtype: str = "float32"

    @property
    def folder(self) -> Path:
        """The folder that holds the release."""
        return Path(self.recipe).parent

    @property
    def name(self) -> str:
        """The encoder's name."""
        return self.folder.name

    @property
    def base(self) -> str:
        """The name of the published network that it starts from."""
        return backbone_of(self.name).like

    @property
    def side(self) -> int:
        """The native side in pixels."""
        return backbone_of(self.name).size

    @property
    def run(self) -> Path:
        """The folder of the packed pictures and of the training."""
        return Path("runs") / self.name


def main(release: EncoderRelease) -> None:
    """Run the steps that the command line names, or all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("steps", nargs="*", choices=[*STEPS, []], help="some of pack, train, card; all by default")
    parser.add_argument("--without", metavar="ARTIST", help="leave an artist out, and evaluate on their pictures")
    parser.add_argument("--epochs", type=int, default=release.epochs)
    parser.add_argument("--learning-rate", type=float, default=release.learning_rate)
    args = parser.parse_args()
    release = replace(release, epochs=args.epochs, learning_rate=args.learning_rate)
    for step in args.steps or STEPS[: 2 if args.without else None]:
        if step == "pack":
            pack(release)
        elif step == "train":
            train(release, args.without)
        else:
            write_card(release)


def pack(release: EncoderRelease) -> None:
    """Write all pictures, with their names, keywords and artists, into one file."""
    from recipes.copies import with_transparency
    from vtx_keras import data

    examples = [
        row
        for name in ("emoji", "emoji_more", "word_cards")
        for row in data.load(name, "train").encoded.as_numpy_iterator()
    ]
    release.run.mkdir(parents=True, exist_ok=True)
    rows = [
        {
            "name": row["caption"].decode(),
            "keywords": [word.decode() for word in row.get("keywords", [])],
            "artist": row.get("vendor", b"").decode(),
        }
        for row in examples
    ]
    pictures = [with_transparency(row, release.side) for row in examples]
    keys = [key_of(row["image"]) for row in examples]
    store_pictures(release.run / PICTURES, pictures, rows=json.dumps(rows), keys=keys)


def key_of(image: bytes) -> str:
    """Return a hash that identifies an encoded picture."""
    return hashlib.sha256(image).hexdigest()[:16]


def store_pictures(path: Path, pictures: Sequence[np.ndarray], *, exact: bool = False, **others: Any) -> None:
    """Write pictures with transparency as WebP (`exact`: lossless) and `others` into one file."""
    files = []
    for picture in pictures:
        file = io.BytesIO()
        quality = {"lossless": True} if exact else {"quality": 80, "alpha_quality": 50}
        Image.fromarray(picture).save(file, "webp", exact=True, **quality)
        files.append(file.getvalue())
    ends, joined = np.cumsum([len(file) for file in files]), np.frombuffer(b"".join(files), "uint8")
    with whole(path) as part, part.open("wb") as file:
        np.savez(file, webp=joined, ends=ends, **others)


def read_pictures(packed: Any) -> np.ndarray:
    """Return the pictures of such a file, with transparency: (n, side, side, 4)."""
    ends, joined = packed["ends"], packed["webp"].tobytes()

    def read(number: int) -> np.ndarray:
        file = joined[ends[number - 1] if number else 0 : ends[number]]
        return np.asarray(Image.open(io.BytesIO(file)).convert("RGBA"))

    with ThreadPoolExecutor() as threads:
        return np.stack(list(threads.map(read, range(len(ends)))))


def words(text: str) -> list[str]:
    """Return the words of a name.

    >>> words("Woman’s hat: medium-light")
    ['woman’s', 'hat', 'medium-light']
    """
    return re.findall(r"[\w’-]+", text.lower())


def colour_strength(rows: list[dict]) -> np.ndarray:
    """Return how much the colours of each picture may change: less where there is skin."""
    toned = {row["name"].split(":")[0] for row in rows if "skin tone" in row["name"]}
    skin = [row["name"].split(":")[0] in toned or PERSON.search(row["name"]) for row in rows]
    return np.where(np.array(skin, bool), 1.0, 3.0).astype("float32")


def targets(rows: list[dict]) -> dict[str, np.ndarray]:
    """Return the training targets of each picture. Words count that at least two pictures have."""
    counters = [
        Counter({word: 1 for keyword in row["keywords"] for word in words(keyword)})
        | Counter(dict.fromkeys(words(row["name"]), 3))
        for row in rows
    ]
    pictures_with = Counter(word for counter in counters for word in counter)
    common = sorted(word for word, count in pictures_with.items() if count > 1)
    weights = np.array([[counter[word] for word in common] for counter in counters], "float32")
    names = {name: number for number, name in enumerate(dict.fromkeys(row["name"] for row in rows))}
    tones = [set(re.findall(concepts.TONE, row["name"])) for row in rows]
    people = [PERSON.search(row["name"]) for row in rows]
    return {
        "names": np.array([names[row["name"]] for row in rows]),
        "words": weights / np.maximum(weights.sum(axis=1, keepdims=True), 1),
        "tone": np.array([0 if not tone else 1 + TONES.index(*tone) if len(tone) == 1 else 6 for tone in tones]),
        "people": np.array([1 + PEOPLE.index(person[1]) if person else 0 for person in people]),
    }


def learner(network: keras.Model, pictures: Pictures, truth: dict[str, np.ndarray], dropout: float) -> keras.Model:
    """Build the model that is trained: picture number, augmented picture, network, one head for each target."""
    number = keras.Input((), dtype="int32", name="number")
    pooled = layers.Dropout(dropout, dtype="float32")(network(pictures(number)))
    direction = layers.UnitNormalization(dtype="float32")(layers.Dense(512, dtype="float32")(pooled))
    sizes = {name: values.max() + 1 if values.ndim == 1 else values.shape[1] for name, values in truth.items()}

    def head(name: str, x: Any, **options: Any) -> Any:
        return layers.Dense(int(sizes[name]), dtype="float32", name=name, **options)(x)

    return keras.Model(
        number,
        {
            "names": head("names", direction * 20, use_bias=False),
            "words": head("words", pooled),
            "tone": head("tone", pooled),
            "people": head("people", pooled),
        },
    )


def smoothed_loss(labels: keras.KerasTensor, logits: keras.KerasTensor) -> keras.KerasTensor:
    """Return cross-entropy with a label smoothing of 0.1."""
    truth = ops.one_hot(ops.cast(labels, "int32"), logits.shape[-1])
    return ops.mean(keras.losses.categorical_crossentropy(truth, logits, from_logits=True, label_smoothing=0.1))


def word_loss(weights: keras.KerasTensor, logits: keras.KerasTensor) -> keras.KerasTensor:
    """Return cross-entropy to the weights of a picture's words, which sum to 1."""
    return -ops.mean(ops.sum(weights * ops.log_softmax(logits), axis=-1))


def fill_batches(count: int, size: int) -> np.ndarray:
    """Return all row numbers, and some again until the last batch is full: one shape is compiled once.

    >>> fill_batches(5, 4)
    array([0, 1, 2, 3, 4, 0, 1, 2])
    """
    return np.arange(-(-count // size) * size) % count


def train(release: EncoderRelease, without: str | None = None) -> None:
    """Train and write the weights beside the recipe; `without` an artist, only print accuracies on their pictures."""
    keras.utils.set_random_seed(0)
    with np.load(release.run / PICTURES) as packed:
        rows, pictures = json.loads(str(packed["rows"])), read_pictures(packed)
    truth, artists = targets(rows), np.array([row["artist"] for row in rows])
    if without and without not in artists:
        raise SystemExit(f"--without {without}: expected one of {', '.join(sorted(set(artists) - {''}))}")
    train_rows = np.flatnonzero(artists != without)
    network = initial_network(release)
    lookup = Pictures(pictures, release.side, colour_strength(rows), name="pictures")
    model = learner(network, lookup, truth, release.dropout)
    order = train_rows[fill_batches(len(train_rows), release.batch_size)]
    steps = release.epochs * len(order) // release.batch_size
    sparse = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(
        adamw(model, steps, learning_rate=release.learning_rate, weight_decay=0.02, ema=release.ema),
        loss={"names": smoothed_loss, "words": word_loss, "tone": sparse, "people": sparse},
        loss_weights={"names": 1.0, "words": 1.0, "tone": 0.3, "people": 0.3},
    )
    saved = release.run / "encoder"
    published.write(network, saved, {}, half=True)  # a network that cannot be saved fails now, not after training
    save = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, _: (epoch + 1) % 10 or published.write(network, saved, {}, half=True)
    )
    start, cpu = time.monotonic(), time.process_time()
    labels = {name: values[order] for name, values in truth.items()}
    fitted = model.fit(order, labels, batch_size=release.batch_size, epochs=release.epochs, verbose=2, callbacks=[save])
    times = {"wall_minutes": minutes(time.monotonic() - start), "cpu_minutes": minutes(time.process_time() - cpu)}
    if without:
        names = set(truth["names"][train_rows])
        held_out = np.array([row for row in np.flatnonzero(artists == without) if truth["names"][row] in names])
        logits = model.predict(held_out, batch_size=release.batch_size, verbose=0)
        accuracies = {
            name: float(np.mean(logits[name].argmax(axis=-1) == truth[name][held_out]))
            for name in ("names", "tone", "people")
        }
        print(
            f"{release.name}, learning rate {release.learning_rate}, without {without}: "
            f"accuracy on {len(held_out)} pictures {accuracies} {times}",
            flush=True,
        )
        return
    published.write(network, saved, {}, half=True)
    for file in saved.iterdir():
        shutil.copy2(file, release.folder / file.name)
    results = {
        "pictures": len(rows),
        "epochs": release.epochs,
        **times,
        "hardware": hardware(),
        "gpu": bool(gpus()),
        "parameters": network.count_params(),
        "megabytes_float16": round((release.folder / WEIGHTS).stat().st_size / 1e6, 1),
        "loss": {name: [round(value, 4) for value in values] for name, values in fitted.history.items()},
    }
    write(release.folder / "results.json", json.dumps(results, indent=1) + "\n")


def initial_network(release: EncoderRelease) -> keras.Model:
    """Build the network with the published weights, its early layers frozen if the release says so."""
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy(release.dtype)
    network = architecture(release.name, (release.side, release.side, 3))
    keras.config.set_dtype_policy(policy)
    base = published.load(release.base, image_shape=(release.side, release.side, 3))
    features_of(network).set_weights(base.get_weights())
    if release.frozen_until:
        last = network.layers.index(network.get_layer(release.frozen_until))
        for layer in network.layers[: last + 1]:
            layer.trainable = False
    return network


def minutes(seconds: float) -> float:
    """Return minutes, rounded to a tenth."""
    return round(seconds / 60, 1)


def gpus() -> list[str]:
    """Return the accelerators that the backend sees."""
    return [device for device in keras.distribution.list_devices() if not device.lower().startswith("cpu")]


def hardware() -> str:
    """Describe what it is trained on: the GPU, or the number of cores."""
    if not gpus():
        return f"{os.cpu_count()} cores, without a GPU"
    name = gpus()[0]
    if keras.backend.backend() == "jax":
        import jax

        name = jax.devices()[0].device_kind
    return f"one {name}, {keras.backend.backend().upper()} backend, arrays, XLA"


def milliseconds(features: keras.Model, side: int) -> float:
    """Return the CPU time for a picture of native size, the median of 30 runs."""
    import tensorflow as tf

    picture, times = np.zeros((1, side, side, 3), "float32"), []
    run = tf.function(features)
    for _ in range(40):
        start = time.process_time()
        run(picture)
        times.append(1000 * (time.process_time() - start))
    return round(statistics.median(times[10:]), 1)


def write_card(release: EncoderRelease) -> None:
    """Write the README beside the weights."""
    results = json.loads((release.folder / "results.json").read_text(encoding="utf-8"))
    if "ms" not in results:
        results["ms"] = milliseconds(published.load(release.name), release.side)
        write(release.folder / "results.json", json.dumps(results, indent=1) + "\n")
    write(release.folder / "README.md", card_of(release, results))


def card_of(release: EncoderRelease, results: dict[str, Any]) -> str:
    """Return the card's text."""
    first, last = ({name: values[at] for name, values in results["loss"].items()} for at in (0, -1))
    heads = ("names", "words", "tone", "people")
    losses = ", ".join(f"{name} {first[f'{name}_loss']:.2f} to {last[f'{name}_loss']:.2f}" for name in heads)
    layers_kept = "All of its layers were trained further"
    if release.frozen_until:
        layers_kept = f"Its layers up to `{release.frozen_until}` kept the published weights"
    time_taken = f"{results['cpu_minutes']:.0f} CPU minutes"
    if results.get("gpu"):
        time_taken = f"{results['wall_minutes']:g} minutes on {results['hardware']}"
    sides = "sides of 32·k + 1" if release.base == "mobilenet_v2" else "sides of 32·k"
    return f"""# {release.name}

The published [{release.base}](../{release.base}/README.md), trained further to recognise drawings by any artist.
{METHOD}

    from vtx_keras import encoders, zoo
    encoder = encoders.load("{release.name}")
    model = zoo.build("cross_attn_captioner", weights="encoders", image_encoder="{release.name}",
                      image_shape=({release.side}, {release.side}, 3))

Use its features for drawings: emoji, icons, cards. For photographs use [{release.base}](../{release.base}/README.md),
from which it was trained. {layers_kept}.

| | |
|---|---|
| takes | pixels 0–255, {sides}; trained at {release.side} px; its scaling is in the graph |
| gives | a map (rows, columns, 1280) |
| parameters | {results["parameters"]:,} |
| stored | {results["megabytes_float16"]} MB as float16, norms float32 |
| time | {results["ms"]} CPU ms for a picture of {release.side} px |
| trained on | {results["pictures"]:,} pictures, none by Fluent 3D: train of `emoji`, `emoji_more` and `word_cards` |
| losses | {losses} |
| reproduce | `python -m zoo.encoders.{release.name}.recipe`: {time_taken}, {results["epochs"]} epochs |
| licence | {published.PUBLISHED[release.name].licence}, that of some of the pictures; [notices](../../NOTICE.md) |
"""
