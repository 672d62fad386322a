"""Settings of a run, checked when made, and the optimizer and the objective that they describe."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import keras
import numpy as np

from vtx_keras.data._examples import references_of
from vtx_keras.data._memory import Batches
from vtx_keras.inputs.text import PAD
from vtx_keras.models._base import VisionText
from vtx_keras.models._drawing import Generator
from vtx_keras.models._methods import Captioner
from vtx_keras.models.adversarial import halves
from vtx_keras.models.objectives import PacedAdam, PacedAdamW, clipping
from vtx_keras.models.options import did_you_mean
from vtx_keras.models.rewards import by_cider, rarity, rewarded

LATER = ("buckets", "objective", "repeats", "samples_per_picture", "weight_of_words")  # since runs were first recorded
EMA_OF_DRAWINGS = 0.999
SHARE = 0.95  # of the references are no longer than a sample may be: time grows with the longest

MEASURED = 400  # examples, of which the loss is that of all
EPOCHS = 4  # after each, the run is saved
NEAR = 5.5  # nats a word: captions of Flickr8k cost the captioner of photographs 3.9, of flowers 7.0, of products 8.7


@dataclass(frozen=True)
class Settings:
    """Settings of a run: the keyword options of `train.run`, checked when an object is made.

    >>> Settings(epochs=3).batch_size
    32
    >>> Settings(epochs=0)
    Traceback (most recent call last):
    ValueError: epochs=0: expected a whole number of at least 1
    """

    epochs: int = 10
    batch_size: int = 32
    repeats: int = 1  # times that an epoch shows each example: epochs of few examples would only save files
    augment: bool | Mapping[str, Any] = False
    buckets: tuple[int, ...] = ()  # text lengths: rows of similar length share a batch
    objective: str = "words"  # or "cider", the reward of sampled captions (models/rewards.py)
    samples_per_picture: int = 5  # of objective="cider"
    weight_of_words: float = 0.2  # of the loss of "words" beside the reward
    texts: float = 0.5  # sentences of `text=` for each row of a batch
    unknown: str = "error"  # for labels that are no class: "error" or "drop"
    learning_rate: float = 3e-4
    weight_decay: float = 0.05
    warmup: float = 0.05  # share of the steps in which the learning rate rises
    clip: float = 1.0  # largest gradient norm; 0 for no clipping
    ema: float | None = None  # momentum of averaged weights
    accumulate: int = 1  # batches per update
    jit_compile: bool | str = "auto"
    steps_per_execution: int = 1
    monitor: str | None = None  # metric that selects `best`
    scores: int = 0  # validation examples that the model is scored on after each epoch
    save_every: int = 200  # steps between saved states
    seed: int = 0
    samples: int = 12  # examples on the page of samples
    tensorboard: bool = False
    new: bool = False  # start a new run where an unfinished one of the same settings exists
    dry_run: bool = False
    verbose: bool = True

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "repeats", "accumulate", "steps_per_execution", "save_every"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}={value!r}: expected a whole number of at least 1")
        for name, most in (("learning_rate", math.inf), ("weight_decay", math.inf), ("clip", math.inf), ("warmup", 1)):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or not 0 <= value <= most or math.isinf(value):
                raise ValueError(f"{name}={value!r}: expected a number from 0{' to 1' if most == 1 else ' up'}")
        if not isinstance(self.texts, (int, float)) or not 0 < self.texts <= 10:
            raise ValueError(f"texts={self.texts!r}: expected sentences per row of a batch, above 0 and up to 10")
        if self.objective not in ("words", "cider"):
            raise ValueError(f'objective={self.objective!r}: expected "words" or "cider"')
        if not isinstance(self.samples_per_picture, int) or self.samples_per_picture < 2:
            raise ValueError(f"samples_per_picture={self.samples_per_picture!r}: expected at least 2, to be compared")
        if not isinstance(self.weight_of_words, (int, float)) or not 0 <= self.weight_of_words < math.inf:
            raise ValueError(f"weight_of_words={self.weight_of_words!r}: expected a number from 0 up")
        if self.ema is not None and not 0 < self.ema < 1:
            raise ValueError(f"ema={self.ema!r}: expected a momentum between 0 and 1, such as 0.999")

    @classmethod
    def of(cls, **options: Any) -> Settings:
        """Make settings from options, with a hint for a misspelled name."""
        names = [one.name for one in fields(cls)]
        for name in options:
            if name not in names:
                raise TypeError(f"train.run has no setting {name!r}{did_you_mean(name, names)}: {', '.join(names)}")
        return cls(**options)

    def later(self) -> dict[str, Any]:
        """Return the settings that earlier versions did not have, where they are not the default.

        >>> Settings().later(), Settings(buckets=(8,)).later()
        ({}, {'buckets': (8,)})
        """
        later = [one for one in fields(self) if one.name in LATER]
        return {one.name: getattr(self, one.name) for one in later if getattr(self, one.name) != one.default}


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


def loss_of(model: Captioner, examples: Any, root: str | os.PathLike) -> float:
    """Return the model's mean loss per word on examples."""
    from vtx_keras.data import batches, features

    trained = model
    if model.has_layer("image_encoder") and not model.get_layer("image_encoder").trainable:
        examples, trained = features(examples, model, Path(root) / "features"), model.behind_encoder()
    ready = batches(examples, trained, batch_size=32)
    return float(trained.evaluate(ready, verbose=0, return_dict=True)["loss"])


