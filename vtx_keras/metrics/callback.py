"""Scores of what a model says, at the end of epochs, where callbacks such as EarlyStopping look for them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

import keras

from vtx_keras.metrics.examples import plain
from vtx_keras.metrics.outcomes import measures_of, said_of


class Scores(keras.callbacks.Callback):
    """Lets the model speak about validation examples at the end of an epoch, and writes the scores into `logs`.

        scores = metrics.Scores(data.load("emoji", "validation"), limit=200)
        model.fit(..., callbacks=[scores, keras.callbacks.EarlyStopping("val_cider", mode="max")])

    It stands before the callbacks that read them: `val_cider`, `val_exact_match`, `val_word_f1`, ... of a captioner,
    `val_accuracy` replaced by `val_said_accuracy` where the model has one of its own. The first `limit` examples are
    judged, after the first epoch and then after each `every`-th; in between, the last scores stand. `names` keeps only
    some.

    >>> from vtx_keras import data, zoo
    >>> model = zoo.build("gated_captioner", weights=None, dim=32, depth=1, vision_depth=1, image_shape=(32, 32, 3))
    >>> examples = [{"image": np.zeros((32, 32, 3), "uint8"), "caption": caption} for caption in ("a cat", "a dog")]
    >>> batches = data.arrays(model, np.zeros((2, 32, 32, 3)), ["a cat", "a dog"])
    >>> history = model.fit(batches, verbose=0, callbacks=[Scores(examples, names=["exact_match"])])
    >>> sorted(history.history)
    ['accuracy', 'loss', 'val_exact_match']
    """

    def __init__(
        self,
        examples: Iterable,
        *,
        limit: int = 200,
        every: int = 1,
        beams: int = 1,
        batch_size: int = 32,
        names: Sequence[str] | None = None,
        scorers: Sequence[str] | None = None,
    ):
        super().__init__()
        for what, value in (("limit", limit), ("every", every)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{what}={value!r}: expected a whole number of at least 1")
        self.examples, self.limit, self.every = examples, limit, every
        self.beams, self.batch_size, self.names, self.scorers = beams, batch_size, names, scorers
        self.last: dict[str, float] = {}

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if epoch % self.every == 0 or not self.last:
            self.last = self.scores()
        if logs is not None:
            for name, value in self.last.items():
                logs[f"val_said_{name}" if f"val_{name}" in logs else f"val_{name}"] = value

    def scores(self) -> dict[str, float]:
        """The scores as the model is now."""
        examples = islice(plain(self.examples), self.limit)
        outcome = said_of(self.model, examples, beams=self.beams, batch_size=self.batch_size)
        found = {name: measure.value for name, measure in measures_of(outcome, scorers=self.scorers).items()}
        unknown = [name for name in self.names or () if name not in found]
        if unknown:
            raise ValueError(f"names: there is no {unknown[0]!r} of a {self.model.name}, but {', '.join(found)}")
        return {name: found[name] for name in self.names or found}
