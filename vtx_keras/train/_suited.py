"""How long and how fast to fine-tune a captioner: by the number of pictures, and how far they are from its own."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from vtx_keras.models._methods import Captioner
from vtx_keras.train._run import _behind_frozen_encoder, _source
from vtx_keras.train._settings import Settings

MEASURED = 400  # examples, of which the loss is that of all
EPOCHS = 4  # after each, the run is saved
NEAR = 5.5  # nats a word: captions of Flickr8k cost the captioner of photographs 3.9, of flowers 7.0, of products 8.7


def suited(model: Captioner, data: Any, root: str | os.PathLike = "runs") -> dict[str, Any]:
    """Return the settings of `train.run` with which a trained captioner learns these examples.

    The model has seen none of them, so its loss tells how far they are from its own. Where it is low, few gentle
    steps keep what it knows; where it is high, the model learns fast and long. With a frozen image encoder the features
    are kept in `root`, where a run finds them. `benchmarks/few.py` measures what comes of it.

    >>> from vtx_keras import zoo
    >>> from vtx_keras.data import Examples
    >>> import numpy as np, tempfile, tensorflow as tf
    >>> model = zoo.build("gated_captioner", weights=None, dim=32, depth=1, vision_depth=1, image_shape=(32, 32, 3))
    >>> rows = {"image": np.zeros((40, 32, 32, 3), "uint8"), "caption": ["a cat"] * 40}
    >>> settings = suited(model, Examples(tf.data.Dataset.from_tensor_slices(rows)), tempfile.mkdtemp())
    >>> sorted(settings)
    ['batch_size', 'epochs', 'learning_rate', 'repeats']
    """
    if not isinstance(model, Captioner):
        raise TypeError(f"suited settings are known for captioners, and this is a {getattr(model, 'name', model)}")
    return by_distance(len(data), loss_of(model, data.take(MEASURED), root))


def by_distance(pictures: int, loss: float) -> dict[str, Any]:
    """Return settings for so many pictures whose captions cost the model so many nats a word.

    >>> by_distance(100, 3.9)
    {'epochs': 4, 'repeats': 3, 'batch_size': 16, 'learning_rate': 2e-06}
    >>> by_distance(40, 7.0)
    {'epochs': 4, 'repeats': 16, 'batch_size': 16, 'learning_rate': 0.001}
    """
    near = loss < NEAR
    steps = 60 + 0.1 * pictures if near else 150 + 0.15 * pictures
    batch_size = 16 if pictures < 400 else 32
    repeats = max(1, round(steps * batch_size / (EPOCHS * pictures)))
    learning_rate = 2e-6 if near else 1e-3  # with 1e-5, a hundred pictures of Flickr8k cost .013 of CIDEr
    return {"epochs": EPOCHS, "repeats": repeats, "batch_size": batch_size, "learning_rate": learning_rate}


def loss_of(model: Captioner, data: Any, root: str | os.PathLike) -> float:
    """Return the model's mean loss per word on examples."""
    how = Settings(verbose=False)
    trained, data, _ = _behind_frozen_encoder(model, data, None, how, Path(root), told=False, alone=False)
    source = _source(data, trained, batch_size=how.batch_size)
    return float(trained.evaluate(source.batches, steps=source.steps, verbose=0, return_dict=True)["loss"])