def optimizer_of(model: keras.Model, steps: int, settings: Settings) -> PacedAdam:
    """Return the optimizer of a run of so many steps: `adamw`, but of a generator Adam at a rate that stays.

    A generator's averaged weights draw better pictures than any step's, so they are kept where `ema` says nothing else.
    """
    s = settings
    if isinstance(model, Generator):
        if s.batch_size < 2:
            raise ValueError("batch_size=1: a generator learns from texts of other rows: expected at least 2")
        if s.accumulate > 1:
            raise ValueError(f"accumulate={s.accumulate}: a generator and its discriminator learn from every batch")
        return halves(s.learning_rate, use_ema=True, ema_momentum=EMA_OF_DRAWINGS if s.ema is None else s.ema)
    return adamw(
        model, steps, learning_rate=s.learning_rate, weight_decay=s.weight_decay, warmup=s.warmup, clip=s.clip,
        ema=s.ema, accumulate=s.accumulate,
    )  # fmt: skip


def adamw(
    model: keras.Model,
    steps: int,
    *,
    learning_rate: float = 3e-4,
    weight_decay: float = 0.05,
    warmup: float = 0.05,
    clip: float = 1.0,
    ema: float | None = None,
    accumulate: int = 1,
) -> PacedAdamW:
    """Return AdamW as is usual for transformers: warm-up and cosine decay, clipping, no decay of norms and biases.

    `steps` is the number of batches in the run and `warmup` the share of them in which the learning rate rises. `ema`
    is the momentum of averaged weights, which are validated and saved in place of the trained ones. `accumulate` is the
    number of batches per update.

    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
    >>> round(float(adamw(model, 100, learning_rate=0.1, warmup=0.1).learning_rate), 3)
    0.0
    """
    warm = round(warmup * steps)
    rate = keras.optimizers.schedules.CosineDecay(
        0.0 if warm else learning_rate,
        max(1, steps - warm),
        warmup_target=learning_rate if warm else None,
        warmup_steps=warm,
    )
    optimizer = PacedAdamW(
        rate,
        weight_decay=weight_decay,
        **(clipping(model.trainable_variables, clip) if clip else {}),
        use_ema=ema is not None,
        ema_momentum=0.999 if ema is None else ema,
        gradient_accumulation_steps=accumulate if accumulate > 1 else None,
    )
    optimizer.exclude_from_weight_decay([one for one in model.trainable_variables if len(one.shape) < 2])
    return optimizer


def check_reward(model: VisionText, data: Any, validation: Any, *, told: bool) -> None:
    """Raise an error if these cannot be trained on a reward."""
    if not isinstance(model, Captioner):
        raise ValueError(f'objective="cider" trains captioners, and this is a {model.name}')
    if told:
        raise ValueError('objective="cider" needs pictures: leave out text=, because sentences alone have no reward')
    if any(isinstance(given, Batches) for given in (data, validation)):
        raise ValueError(
            'objective="cider" needs examples, such as those of data.load; data.arrays are batches already'
        )


def by_cider_of(model: Captioner, data: Any, validation: Any, settings: Settings) -> Captioner:
    """Return the model of `rewarded` whose samples are compared with the captions of these examples.

    N-grams are as rare as in `data`; the metric of validation compares with the captions of `validation`.
    """
    references, picture_of = references_of(data, model)
    table, held_out = rarity(references), None
    if validation is not None:
        held_out = by_cider(*references_of(validation, model), table)
    lengths = (references != PAD).sum(axis=-1)
    return rewarded(
        model, by_cider(references, picture_of, table), held_out, samples=settings.samples_per_picture,
        length=int(np.quantile(lengths[lengths > 0], SHARE, method="higher")),
        weight_of_words=settings.weight_of_words,
    )  # fmt: skip
