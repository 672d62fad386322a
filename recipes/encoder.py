"""What the recipes of the encoders for drawings do: teach a published network to see what a drawing shows.

    python -m zoo.encoders.mobilenet_v2_emoji.recipe            # pack, train, card

`pack` needs `vtx data build` of `emoji`, `emoji_more` and `word_cards`; `HOW` says what is learned from them.

`train` reads what was packed and needs no TensorFlow: with `KERAS_BACKEND=jax` it runs where there is a GPU.
`train --without openmoji` leaves an artist out, and says how many of their pictures are then named right: settings are
chosen so. It releases nothing.
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

from vtx_keras.models import encoders as architectures
from vtx_keras.checkpoints import _encoders as published
from vtx_keras.data.sets import concepts as emoji
from vtx_keras.train import adamw
from vtx_keras.checkpoints._folder import WEIGHTS
from vtx_keras._files import whole, write
from recipes.augment import Shown

HOW = """Only training splits are read: pictures by eight artists, none of them Fluent 3D, of two thirds of the
concepts, and word cards. From the mean of its features the network learns four things at once: which name a picture
bears, which words its name and keywords have, the skin tone, and who is drawn. The heads are not kept. Pictures are
turned, scaled, laid on coloured grounds and lit unevenly, for the next artist will differ in just that; the colours of
people change little, for they tell skin tones apart."""
STEPS, PICTURES = ("pack", "train", "card"), "pictures.npz"
TONES = ("light", "medium-light", "medium", "medium-dark", "dark")
PEOPLE = ("man", "woman", "men", "women", "person", "people", "boy", "girl")


@dataclass(frozen=True)
class Eye:
    """One encoder: from which it begins, and how it is taught."""

    recipe: str
    frozen_until: str | None = None  # its layers up to this one stay as they were
    epochs: int = 24
    batch_size: int = 64
    learning_rate: float = 1e-3
    ema: float | None = None
    dropout: float = 0.2
    dtype: str = "float32"

    @property
    def folder(self) -> Path:
        """Where it is released."""
        return Path(self.recipe).parent

    @property
    def name(self) -> str:
        """What it is called."""
        return self.folder.name

    @property
    def begins_as(self) -> str:
        """The published network that it was."""
        return architectures.PUBLISHED[self.name].like

    @property
    def side(self) -> int:
        """Its native side in pixels."""
        return architectures.PUBLISHED[self.name].size

    @property
    def run(self) -> Path:
        """Where it is packed and trained."""
        return Path("runs") / self.name


def main(eye: Eye) -> None:
    """Does all steps, or those that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("steps", nargs="*", choices=[*STEPS, []], help="some of pack, train, card; all by default")
    parser.add_argument("--without", metavar="ARTIST", help="leave an artist out, and judge by their pictures")
    parser.add_argument("--epochs", type=int, default=eye.epochs)
    parser.add_argument("--learning-rate", type=float, default=eye.learning_rate)
    given = parser.parse_args()
    eye = replace(eye, epochs=given.epochs, learning_rate=given.learning_rate)
    for step in given.steps or STEPS[: 2 if given.without else None]:
        if step == "pack":
            pack(eye)
        elif step == "train":
            train(eye, given.without)
        else:
            card(eye)


def pack(eye: Eye) -> None:
    """Writes pictures and what they teach into one file."""
    from vtx_keras import data
    from recipes import augment as copies

    rows = [
        row
        for name in ("emoji", "emoji_more", "word_cards")
        for row in data.load(name, "train").encoded.as_numpy_iterator()
    ]
    eye.run.mkdir(parents=True, exist_ok=True)
    told = [
        {
            "name": row["caption"].decode(),
            "keywords": [word.decode() for word in row.get("keywords", [])],
            "artist": row.get("vendor", b"").decode(),
        }
        for row in rows
    ]
    shown = [copies.with_clearness(row, eye.side) for row in rows]
    store(eye.run / PICTURES, shown, told=json.dumps(told), keys=[key(row["image"]) for row in rows])


