"""Models small enough to build in a second or two, images and texts for them, and the command `vtx`."""

from __future__ import annotations

import os
import subprocess
import sys

import keras
import numpy as np
from click.testing import CliRunner, Result

from vtx_keras import cli, data, zoo
from vtx_keras.inputs import text

WORDS = [f"w{i}" for i in range(64 - len(text.SPECIALS))]
SHAPE, CLIP = (32, 32, 3), (2, 32, 32, 3)
LARGER = (64, 64, 3)  # what published encoders take at least
ANSWERS = ["no", "yes", "maybe"]
IMAGE_NAMES = [name for name, entry in zoo.MODELS.items() if not entry.video]


def toy(name: str, **overrides):
    """A model of the zoo at toy size: dim 32, depth 1, 32 px, 64 words; a generator draws 16 px."""
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
    if entry.task == "generator":
        options |= {"width": 2, "noise": 8, "image_shape": (2, 16, 16, 3) if entry.video else (16, 16, 3)}
        del options["vision_depth"]
    elif entry.task != "retriever":
        options["depth"] = 1
    if entry.task != "captioner":
        options["text_depth"] = 1
    if entry.task in ("vqa", "classifier"):
        options["classes"] = ANSWERS
    return zoo.build(name, **{**options, **overrides})


def pretrained(name: str = "gated_vqa", encoder: str = "mobilenet_v2", **overrides):
    """A toy with a published image encoder and its weights."""
    options = {"weights": "encoders", "image_encoder": encoder, "image_shape": LARGER, **overrides}
    return toy(name, **options)


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
    """`model.fit`: a few steps run eagerly, since tracing them takes longer; test_compiled.py traces and compiles."""
    try:
        steps = epochs * len(ds)
    except TypeError:  # tf.data does not know
        steps = epochs
    if steps <= 10 and model.jit_compile is not True:
        eager(model)
    return model.fit(ds, epochs=epochs, verbose=0, **settings)


def learn(model, images: np.ndarray, captions: list, labels: list | None = None, *, steps: int):
    """`fit` on the same batch for so many steps of one epoch: starting an epoch takes as long as several steps."""
    repeated = np.concatenate([images] * steps)
    ds = data.arrays(model, repeated, captions * steps, labels and labels * steps, batch_size=len(images))
    return fit(model, ds)


def eager(model):
    """The same model, set to run its steps and write its captions without tracing."""
    model.run_eagerly = keras.backend.backend() == "tensorflow"
    return model


def inputs(model, count: int = 4) -> dict[str, np.ndarray]:
    return batches(model, count)[0][0]


def outputs(model, inputs) -> np.ndarray:
    return np.array(model(inputs, training=False))


def log_softmax(logits: np.ndarray) -> np.ndarray:
    logits = logits - logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def vtx(*words: object, **kwargs) -> Result:
    """Run the command in this process, without another start of TensorFlow."""
    return CliRunner().invoke(cli.main, [str(word) for word in words], **kwargs)


def vtx_process(*words: object, **kwargs) -> subprocess.CompletedProcess:
    """Run the command in a process of its own."""
    command = [sys.executable, "-c", "from vtx_keras.cli import main; main(prog_name='vtx')", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, **kwargs)


def other_backend(backend: str = "jax") -> dict[str, str]:
    """The environment of a process on another Keras backend that finds the support modules."""
    path = os.pathsep.join(path for path in sys.path if path)
    return {**os.environ, "KERAS_BACKEND": backend, "JAX_PLATFORMS": "cpu", "PYTHONPATH": path}
