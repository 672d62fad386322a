"""Train behind two frozen encoders: pictures and texts are encoded once, and `fit` runs on arrays of their features."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np

from recipes.systems.trials import FEATURES
from vtx_keras import data, train
from vtx_keras.checkpoints._folder import digest
from vtx_keras.data._examples import as_texts
from vtx_keras.evaluate._outcomes import Outcome, Row
from vtx_keras.models._base import cut

_ENCODED: dict[tuple, np.ndarray] = {}  # features of texts, by encoder and ids


class Kept(NamedTuple):
    """Examples as arrays: inputs of `behind`, class numbers, and for each row its group, text and label."""

    inputs: dict[str, np.ndarray]
    classes: np.ndarray
    rows: tuple[Row, ...]


def behind(model: Any) -> Any:
    """Return what stands behind both encoders of a classifier: its inputs are their features, and the ids.

    The text encoder's width is another than the model's, so that a layer called "text" reads it.
    """
    features = {"image": model.get_layer("vision").input, "words": model.get_layer("text").input}
    inputs = {**features, "tokens": model.input["tokens"]}
    part = cut(model, inputs, model.output, name=model.name)
    part.compile_from_config(model.get_compile_config())
    return part


def kept(model: Any, examples: data.Examples) -> Kept:
    """Encode each picture and each text of examples with "text" and "label" (one or several) once.

    Labels that are no class of the model are left out of those of a model of several labels.
    """
    images, texts, labels, groups = [], [], [], []
    for row in data.features(examples, model, FEATURES).as_numpy_iterator():
        images.append(row["image"])
        texts.append(row["text"].decode())
        labels.append(as_texts(row["label"]))
        groups.append(row["image_id"].decode())
    tokens = model.tokens_of(texts, allow_empty=True)
    rows = tuple(Row(i, str(i), *row) for i, row in enumerate(zip(groups, texts, labels, strict=True)))
    inputs = {"image": np.stack(images), "tokens": tokens, "words": _words(model, tokens)}
    names = model.class_names
    if model.options["multi_label"]:
        classes = np.array([[name in row for name in names] for row in labels], "float32")
    else:
        classes = np.array([names.index(row[0]) for row in labels])
    return Kept(inputs, classes, rows)


def _words(model: Any, tokens: np.ndarray) -> np.ndarray:
    """Return the features of each row's words (rows, length, width), as float16; a text is encoded once."""
    encoder = model.get_layer("text_encoder")
    known = digest(encoder)
    keys = [(known, row.tobytes()) for row in tokens]
    new = list({key: row for key, row in zip(keys, tokens, strict=True) if key not in _ENCODED}.items())
    for at in range(0, len(new), 64):
        part = new[at : at + 64]
        encoded = np.asarray(encoder.predict_on_batch(np.stack([row for _, row in part])))
        _ENCODED.update(zip((key for key, _ in part), encoded.astype("float16"), strict=True))
    return np.stack([_ENCODED[key] for key in keys])


def join(*parts: Kept) -> Kept:
    """Return several sets of arrays as one."""
    inputs = {name: np.concatenate([part.inputs[name] for part in parts]) for name in parts[0].inputs}
    rows = tuple(row for part in parts for row in part.rows)
    return Kept(inputs, np.concatenate([part.classes for part in parts]), rows)


def every(part: Kept, n: int, first: int = 0) -> Kept:
    """Return each n-th row."""
    chosen = slice(first, None, n)
    return Kept({name: one[chosen] for name, one in part.inputs.items()}, part.classes[chosen], part.rows[chosen])


def fitted(model: Any, learned: Kept, validation: Kept, how: Mapping[str, Any]) -> float:
    """Train what stands behind the encoders, keep the epoch that is most accurate on validation; return the seconds."""
    start, part = time.monotonic(), behind(model)
    epochs, batch_size = how["epochs"], how["batch_size"]
    optimizer = train.adamw(part, epochs * -(-len(learned.classes) // batch_size), learning_rate=how["learning_rate"])
    part.compile(optimizer, loss=part.loss, weighted_metrics=["accuracy"], jit_compile=False)
    best = keras.callbacks.EarlyStopping("val_accuracy", mode="max", patience=epochs, restore_best_weights=True)
    held_out = (validation.inputs, validation.classes)
    part.fit(
        learned.inputs, learned.classes, batch_size=batch_size, epochs=epochs, validation_data=held_out,
        callbacks=[best], verbose=0,
    )  # fmt: skip
    return time.monotonic() - start


def outcome(model: Any, tested: Kept) -> Outcome:
    """Return the likeliest class of each row, beside the right one."""
    logits = behind(model).predict(tested.inputs, batch_size=256, verbose=0)
    names: Sequence[str] = model.class_names
    said = [names[at] for at in logits.argmax(axis=1)]
    rows = tuple(row._replace(said=one) for row, one in zip(tested.rows, said, strict=True))
    return Outcome("label", rows, {})
