"""Models small enough to build in a second or two, and pictures and texts for them."""

from __future__ import annotations

import keras
import numpy as np
from click.testing import CliRunner, Result

from vtx_keras import cli, data, zoo
from vtx_keras.inputs import text

WORDS = [f"w{i}" for i in range(64 - len(text.SPECIALS))]
SHAPE, CLIP = (32, 32, 3), (2, 32, 32, 3)
ANSWERS = ["no", "yes", "maybe"]
IMAGE_NAMES = [name for name, entry in zoo.MODELS.items() if not entry.video]


def toy(name: str, **overrides):
    """A model of the zoo at toy size: dim 32, depth 1, 32 px, 64 words."""
    entry = zoo.MODELS[name]
    options = {
        "weights": None,
        "dim": 32,
        "heads": 2,
        "vision_depth": 1,
        "image_shape": CLIP if entry.video else SHAPE,
        "vocabulary": WORDS,
        "max_length": 8,
        "dropout": 0.0,
    }
    if entry.task != "retriever":
        options["depth"] = 1
    if entry.task != "captioner":
        options["text_depth"] = 1
    if entry.task in ("vqa", "classifier"):
        options["classes"] = ANSWERS
    return zoo.build(name, **{**options, **overrides})


def decisive(name: str):
    """A captioner whose choices lie further apart than rounding, and which ends some captions early."""
    model = toy(name, depth=2)
    table = model.get_layer("words").embeddings
    values = np.random.default_rng(1).normal(size=table.shape) * 0.3
    values[text.END] *= 2
    table.assign(values)
    return model


def pictures(model, count: int = 4, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0, 255, (count, *model.image_shape)).astype("float32")


def texts(count: int = 4, seed: int = 0) -> list[str]:
    random = np.random.default_rng(seed)
    return [" ".join(random.choice(WORDS, random.integers(2, 6))) for _ in range(count)]


def batches(model, count: int = 4, **kwargs):
    """One batch as `fit` takes it, the same each time."""
    labels = None
    if "classes" in model.options:
        labels = [ANSWERS[i % len(ANSWERS)] for i in range(count)]
        if model.options["multi_label"]:
            labels = [[label] for label in labels]
    return data.arrays(model, pictures(model, count), texts(count), labels, batch_size=count, **kwargs)


def fit(model, ds, epochs: int = 1, **settings):
    """`model.fit`: a few steps eagerly, for tracing them would take longer; that steps compile has tests of its own."""
    try:
        steps = epochs * len(ds)
    except TypeError:  # tf.data does not know
        steps = epochs
    if steps <= 10 and model.jit_compile is not True:
        eager(model)
    return model.fit(ds, epochs=epochs, verbose=0, **settings)


def learn(model, images: np.ndarray, said: list, labels: list | None = None, *, steps: int):
    """`fit` on the same batch for so many steps of one epoch, for to begin an epoch takes as long as some steps."""
    again = np.concatenate([images] * steps)
    ds = data.arrays(model, again, said * steps, labels and labels * steps, batch_size=len(images))
    return fit(model, ds)


def eager(model):
    """The model, whose steps and captions TensorFlow will not trace."""
    model.run_eagerly = keras.backend.backend() == "tensorflow"
    return model


def inputs(model, count: int = 4) -> dict[str, np.ndarray]:
    return batches(model, count)[0][0]


def outputs(model, inputs) -> np.ndarray:
    return np.array(model(inputs, training=False))


def vtx(*words: object, **kwargs) -> Result:
    """The command in this process, which saves a start of TensorFlow."""
    return CliRunner().invoke(cli.main, [str(word) for word in words], **kwargs)
