"""Trains `mobilenet_v2_emoji`: the published MobileNetV2, taught to see what a drawing shows, whoever drew it.

    python -m zoo.encoders.mobilenet_v2_emoji.recipe

needs `vtx data build` of `emoji`, `emoji_more` and `word_cards`. Only their training splits are read: pictures by eight
artists, none of them Fluent 3D, of two thirds of the concepts, and word cards. From the mean of its features
the network learns four things at once: which name a picture bears, which words its name and keywords have, the skin
tone, and who is drawn. The heads are not kept. Pictures are turned, scaled, laid on coloured grounds and lit unevenly,
for the next artist will differ in just that; the colours of people change little, for they tell skin tones apart.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import statistics
import time
from collections import Counter
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

from vtx_keras import architectures, data, published
from vtx_keras.weights import WEIGHTS
from zoo import copies

HERE = Path(__file__).parent
NAME, SIDE = HERE.name, architectures.PUBLISHED[HERE.name].size
FROZEN_UNTIL = "block_5_add"  # strokes and shades are what ImageNet taught; the later layers learn
TONES = ("light", "medium-light", "medium", "medium-dark", "dark")
PEOPLE = ("man", "woman", "men", "women", "person", "people", "boy", "girl")


def examples() -> list[dict]:
    """Pictures at the encoder's size with their clearness, names and keywords."""
    return [
        {
            "x": copies.with_clearness(row, SIDE),
            "name": row["caption"].decode(),
            "keywords": [word.decode() for word in row.get("keywords", [])],
        }
        for name in ("emoji", "emoji_more", "word_cards")
        for row in data.load(name, "train").encoded.as_numpy_iterator()
    ]


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


def targets(rows: list[dict]) -> tuple[dict[str, np.ndarray], list[str]]:
    """What each picture teaches, and the words that are told apart: those of at least two pictures."""
    told = [
        Counter({word: 1 for keyword in row["keywords"] for word in words(keyword)})
        | Counter(dict.fromkeys(words(row["name"]), 3))
        for row in rows
    ]
    seen = Counter(word for each in told for word in each)
    known = sorted(word for word, count in seen.items() if count > 1)
    weights = np.array([[each[word] for word in known] for each in told], "float32")
    names = {name: number for number, name in enumerate(dict.fromkeys(row["name"] for row in rows))}
    tones = [set(re.findall(rf"\b({'|'.join(TONES)}) skin tone", row["name"])) for row in rows]
    people = [re.search(rf"\b({'|'.join(PEOPLE)})\b", row["name"]) for row in rows]
    return {
        "names": np.array([names[row["name"]] for row in rows]),
        "words": weights / np.maximum(weights.sum(axis=1, keepdims=True), 1),
        "tone": np.array([0 if not tone else 1 + TONES.index(*tone) if len(tone) == 1 else 6 for tone in tones]),
        "people": np.array([1 + PEOPLE.index(who[1]) if who else 0 for who in people]),
    }, known


def learner(network: keras.Model, names: int, words: int) -> keras.Model:
    """The network with a head for each thing to learn; its early layers stay as they are."""
    for layer in network.layers:
        layer.trainable = False
        if layer.name == FROZEN_UNTIL:
            break
    pooled = layers.Dropout(0.2)(network.output)
    direction = layers.UnitNormalization()(layers.Dense(512)(pooled))
    return keras.Model(
        network.input,
        {
            "names": layers.Dense(names, use_bias=False, name="names")(direction * 20),
            "words": layers.Dense(words, name="words")(pooled),
            "tone": layers.Dense(len(TONES) + 2, name="tone")(pooled),
            "people": layers.Dense(len(PEOPLE) + 1, name="people")(pooled),
        },
    )


def smooth(labels: keras.KerasTensor, logits: keras.KerasTensor) -> keras.KerasTensor:
    """Cross-entropy that leaves a tenth to the other names."""
    truth = ops.one_hot(ops.cast(labels, "int32"), logits.shape[-1])
    return ops.mean(keras.losses.categorical_crossentropy(truth, logits, from_logits=True, label_smoothing=0.1))


def shared(weights: keras.KerasTensor, logits: keras.KerasTensor) -> keras.KerasTensor:
    """Cross-entropy to the shares that a picture's words have."""
    return -ops.mean(ops.sum(weights * ops.log_softmax(logits), axis=-1))


