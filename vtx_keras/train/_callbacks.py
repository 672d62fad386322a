"""The callback that keeps a run: its state every so often, its books every epoch, and an eye on the loss."""

from __future__ import annotations

import contextlib
import inspect
import json
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import keras

from vtx_keras._compat import averages_of, sync_jax
from vtx_keras._files import write
from vtx_keras.checkpoints import save
from vtx_keras.models._base import VisionText
from vtx_keras.models.options import did_you_mean
from vtx_keras.train import _folder as run_folder
from vtx_keras.train import _report as books
from vtx_keras.train._folder import STATES

DRAW_EVERY = 20  # seconds, at least, between two pages of samples: an epoch may be shorter than its page


class Diverged(ArithmeticError):
    """The loss, or a weight, became NaN or infinite."""


class Stopped(RuntimeError):
    """The run was asked to stop, and did; the same command goes on with it."""


def falling(monitor: str) -> bool:
    """Whether less of this figure is better.

    >>> falling("val_loss"), falling("val_cider")
    (True, False)
    """
    return monitor.endswith(("loss", "perplexity", "rank"))


class Averaged(keras.callbacks.Callback):
    """Validation, and all callbacks at an epoch's end, see the averaged weights (EMA) where the optimizer keeps them.

    It must be the first callback, and `Keeper`, which puts the trained weights back, the last.
    """

    def __init__(self) -> None:
        super().__init__()
        self.inside = False

    def swap(self, inside: bool) -> None:
        pairs = averages_of(self.model.optimizer)
        if self.inside == inside or not pairs:
            return
        self.inside = inside
        for variable, average in pairs:
            before = keras.ops.convert_to_numpy(variable)
            variable.assign(average)
            average.assign(before)

    def on_test_begin(self, logs: dict | None = None) -> None:
        sync_jax(self.model)
        self.swap(inside=True)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        sync_jax(self.model)
        self.swap(inside=True)


