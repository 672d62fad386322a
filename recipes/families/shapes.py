"""Models that answer questions about one coloured shape (`easy_vqa`), and the image encoder that they share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

from recipes.release import Release
from vtx_keras import data, media, train
from vtx_keras._files import whole

SHAPES = ("circle", "rectangle", "triangle")
COLOURS = ("black", "blue", "brown", "gray", "green", "red", "teal", "yellow")
SIDE, EPOCHS, BATCH, UNKNOWN = 64, 40, 32, -1
WEIGHTS = Path("runs/shape_encoder.weights.h5")


def answerer(recipe: str, fusion: str) -> Release:
    """Return the release of a model; `fusion` says how picture and question are combined."""
    about = (
        "Answers questions about one coloured shape: its colour, its shape, yes or no. The picture is encoded by four "
        "convolutions that were first trained to classify shapes and colours, the question by one layer, "
        f"and in one block of width 128 {fusion}; the output is one of 13 answers."
    )
    expect = "It was trained on one shape on a plain ground, and on this set's questions, which come from templates."
    return Release(
        recipe,
        about,
        expect,
        ("easy_vqa",),
        questions,
        {"test": "the official test split; none of its pictures was trained on"},
        options={
            "image_shape": (SIDE, SIDE, 3),
            "dim": 128,
            "depth": 1,
            "text_depth": 1,
            "max_length": 12,
            "dropout": 0.0,
        },
        encoder=encoder,
        licence="Apache-2.0",
        eval_data="easy_vqa",
        gpu_epochs=36,
        epochs=12,  # only after half of them does it learn whether word and shape agree, and what "not" does to that
        baselines_from="gated_vqa/easy_vqa",
    )


def questions(split: str) -> data.Examples:
    """Load questions about a shape."""
    return data.load("easy_vqa", split)


def encoder() -> keras.Model:
    """Build the encoder of 64 × 64 pixels to 4 × 4 features; the first call trains it and stores its weights."""
    pixels = keras.Input((SIDE, SIDE, 3))
    x = layers.Rescaling(1 / 127.5, offset=-1.0)(pixels)
    for width in (16, 32, 64, 64):
        x = layers.Conv2D(width, 3, strides=2, padding="same", activation="relu")(x)
    model = keras.Model(pixels, x, name="shape_eye")  # the name in the released files
    if not WEIGHTS.is_file():
        pretrain(model)
        with whole(WEIGHTS) as part:
            model.save_weights(part)
    model.load_weights(WEIGHTS)
    return model


def pretrain(encoder: keras.Model) -> None:
    """Train the encoder to classify shape and colour, which are the answers to some of a picture's questions."""
    pictures, truth = labelled("train")
    flip = layers.RandomFlip(seed=0)
    batches = (
        tf.data.Dataset.from_tensor_slices((pictures, truth))
        .shuffle(len(pictures), seed=0)
        .batch(BATCH, drop_remainder=True)
        .map(lambda pixels, labels: (flip(pixels, training=True), labels))
        .prefetch(2)
    )
    strongest = layers.GlobalMaxPooling2D()(encoder.output)
    heads = {"shape": layers.Dense(len(SHAPES))(strongest), "colour": layers.Dense(len(COLOURS))(strongest)}
    model = keras.Model(encoder.input, heads)
    optimizer = train.adamw(model, EPOCHS * len(batches), learning_rate=2e-3)
    model.compile(optimizer, loss=dict.fromkeys(heads, masked_loss))
    model.fit(batches, epochs=EPOCHS, verbose=2)
    pictures, truth = labelled("validation")
    for name, logits in model.predict(pictures, verbose=0).items():
        labelled_rows = truth[name] != UNKNOWN
        accuracy = np.mean(logits.argmax(axis=-1)[labelled_rows] == truth[name][labelled_rows])
        print(f"{encoder.name}: {name} accuracy {accuracy:.1%} on {labelled_rows.sum()} validation pictures")


def labelled(split: str) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return pictures, their shapes and their colours; a label that no question asks for is UNKNOWN."""
    pictures: dict[bytes, dict[str, Any]] = {}
    for row in questions(split).encoded.as_numpy_iterator():
        picture = pictures.setdefault(row["image_id"], {"image": row["image"], "shape": UNKNOWN, "colour": UNKNOWN})
        for name, words in (("shape", SHAPES), ("colour", COLOURS)):
            if row["answer"].decode() in words:
                picture[name] = words.index(row["answer"].decode())
    rows = list(pictures.values())
    truth = {name: np.array([row[name] for row in rows]) for name in ("shape", "colour")}
    return np.stack([media.read(row["image"]) for row in rows]), truth


def masked_loss(labels: keras.KerasTensor, logits: keras.KerasTensor) -> keras.KerasTensor:
    """Return cross-entropy, zero where the label is UNKNOWN."""
    mask = labels != UNKNOWN
    losses = keras.losses.sparse_categorical_crossentropy(ops.where(mask, labels, 0), logits, from_logits=True)
    return ops.mean(ops.where(mask, losses, 0.0))
