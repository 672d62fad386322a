"""What a release is: a model's data, options and training, and how its card describes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import keras

from vtx_keras import data
from vtx_keras.evaluate import BASELINES

TRAINING = "training.json"  # in a run's folder: on what and how long it was trained, where that was elsewhere


class Table(NamedTuple):
    """One more table for a card, with its title and an explanation."""

    title: str
    about: str
    header: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class Release:
    """One released model: its data and options, and how it is trained, evaluated and exported.

    `examples(split)` returns what `data.load` would. `eval_splits` describes every split that is evaluated.
    """

    recipe: str  # the path of the recipe
    about: str
    expect: str
    sets: tuple[str, ...]
    examples: Callable[[str], data.Examples]
    eval_splits: Mapping[str, str]
    sources: tuple[tuple[str, str], ...] = ()  # other data, and their licences
    beams: int = 1  # with which it is evaluated
    shown: tuple[str, ...] = ()  # metrics that the card shows, the headline first; default: by the kind of result
    kept_features: bool = False  # evaluate on features in `runs/features`, made once for all models of the encoder
    options: Mapping[str, Any] = field(default_factory=dict)
    encoder: Callable[[], keras.Model] | None = None  # builds an image encoder that is not a published one
    vocabulary_size: int | None = 2000  # None: the bundled English vocabulary
    words: Callable[[], Sequence[str]] | None = None  # the vocabulary, in place of one that is learned
    trained: Callable[[keras.Model, Path], Path] | None = None  # trains it in a folder; returns the best weights
    prepare: Callable[[keras.Model], None] | None = None  # changes the new model before training
    start_from: str | None = None  # a release: its vocabulary, and its weights wherever path and shape agree
    copies: int = 1  # of each picture, all but the first augmented
    epochs: int = 10
    gpu_epochs: int | None = None  # of `recipes.remote`, which augments every picture anew; default: as many steps
    learning_rate: float = 1e-3
    batch_size: int = 64
    baselines: tuple[str, ...] = BASELINES
    formats: tuple[tuple[str, str | None], ...] = (("litert", "int8"),)
    licence: str = "CC-BY-SA-4.0"  # that of some of the pictures
    train_split: Callable[[str], str] = lambda split: "train"  # the split that the baselines of a split learn from
    baselines_from: str | None = None  # a release that was evaluated on the same rows: its baselines are copied
    eval_data: str | None = None  # `--data` of `vtx eval` on the card; "{part}" is what follows the split's name
    example_split: str | None = None  # the split of the example pictures; default: the first that is evaluated
    judges: Callable[[], Mapping[str, Any]] | None = None  # of what a generator draws, as `evaluate.run` takes them
    sheet: tuple[str, ...] = ()  # texts that a generator draws for the card
    besides: Callable[[keras.Model], Table] | None = None  # measures one more table for the card
    rows: int | None = None  # of an epoch, where they are not the training examples
    commands: tuple[str, ...] = ()  # that train it, where that is not its recipe alone

    @property
    def folder(self) -> Path:
        """The folder that holds the release."""
        return Path(self.recipe).parent

    @property
    def name(self) -> str:
        """The model's name in the zoo."""
        return self.folder.parent.name

    @property
    def tag(self) -> str:
        """The name of its weights."""
        return self.folder.name

    @property
    def epochs_on_gpu(self) -> int:
        """The epochs of `recipes.remote`: by default as many steps as with copies."""
        return self.gpu_epochs or self.epochs * self.copies

    @property
    def shown_split(self) -> str:
        """The split of the example pictures."""
        return self.example_split or next(iter(self.eval_splits))

    @property
    def run(self) -> Path:
        """The folder of the training run."""
        return Path("runs") / f"{self.name}-{self.tag}"
