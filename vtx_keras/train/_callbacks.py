"""Callbacks of a run: save its state and weights, write its reports, stop on signals and on a loss that diverges."""

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
from vtx_keras.models._methods import Captioner
from vtx_keras.models.adversarial import concerns
from vtx_keras.models.options import did_you_mean
from vtx_keras.train import _folder as run_folder
from vtx_keras.train import _report as report
from vtx_keras.train._folder import STATES

LATEST = "latest"  # a monitor by which every epoch is the best so far
SAMPLES_EVERY = 20  # least seconds between two pages of samples, which may take longer than an epoch


class Diverged(ArithmeticError):
    """The loss or a weight became NaN or infinite."""


class Stopped(RuntimeError):
    """A signal stopped the run after saving its state; the same command resumes it."""


def lower_is_better(monitor: str) -> bool:
    """Return whether lower values of this metric are better.

    >>> lower_is_better("val_loss"), lower_is_better("val_cider")
    (True, False)
    """
    return monitor.endswith(("loss", "perplexity", "rank", "frechet", "kernel"))


class AveragedWeights(keras.callbacks.Callback):
    """Swap in the averaged weights (EMA), if the optimizer has them, for validation and callbacks at an epoch's end.

    It must be the first callback, and `Checkpointer`, which restores the trained weights, the last.
    """

    def __init__(self) -> None:
        super().__init__()
        self.inside = False

    def swap(self, inside: bool) -> None:
        """Put the averaged weights into the model, or the trained ones back."""
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


class Concerns(keras.callbacks.Callback):
    """Say in words when the halves of a generator fall out of balance."""

    def __init__(self, say: Callable[[str], None]):
        super().__init__()
        self.say = say

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        for line in concerns(logs or {}):
            self.say(f"epoch {epoch + 1}: {line}")