class Keeper(keras.callbacks.Callback):
    """Saves, restores, stops, complains. The last callback of a run."""

    def __init__(
        self,
        folder: Path,
        whole: VisionText,
        source: Any,
        averaged: Averaged,
        *,
        epochs: int,
        save_every: int,
        monitor: str,
        others: Sequence[keras.callbacks.Callback],
        position: dict[str, Any],
        values: list,
        held_out: Any,
        samples: Callable[[Path], None] | None,
        progress: books.Progress,
    ):
        super().__init__()
        self.folder, self.whole, self.source, self.averaged = folder, whole, source, averaged
        self.epochs, self.save_every, self.monitor, self.others = epochs, save_every, monitor, others
        self.held_out, self.samples, self.progress, self.values = held_out, samples, progress, values
        self.epoch, self.done = position.get("epoch", 0), position.get("done", 0)
        self.rows, self.best = position.get("rows", []), position.get("best")
        self.kept_callbacks = position.get("callbacks", [])
        self.ended = False  # all epochs done, or a callback such as EarlyStopping said stop
        self.drawn = -math.inf  # when the page of samples was
        self.seconds, self.since = position.get("seconds", 0.0), time.monotonic()
        self.stop_signal: int | None = None

    @property
    def step(self) -> int:
        return self.epoch * self.source.steps + self.done

    def on_train_begin(self, logs: dict | None = None) -> None:
        if self.values:
            run_folder.restore(self.model, self.values)
            for callback, kept in zip(self.others, self.kept_callbacks, strict=True):
                vars(callback).update(kept)
            if self.best and not (self.folder / "best").is_dir():
                self.progress.say(f"{self.folder / 'best'} is gone: the next epoch is the best again")
                self.best = None
        self.since = time.monotonic()
        if not self.values:  # a model that cannot be saved fails now, not after training
            self.save_weights("last")
            self.save(must=True)

    def on_test_begin(self, logs: dict | None = None) -> None:
        if self.held_out:
            self.held_out.begin(0, 0)  # the same draws (of several captions, say) every time

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        if epoch != self.epoch:  # the first epoch of a fit may be one that was begun
            self.epoch, self.done = epoch, 0
        self.source.begin(self.epoch, self.done)
        if self.done and self.values:  # Keras has just reset the metrics: they go on counting
            own = {id(variable) for variable in self.model.metrics_variables}
            for variable, value in zip(run_folder.variables(self.model), self.values, strict=True):
                if id(variable) in own:
                    variable.assign(value)
        self.values, self.first = [], self.done
        self.progress.begin(self.epoch, self.done)

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        before = self.done
        self.done = min(self.first + batch + 1, self.source.steps)
        loss = (logs or {}).get("loss", 0.0)
        if not math.isfinite(loss):
            self.diverged(f"the loss is {loss}", before)
        self.progress.step(self.done, logs or {})
        passed = self.step // self.save_every > (self.step - self.done + before) // self.save_every
        if self.done == self.source.steps:  # the epoch's end saves, and heeds signals, by itself
            if self.first:
                # Keras expects a whole epoch. Asking tf.data for one batch more would draw seeds before it failed;
                # this is how an input that ran out ends an epoch.
                raise StopIteration
            return
        if not (passed or self.stop_signal):
            return
        sync_jax(self.model)
        with self.finite(before):
            self.save()
        if self.stop_signal:
            raise Stopped(
                f"stopped by {signal.Signals(self.stop_signal).name} in epoch {self.epoch + 1} after {self.done} of "
                f"{self.source.steps} batches. The same command goes on from there"
            )

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        logs = {name: float(value) for name, value in (logs or {}).items()}
        self.rows = [*self.rows[:epoch], {"epoch": epoch + 1, **logs}]
        with self.finite(0), self.tolerant("the epoch's files"):
            books.write_rows(self.folder, self.rows)
            self.save_weights("last")
            if self.better(logs):
                self.save_weights("best")
                self.best = {"epoch": epoch + 1, self.monitor: logs.get(self.monitor)}
            last = epoch + 1 == self.epochs or self.model.stop_training
            if self.samples and (last or time.monotonic() - self.drawn > DRAW_EVERY):
                self.samples(self.folder / "samples.html")
                self.drawn = time.monotonic()
        self.averaged.swap(inside=False)
        self.epoch, self.done = epoch + 1, 0
        self.ended = epoch + 1 == self.epochs or self.model.stop_training
        with self.finite(self.source.steps - 1):
            self.save(must=self.ended)
        self.progress.end(self.rows[-1], self.best)
        self.epoch, self.done = epoch, self.source.steps
        if self.stop_signal and not self.ended:
            raise Stopped(f"stopped after epoch {epoch + 1}. The same command goes on from there")

    def better(self, logs: dict) -> bool:
        if self.monitor not in logs:
            raise ValueError(
                f"monitor={self.monitor!r}{did_you_mean(self.monitor, logs)}: an epoch ends with {', '.join(logs)}"
            )
        now, was = logs[self.monitor], (self.best or {}).get(self.monitor)
        if math.isnan(now):
            return was is None
        return was is None or math.isnan(was) or (now < was if falling(self.monitor) else now > was)

    def position(self) -> dict[str, Any]:
        return {
            "epoch": self.epoch,
            "done": self.done,
            "rows": self.rows,
            "best": self.best,
            "ended": self.ended,
            "callbacks": [_plain_state(callback) for callback in self.others],
            "seconds": self.seconds + time.monotonic() - self.since,
        }

    def save(self, must: bool = False) -> None:
        with contextlib.nullcontext() if must else self.tolerant("the state"):
            try:
                run_folder.save_state(self.folder / STATES, self.model, self.position(), self.step)
            except OSError as error:
                told = f"{self.folder / STATES}: {error.strerror or error}. Make room, and give the same command again"
                raise OSError(error.errno, told) from error

    def save_weights(self, name: str) -> None:
        save(self.whole, self.folder / name)

    @contextlib.contextmanager
    def tolerant(self, what: str) -> Iterator[None]:
        """A full disk in the middle of a run is said, and tried again at the next time; older files stay."""
        try:
            yield
        except OSError as error:
            self.progress.say(
                f"{what} could not be saved ({error.strerror or error}); the run goes on, older files stay"
            )

    @contextlib.contextmanager
    def finite(self, first: int) -> Iterator[None]:
        try:
            yield
        except run_folder.NotFinite as error:
            self.diverged(str(error), first)

    def diverged(self, what: str, first: int) -> None:
        """Say which examples were in the batches since the last sound one, and end the run."""
        about = {
            "what": what,
            "epoch": self.epoch + 1,
            "batches": [first + 1, max(first + 1, self.done)],
            "examples": self.source.rows_of(self.epoch, first, max(first + 1, self.done)),
        }
        path = self.folder / "diverged.json"
        with self.tolerant(path.name):
            write(path, json.dumps(about, indent=1, ensure_ascii=False) + "\n")
        raise Diverged(
            f"{what} in epoch {self.epoch + 1}, batch {first + 1}: {path} names its {len(about['examples'])} examples. "
            f"The last good state and weights are kept in {self.folder}. Look at those examples, or start anew with a "
            "smaller learning rate, stronger clipping or float32"
        )

    @contextlib.contextmanager
    def heeding_signals(self) -> Iterator[None]:
        """SIGTERM and Ctrl-C end the run after the step at hand, saved; a second one ends it at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def heed(number: int, frame: FrameType | None) -> None:
            if self.stop_signal:
                raise KeyboardInterrupt
            self.stop_signal = number
            self.progress.say("stopping after this step; once more stops at once")

        before = {number: signal.signal(number, heed) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _plain_state(callback: keras.callbacks.Callback) -> dict[str, Any]:
    """The numbers and words of a callback (what EarlyStopping has seen so far), which a new process is to know.

    What it was made with is not among them: that is for the call at hand to say.
    """
    told, given = {}, inspect.signature(type(callback).__init__).parameters
    for name, value in vars(callback).items():
        if name in given:
            continue
        value = value.item() if getattr(value, "shape", None) == () and hasattr(value, "item") else value
        if value is None or isinstance(value, (bool, int, float, str)):
            told[name] = value
    return told