def main() -> None:
    """Trains, and writes the weights beside this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument("--batch-size", type=int, default=64)
    given = parser.parse_args()
    keras.utils.set_random_seed(0)
    rows = examples()
    truth, known = targets(rows)
    pictures, colours = tf.constant(np.stack([row["x"] for row in rows])), tf.constant(paint(rows))
    truths = {name: tf.constant(values) for name, values in truth.items()}
    batches = (
        tf.data.Dataset.range(len(rows)).shuffle(len(rows), seed=0).batch(given.batch_size, drop_remainder=True)
        .map(lambda at: (
            copies.changed(tf.gather(pictures, at), tf.gather(colours, at)),
            {name: tf.gather(values, at) for name, values in truths.items()},
        ))
        .prefetch(2)
    )  # fmt: skip

    network = architectures.architecture(NAME, (SIDE, SIDE, 3))
    features = architectures.features_of(network)
    features.set_weights(published.load("mobilenet_v2", image_shape=(SIDE, SIDE, 3)).get_weights())
    model, steps = learner(network, len({row["name"] for row in rows}), len(known)), given.epochs * len(batches)
    sparse = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    schedule = keras.optimizers.schedules.CosineDecay(
        1e-5, steps * 19 // 20, warmup_target=1e-3, warmup_steps=steps // 20
    )
    model.compile(
        keras.optimizers.AdamW(schedule, weight_decay=0.02, global_clipnorm=1.0),
        loss={"names": smooth, "words": shared, "tone": sparse, "people": sparse},
        loss_weights={"names": 1.0, "words": 1.0, "tone": 0.3, "people": 0.3},
    )
    made = Path("runs") / NAME  # written before the training, too: what cannot be saved fails at once
    published.write(network, made, {}, half=True)
    keep = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: published.write(network, made, {}, half=True))
    start, cpu = time.monotonic(), time.process_time()
    history = model.fit(batches, epochs=given.epochs, verbose=2, callbacks=[keep]).history
    for file in made.iterdir():
        shutil.copy2(file, HERE / file.name)
    results = {
        "pictures": len(rows),
        "epochs": given.epochs,
        "wall_minutes": round((time.monotonic() - start) / 60, 1),
        "cpu_minutes": round((time.process_time() - cpu) / 60, 1),
        "parameters": features.count_params(),
        "megabytes_float16": round((HERE / WEIGHTS).stat().st_size / 1e6, 1),
        "ms": milliseconds(features),
        "loss": {name: [round(value, 4) for value in values] for name, values in history.items()},
    }
    (HERE / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    (HERE / "README.md").write_text(card(results), encoding="utf-8")


def milliseconds(features: keras.Model) -> float:
    """CPU time for a picture of native size, the median of many."""
    picture, times = np.zeros((1, SIDE, SIDE, 3), "float32"), []
    see = tf.function(features)
    for _ in range(40):
        start = time.process_time()
        see(picture)
        times.append(1000 * (time.process_time() - start))
    return round(statistics.median(times[10:]), 1)


def card(results: dict) -> str:
    """The README beside the weights."""
    first, last = ({name: values[at] for name, values in results["loss"].items()} for at in (0, -1))
    parts = ("names", "words", "tone", "people")
    losses = ", ".join(f"{name} {first[f'{name}_loss']:.2f} to {last[f'{name}_loss']:.2f}" for name in parts)
    about = __doc__.split("\n\n    python")[0].replace(f"Trains `{NAME}`: t", "T")
    return f"""# {NAME}

{about}

    from vtx_keras import encoders, zoo
    encoder = encoders.load("{NAME}")
    model = zoo.build("cross_attn_captioner", weights="encoders", image_encoder="{NAME}", image_shape=(97, 97, 3))

Its features serve pictures that are drawn: emoji, icons, cards. For photographs take
[mobilenet_v2](../mobilenet_v2/README.md),
with which it begins and whose layers up to `{FROZEN_UNTIL}` it keeps.

| | |
|---|---|
| takes | pixels 0–255, sides of 32·k + 1; trained at {SIDE} px; its scaling is in the graph |
| gives | a map (rows, columns, 1280) |
| parameters | {results["parameters"]:,} |
| stored | {results["megabytes_float16"]} MB as float16, norms float32 |
| time | {results["ms"]} CPU ms for a picture of {SIDE} px |
| trained on | {results["pictures"]:,} pictures, none by Fluent 3D: train of `emoji`, `emoji_more` and `word_cards` |
| losses | {losses} |
| again | `python -m zoo.encoders.{NAME}.recipe`: {results["cpu_minutes"]:.0f} CPU minutes, {results["epochs"]} epochs |
| licence | {architectures.PUBLISHED[NAME].licence}, for so are some of the pictures; [notices](../../NOTICE.md) |
"""


if __name__ == "__main__":
    main()