class Checkpointer(keras.callbacks.Callback):
    """Save and restore the run, write its reports, and end it on signals and NaN. Must be the last callback."""

    def __init__(
        self,
        folder: Path,
        whole: VisionText,
        source: Any,
        averaged: AveragedWeights,
        *,
        epochs: int,
        save_every: int,
        monitor: str,
        others: Sequence[keras.callbacks.Callback],
        position: dict[str, Any],
        values: list,
        held_out: Any,
        samples: Callable[[Path], list[tuple[str, list[str]]]] | None,
        progress: report.Progress,
    ):
        super().__init__()
        self.folder, self.whole, self.source, self.averaged = folder, whole, source, averaged
        self.epochs, self.save_every, self.monitor, self.others = epochs, save_every, monitor, others
        self.held_out, self.samples, self.progress, self.values = held_out, samples, progress, values
        self.epoch, self.done = position.get("epoch", 0), position.get("done", 0)
        self.rows, self.best = position.get("rows", []), position.get("best")
        self.callback_states = position.get("callbacks", [])
        self.ended = False  # all epochs are done, or a callback such as EarlyStopping stopped training
        self.samples_time = -math.inf  # when the page of samples was written
        self.said: list[tuple[str, list[str]]] = []  # on it, and what was expected
        self.seconds, self.since = position.get("seconds", 0.0), time.monotonic()
        self.stop_signal: int | None = None

    @property
    def step(self) -> int:
        return self.epoch * self.source.steps + self.done

    def on_train_begin(self, logs: dict | None = None) -> None:
        if self.values:
            run_folder.restore(self.model, self.values)
            for callback, state in zip(self.others, self.callback_states, strict=True):
                vars(callback).update(state)
            if self.best and not (self.folder / "best").is_dir():
                self.progress.say(f"{self.folder / 'best'} is missing: the next epoch counts as the best again")
                self.best = None
        self.since = time.monotonic()
        if not self.values:  # fail now, not after training, if the model cannot be saved
            self.save_weights("last")
            self.save(must=True)

    def on_test_begin(self, logs: dict | None = None) -> None:
        if self.held_out:
            self.held_out.begin(0, 0)  # the same random draws every time, such as one of several captions

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        if epoch != self.epoch:  # the first epoch may have been started by an earlier process
            self.epoch, self.done = epoch, 0
        self.source.begin(self.epoch, self.done)
        if self.done and self.values:  # Keras has just reset the metrics: restore them
            metrics = {id(variable) for variable in self.model.metrics_variables}
            for variable, value in zip(run_folder.variables(self.model), self.values, strict=True):
                if id(variable) in metrics:
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
        due = self.step // self.save_every > (self.step - self.done + before) // self.save_every
        if self.done == self.source.steps:  # `on_epoch_end` saves and handles signals
            if self.first:
                # Keras expects a whole epoch. Asking tf.data for another batch would draw seeds before it fails;
                # raising StopIteration ends the epoch as an exhausted input does.
                raise StopIteration
            return
        if not (due or self.stop_signal):
            return
        sync_jax(self.model)
        with self.finite(before):
            self.save()
        if self.stop_signal:
            raise Stopped(
                f"stopped by {signal.Signals(self.stop_signal).name} in epoch {self.epoch + 1} after {self.done} of "
                f"{self.source.steps} batches. The same command resumes from there"
            )

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        logs = {name: float(value) for name, value in (logs or {}).items()}
        self.rows = [*self.rows[:epoch], {"epoch": epoch + 1, **logs}]
        with self.finite(0), self.tolerant("the epoch's files"):
            report.write_rows(self.folder, self.rows)
            self.save_weights("last")
            if self.is_best(logs):
                self.save_weights("best")
                self.best = {"epoch": epoch + 1, self.monitor: logs.get(self.monitor)}
            last = epoch + 1 == self.epochs or self.model.stop_training
            if self.samples and (last or time.monotonic() - self.samples_time > SAMPLES_EVERY):
                self.said = self.samples(self.folder / "samples.html")
                self.samples_time = time.monotonic()
        self.averaged.swap(inside=False)
        self.epoch, self.done = epoch + 1, 0
        self.ended = epoch + 1 == self.epochs or self.model.stop_training
        with self.finite(self.source.steps - 1):
            self.save(must=self.ended)
        self.progress.end(self.rows[-1], self.best)
        self.epoch, self.done = epoch, self.source.steps
        if self.stop_signal and not self.ended:
            raise Stopped(f"stopped after epoch {epoch + 1}. The same command resumes from there")

    def is_best(self, logs: dict) -> bool:
        """Return whether the monitored metric beats the best epoch so far."""
        if self.monitor == LATEST:
            return True
        if self.monitor not in logs:
            raise ValueError(
                f"monitor={self.monitor!r}{did_you_mean(self.monitor, logs)}: an epoch ends with {', '.join(logs)}"
            )
        new, best = logs[self.monitor], (self.best or {}).get(self.monitor)
        if math.isnan(new):
            return best is None
        return best is None or math.isnan(best) or (new < best if lower_is_better(self.monitor) else new > best)

    def worries(self) -> list[str]:
        """Return what is wrong with the finished run (`report.worries`)."""
        vocabulary = self.whole.vocabulary
        whole = isinstance(self.whole, Captioner) and not vocabulary.rule  # else its texts are not of these pieces
        said = [one for one, _ in self.said]
        expected = [text for _, several in self.said for text in several]
        return report.worries(self.rows, said, expected, set(vocabulary) if whole else set())

    def position(self) -> dict[str, Any]:
        """Return what a state file stores besides variables."""
        return {
            "epoch": self.epoch,
            "done": self.done,
            "rows": self.rows,
            "best": self.best,
            "ended": self.ended,
            "callbacks": [_state_of(callback) for callback in self.others],
            "seconds": self.seconds + time.monotonic() - self.since,
        }

    def save(self, must: bool = False) -> None:
        """Write a state file; only if it `must` succeed, a full disk is an error."""
        with contextlib.nullcontext() if must else self.tolerant("the state"):
            try:
                run_folder.save_state(self.folder / STATES, self.model, self.position(), self.step)
            except OSError as error:
                message = (
                    f"{self.folder / STATES}: {error.strerror or error}. Free some space and run the same command again"
                )
                raise OSError(error.errno, message) from error

    def save_weights(self, name: str) -> None:
        save(self.whole, self.folder / name)

    @contextlib.contextmanager
    def tolerant(self, what: str) -> Iterator[None]:
        """Report a failed write, such as on a full disk, and continue; older files stay until the next save."""
        try:
            yield
        except OSError as error:
            self.progress.say(
                f"{what} could not be saved ({error.strerror or error}); training continues, older files stay"
            )

    @contextlib.contextmanager
    def finite(self, first: int) -> Iterator[None]:
        """End the run as diverged if a weight is not finite; `first` is the first batch since the last sound state."""
        try:
            yield
        except run_folder.NotFinite as error:
            self.diverged(str(error), first)

    def diverged(self, what: str, first: int) -> None:
        """Write diverged.json with the examples in the batches since the last sound one, and end the run."""
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
            f"The last good state and weights are kept in {self.folder}. Look at those examples, or start again with "
            "a smaller learning rate, stronger clipping or float32"
        )

    @contextlib.contextmanager
    def handling_signals(self) -> Iterator[None]:
        """On SIGTERM or Ctrl-C, save and stop after the current step; on a second one, stop at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def handle(number: int, frame: FrameType | None) -> None:
            if self.stop_signal:
                raise KeyboardInterrupt
            self.stop_signal = number
            self.progress.say("stopping after this step; a second signal stops at once")

        previous = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


def _state_of(callback: keras.callbacks.Callback) -> dict[str, Any]:
    """Return a callback's attributes that are numbers or strings, such as the counters of EarlyStopping, for a resume.

    Constructor arguments are left out: the resumed run passes its own.
    """
    state, arguments = {}, inspect.signature(type(callback).__init__).parameters
    for name, value in vars(callback).items():
        if name in arguments:
            continue
        value = value.item() if getattr(value, "shape", None) == () and hasattr(value, "item") else value
        if value is None or isinstance(value, (bool, int, float, str)):
            state[name] = value
    return state