def key(image: bytes) -> str:
    """What tells one encoded picture from others."""
    return hashlib.sha256(image).hexdigest()[:16]


def store(path: Path, pictures: Sequence[np.ndarray], *, exact: bool = False, **others: Any) -> None:
    """A file of pictures with their clearness, as WebP (`exact`: without loss), and what is told beside them."""
    parts = []
    for picture in pictures:
        part = io.BytesIO()
        quality = {"lossless": True} if exact else {"quality": 80, "alpha_quality": 50}
        Image.fromarray(picture).save(part, "webp", exact=True, **quality)
        parts.append(part.getvalue())
    ends, together = np.cumsum([len(part) for part in parts]), np.frombuffer(b"".join(parts), "uint8")
    with whole(path) as made, made.open("wb") as file:
        np.savez(file, webp=together, ends=ends, **others)


def pictures_of(kept: Any) -> np.ndarray:
    """The pictures of such a file, with their clearness: (n, side, side, 4)."""
    ends, together = kept["ends"], kept["webp"].tobytes()

    def read(number: int) -> np.ndarray:
        part = together[ends[number - 1] if number else 0 : ends[number]]
        return np.asarray(Image.open(io.BytesIO(part)).convert("RGBA"))

    with ThreadPoolExecutor() as threads:
        return np.stack(list(threads.map(read, range(len(ends)))))


def words(text: str) -> list[str]:
    """The words of a name.

    >>> words("Woman’s hat: medium-light")
    ['woman’s', 'hat', 'medium-light']
    """
    return re.findall(r"[\w’-]+", text.lower())


def paint(rows: list[dict]) -> np.ndarray:
    """How freely the colours of each picture may change: little where there is skin."""
    toned = {row["name"].split(":")[0] for row in rows if "skin tone" in row["name"]}
    skin = [row["name"].split(":")[0] in toned or re.search(rf"\b({'|'.join(PEOPLE)})\b", row["name"]) for row in rows]
    return np.where(np.array(skin, bool), 1.0, 3.0).astype("float32")


def targets(rows: list[dict]) -> dict[str, np.ndarray]:
    """What each picture teaches; words are told apart if at least two pictures have them."""
    told = [
        Counter({word: 1 for keyword in row["keywords"] for word in words(keyword)})
        | Counter(dict.fromkeys(words(row["name"]), 3))
        for row in rows
    ]
    seen = Counter(word for each in told for word in each)
    known = sorted(word for word, count in seen.items() if count > 1)
    weights = np.array([[each[word] for word in known] for each in told], "float32")
    names = {name: number for number, name in enumerate(dict.fromkeys(row["name"] for row in rows))}
    tones = [set(re.findall(emoji.TONE, row["name"])) for row in rows]
    people = [re.search(rf"\b({'|'.join(PEOPLE)})\b", row["name"]) for row in rows]
    return {
        "names": np.array([names[row["name"]] for row in rows]),
        "words": weights / np.maximum(weights.sum(axis=1, keepdims=True), 1),
        "tone": np.array([0 if not tone else 1 + TONES.index(*tone) if len(tone) == 1 else 6 for tone in tones]),
        "people": np.array([1 + PEOPLE.index(who[1]) if who else 0 for who in people]),
    }


def learner(network: keras.Model, shown: Shown, truth: dict[str, np.ndarray], dropout: float) -> keras.Model:
    """From a picture's number: the picture, changed; the network; a head for each thing to learn."""
    number = keras.Input((), dtype="int32", name="number")
    pooled = layers.Dropout(dropout, dtype="float32")(network(shown(number)))
    direction = layers.UnitNormalization(dtype="float32")(layers.Dense(512, dtype="float32")(pooled))
    count = {name: values.max() + 1 if values.ndim == 1 else values.shape[1] for name, values in truth.items()}

    def head(name: str, x: Any, **how: Any) -> Any:
        return layers.Dense(int(count[name]), dtype="float32", name=name, **how)(x)

    return keras.Model(
        number,
        {
            "names": head("names", direction * 20, use_bias=False),
            "words": head("words", pooled),
            "tone": head("tone", pooled),
            "people": head("people", pooled),
        },
    )


