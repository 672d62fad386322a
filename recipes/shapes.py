"""Models that answer questions about one coloured shape (`easy_vqa`), and the eye that they share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

from vtx_keras import data, train
from vtx_keras.inputs import media
from vtx_keras._files import whole
from recipes.release import Release

SHAPES = ("circle", "rectangle", "triangle")
COLOURS = ("black", "blue", "brown", "gray", "green", "red", "teal", "yellow")
SIDE, EPOCHS, BATCH, UNKNOWN = 64, 40, 32, -1
KEPT = Path("runs/shape_eye.weights.h5")


def answerer(recipe: str, how: str) -> Release:
    """A model that answers questions about a shape; they differ in how picture and question meet."""
    about = (
        "Answers questions about one coloured shape: its colour, its shape, yes or no. Four convolutions, taught "
        "shapes and colours first, read the picture, one layer reads the question, "
        f"and in one block of width 128 {how}; one of 13 answers comes out."
    )
    expect = "It knows one shape on a plain ground, and the questions of this set, which were made from templates."
    splits = {"test": "the official test; no picture of it was trained on"}
    settings: dict[str, Any] = {
        "options": {
            "image_shape": (SIDE, SIDE, 3),
            "dim": 128,
            "depth": 1,
            "text_depth": 1,
            "max_length": 12,
            "dropout": 0.0,
        },
        "eye": eye,
        "licence": "Apache-2.0",
        "eval_data": "easy_vqa",
        "far_epochs": 36,
        "epochs": 12,  # for half of them it does not know yet whether word and shape agree, and what "not" does to that
        "baselines_of": "gated_vqa/easy_vqa",
    }
    return Release(recipe, about, expect, ("easy_vqa",), questions, splits, **settings)


def questions(split: str) -> tf.data.Dataset:
    """Questions about a shape."""
    return data.load("easy_vqa", split)


def eye() -> keras.Model:
    """64 × 64 pixels to 4 × 4 places: trained by the first who asks, on the training split, and kept."""
    pixels = keras.Input((SIDE, SIDE, 3))
    x = layers.Rescaling(1 / 127.5, offset=-1.0)(pixels)
    for width in (16, 32, 64, 64):
        x = layers.Conv2D(width, 3, strides=2, padding="same", activation="relu")(x)
    model = keras.Model(pixels, x, name="shape_eye")
    if not KEPT.is_file():
        learn(model)
        with whole(KEPT) as part:
            model.save_weights(part)
    model.load_weights(KEPT)
    return model


def learn(eye: keras.Model) -> None:
    """Teaches the eye the shape and the colour, which are the answers to some of a picture's questions."""
    pictures, truth = labelled("train")
    turn = layers.RandomFlip(seed=0)
    batches = (
        tf.data.Dataset.from_tensor_slices((pictures, truth))
        .shuffle(len(pictures), seed=0)
        .batch(BATCH, drop_remainder=True)
        .map(lambda pixels, labels: (turn(pixels, training=True), labels))
        .prefetch(2)
    )
    strongest = layers.GlobalMaxPooling2D()(eye.output)
    heads = {"shape": layers.Dense(len(SHAPES))(strongest), "colour": layers.Dense(len(COLOURS))(strongest)}
    model = keras.Model(eye.input, heads)
    optimizer = train.adamw(model, EPOCHS * len(batches), learning_rate=2e-3)
    model.compile(optimizer, loss=dict.fromkeys(heads, where_known))
    model.fit(batches, epochs=EPOCHS, verbose=2)
    pictures, truth = labelled("validation")
    for name, logits in model.predict(pictures, verbose=0).items():
        known = truth[name] != UNKNOWN
        right = np.mean(logits.argmax(axis=-1)[known] == truth[name][known])
        print(f"shape_eye: {name} of {right:.1%} of {known.sum()} validation pictures")


def labelled(split: str) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Pictures, their shapes and their colours, as far as a question asks for them."""
    found: dict[bytes, dict[str, Any]] = {}
    for row in questions(split).encoded.as_numpy_iterator():
        one = found.setdefault(row["image_id"], {"image": row["image"], "shape": UNKNOWN, "colour": UNKNOWN})
        for name, words in (("shape", SHAPES), ("colour", COLOURS)):
            if row["answer"].decode() in words:
                one[name] = words.index(row["answer"].decode())
    rows = list(found.values())
    truth = {name: np.array([one[name] for one in rows]) for name in ("shape", "colour")}
    return np.stack([media.read(one["image"]) for one in rows]), truth


def where_known(labels: keras.KerasTensor, logits: keras.KerasTensor) -> keras.KerasTensor:
    """Cross-entropy, nothing where the label is unknown."""
    known = labels != UNKNOWN
    losses = keras.losses.sparse_categorical_crossentropy(ops.where(known, labels, 0), logits, from_logits=True)
    return ops.mean(ops.where(known, losses, 0.0))