def smooth(labels: keras.KerasTensor, logits: keras.KerasTensor) -> keras.KerasTensor:
    """Cross-entropy that leaves a tenth to the other names."""
    truth = ops.one_hot(ops.cast(labels, "int32"), logits.shape[-1])
    return ops.mean(keras.losses.categorical_crossentropy(truth, logits, from_logits=True, label_smoothing=0.1))


def shared(weights: keras.KerasTensor, logits: keras.KerasTensor) -> keras.KerasTensor:
    """Cross-entropy to the shares that a picture's words have."""
    return -ops.mean(ops.sum(weights * ops.log_softmax(logits), axis=-1))


def in_whole_batches(count: int, size: int) -> np.ndarray:
    """All row numbers, and some of them again so that every batch is full: one shape, compiled once.

    >>> in_whole_batches(5, 4)
    array([0, 1, 2, 3, 4, 0, 1, 2])
    """
    return np.arange(-(-count // size) * size) % count


def train(eye: Eye, without: str | None = None) -> None:
    """Trains, and writes the weights beside the recipe; `without` an artist, only tells what it is worth."""
    keras.utils.set_random_seed(0)
    with np.load(eye.run / PICTURES) as kept:
        rows, pictures = json.loads(str(kept["told"])), pictures_of(kept)
    truth, artists = targets(rows), np.array([row["artist"] for row in rows])
    if without and without not in artists:
        raise SystemExit(f"--without {without}: expected one of {', '.join(sorted(set(artists) - {''}))}")
    taught = np.flatnonzero(artists != without)
    network = begun(eye)
    model = learner(network, Shown(pictures, eye.side, paint(rows), name="shown"), truth, eye.dropout)
    order = taught[in_whole_batches(len(taught), eye.batch_size)]
    steps = eye.epochs * len(order) // eye.batch_size
    sparse = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(
        adamw(model, steps, learning_rate=eye.learning_rate, weight_decay=0.02, ema=eye.ema),
        loss={"names": smooth, "words": shared, "tone": sparse, "people": sparse},
        loss_weights={"names": 1.0, "words": 1.0, "tone": 0.3, "people": 0.3},
    )
    made = eye.run / "encoder"
    published.write(network, made, {}, half=True)  # what cannot be saved fails at once
    keep = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, _: (epoch + 1) % 10 or published.write(network, made, {}, half=True)
    )
    start, cpu = time.monotonic(), time.process_time()
    answers = {name: values[order] for name, values in truth.items()}
    done = model.fit(order, answers, batch_size=eye.batch_size, epochs=eye.epochs, verbose=2, callbacks=[keep])
    told = {"wall_minutes": minutes(time.monotonic() - start), "cpu_minutes": minutes(time.process_time() - cpu)}
    if without:
        named = set(truth["names"][taught])
        asked = np.array([row for row in np.flatnonzero(artists == without) if truth["names"][row] in named])
        said = model.predict(asked, batch_size=eye.batch_size, verbose=0)
        shares = {
            name: float(np.mean(said[name].argmax(axis=-1) == truth[name][asked]))
            for name in ("names", "tone", "people")
        }
        print(
            f"{eye.name}, rate {eye.learning_rate}, without {without}: of {len(asked)} pictures right {shares} {told}",
            flush=True,
        )
        return
    published.write(network, made, {}, half=True)
    for file in made.iterdir():
        shutil.copy2(file, eye.folder / file.name)
    results = {
        "pictures": len(rows),
        "epochs": eye.epochs,
        **told,
        "hardware": hardware(),
        "gpu": bool(gpus()),
        "parameters": network.count_params(),
        "megabytes_float16": round((eye.folder / WEIGHTS).stat().st_size / 1e6, 1),
        "loss": {name: [round(value, 4) for value in values] for name, values in done.history.items()},
    }
    write(eye.folder / "results.json", json.dumps(results, indent=1) + "\n")


def begun(eye: Eye) -> keras.Model:
    """The network with the published weights, its early layers frozen if they are to be."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(eye.dtype)
    network = architectures.architecture(eye.name, (eye.side, eye.side, 3))
    keras.config.set_dtype_policy(before)
    known = published.load(eye.begins_as, image_shape=(eye.side, eye.side, 3))
    architectures.features_of(network).set_weights(known.get_weights())
    if eye.frozen_until:
        last = network.layers.index(network.get_layer(eye.frozen_until))
        for layer in network.layers[: last + 1]:
            layer.trainable = False
    return network


def minutes(seconds: float) -> float:
    """Rounded."""
    return round(seconds / 60, 1)


def gpus() -> list[str]:
    """The accelerators that the backend sees."""
    return [device for device in keras.distribution.list_devices() if not device.lower().startswith("cpu")]


def hardware() -> str:
    """What it is trained on: the GPU, or the processor's cores."""
    if not gpus():
        return f"{os.cpu_count()} cores, without a GPU"
    name = gpus()[0]
    if keras.backend.backend() == "jax":
        import jax

        name = jax.devices()[0].device_kind
    return f"one {name}, {keras.backend.backend().upper()} backend, arrays, XLA"


def milliseconds(features: keras.Model, side: int) -> float:
    """CPU time for a picture of native size, the median of many."""
    import tensorflow as tf

    picture, times = np.zeros((1, side, side, 3), "float32"), []
    see = tf.function(features)
    for _ in range(40):
        start = time.process_time()
        see(picture)
        times.append(1000 * (time.process_time() - start))
    return round(statistics.median(times[10:]), 1)


def card(eye: Eye) -> None:
    """Writes the README beside the weights."""
    results = json.loads((eye.folder / "results.json").read_text(encoding="utf-8"))
    results.setdefault("ms", milliseconds(published.load(eye.name), eye.side))
    write(eye.folder / "results.json", json.dumps(results, indent=1) + "\n")
    first, last = ({name: values[at] for name, values in results["loss"].items()} for at in (0, -1))
    parts = ("names", "words", "tone", "people")
    losses = ", ".join(f"{name} {first[f'{name}_loss']:.2f} to {last[f'{name}_loss']:.2f}" for name in parts)
    kept = f"and whose layers up to `{eye.frozen_until}` it keeps" if eye.frozen_until else "all of it trained on"
    took = f"{results['cpu_minutes']:.0f} CPU minutes"
    if results.get("gpu"):
        took = f"{results['wall_minutes']:g} minutes on {results['hardware']}"
    sides = "sides of 32·k + 1" if eye.begins_as == "mobilenet_v2" else "sides of 32·k"
    text = f"""# {eye.name}

The published [{eye.begins_as}](../{eye.begins_as}/README.md), taught to see what a drawing shows, whoever drew it.
{HOW}

    from vtx_keras import encoders, zoo
    encoder = encoders.load("{eye.name}")
    model = zoo.build("cross_attn_captioner", weights="encoders", image_encoder="{eye.name}",
                      image_shape=({eye.side}, {eye.side}, 3))

Its features serve pictures that are drawn: emoji, icons, cards. For photographs take
[{eye.begins_as}](../{eye.begins_as}/README.md), with which it begins, {kept}.

| | |
|---|---|
| takes | pixels 0–255, {sides}; trained at {eye.side} px; its scaling is in the graph |
| gives | a map (rows, columns, 1280) |
| parameters | {results["parameters"]:,} |
| stored | {results["megabytes_float16"]} MB as float16, norms float32 |
| time | {results["ms"]} CPU ms for a picture of {eye.side} px |
| trained on | {results["pictures"]:,} pictures, none by Fluent 3D: train of `emoji`, `emoji_more` and `word_cards` |
| losses | {losses} |
| again | `python -m zoo.encoders.{eye.name}.recipe`: {took}, {results["epochs"]} epochs |
| licence | {architectures.PUBLISHED[eye.name].licence}, for so are some of the pictures; [notices](../../NOTICE.md) |
"""
    write(eye.folder / "README.md", text)
