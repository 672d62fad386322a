"""Report on a run: a progress bar, a table and curves of its epochs, and a page of held-out samples."""

from __future__ import annotations

import csv
import io
import re
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vtx_keras import explain
from vtx_keras._files import write
from vtx_keras.data._examples import encoded_of, expected, image_of
from vtx_keras.evaluate import _pages as pages
from vtx_keras.evaluate._outcomes import Row, said_of
from vtx_keras.explain._methods import attention_blocks
from vtx_keras.inputs import media
from vtx_keras.inputs.text import TEXT_FIELDS
from vtx_keras.models._base import VisionText
from vtx_keras.models._drawing import Generator
from vtx_keras.models._methods import Captioner

if TYPE_CHECKING:
    from rich.progress import Progress as Bar


ENOUGH = 8  # held-out examples that tell how a model speaks
LONG = 60  # characters of what it says that are quoted
WORD = re.compile(r"[^\W\d_]+")


def write_rows(folder: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write `results.csv` and `results.png` with all epochs so far.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> write_rows(folder, [{"epoch": 1, "loss": 2.0, "val_loss": 2.5}, {"epoch": 2, "loss": 1.0, "val_loss": 2.0}])
    >>> sorted(path.name for path in folder.iterdir())
    ['results.csv', 'results.png']
    """
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    table = csv.DictWriter(text, names, lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    write(folder / "results.csv", text.getvalue())
    write(folder / "results.png", curves(rows))


def curves(rows: Sequence[dict[str, Any]]) -> bytes:
    """Return a PNG with one panel per metric, for training and validation.

    >>> curves([{"epoch": 1, "loss": 2.0}])[:4]
    b'\\x89PNG'
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = dict.fromkeys(name.removeprefix("val_") for row in rows for name in row if name != "epoch")
    panels = list(names) or ["loss"]
    wide = min(3, len(panels))
    high = -(-len(panels) // wide)
    figure = Figure(figsize=(4.2 * wide, 3.0 * high), layout="constrained")
    FigureCanvasAgg(figure)
    for place, name in enumerate(panels):
        axes = figure.add_subplot(high, wide, place + 1)
        for kind, label in ((name, "training"), (f"val_{name}", "validation")):
            points = [(row["epoch"], row[kind]) for row in rows if kind in row]
            if points:
                axes.plot(*zip(*points, strict=True), marker=".", label=label)
        axes.set_title(name)
        axes.set_xlabel("epoch")
        locator: Any = axes.xaxis.get_major_locator()  # a MaxNLocator, as on every linear axis
        locator.set_params(integer=True)
        axes.grid(alpha=0.3)
        axes.legend()
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110)
    return file.getvalue()


def worries(
    rows: Sequence[dict[str, Any]], said: Sequence[str], expected: Sequence[str], pieces: set[str]
) -> list[str]:
    """Return what is wrong with a finished run, in sentences that say what to do.

    `rows` are its epochs; `said` and `expected` what the model says of held-out examples, and what it should; `pieces`
    the words that it has whole.

    >>> worries([{"accuracy": 0.3}, {"accuracy": 0.2}], (), (), set())[0][:50]
    'training made it worse: accuracy fell from 0.300 t'
    >>> worries([], ["a dog"] * 9, [f"a thing called {n}" for n in range(9)], {"a", "dog"})[0][:43]
    "of 9 held-out examples it says only 'a dog'"
    """
    found = []
    first, last = (row.get("accuracy") for row in (rows[0], rows[-1])) if len(rows) > 1 else (None, None)
    if first is not None and last is not None and last < first:
        found.append(
            f"training made it worse: accuracy fell from {first:.3f} to {last:.3f}. Take a third of the learning rate, "
            "or start from trained weights (--weights)"
        )
    kinds = set(said)
    if len(said) >= ENOUGH and len(kinds) <= 2 and len(set(expected)) >= 4 * len(kinds):
        found.append(
            f"of {len(said)} held-out examples it says only {' and '.join(map(_quoted, sorted(kinds)))}: it does not "
            "heed the picture. Start from trained weights (--weights), or train longer, with a larger learning rate"
        )
    known = pieces | {word for line in expected for word in WORD.findall(line.lower())}
    odd = [line for line in said if not known.issuperset(WORD.findall(line.lower()))]
    if len(said) >= ENOUGH and pieces and 2 * len(odd) > len(said):
        found.append(
            f"{len(odd)} of {len(said)} held-out examples get words that do not exist ({_quoted(odd[0])}): the "
            "vocabulary does not fit the texts, or training was short. --vocabulary train, or more, gives it theirs"
        )
    return found


def _quoted(line: str) -> str:
    return repr(line if len(line) <= LONG else f"{line[:LONG]}…")


class Progress:
    """A progress bar for the whole run in a terminal; otherwise a line per epoch."""

    def __init__(self, epochs: int, steps: int, verbose: bool = True):
        self.epochs, self.steps, self.verbose = epochs, steps, verbose
        self.start = time.monotonic()
        self.start_step: int | None = None
        self.bar: Bar | None = None

    def __enter__(self) -> Progress:
        if self.verbose and sys.stderr.isatty():
            from rich import progress

            self.bar = progress.Progress(
                progress.TextColumn("epoch {task.fields[epoch]} of " + str(self.epochs)),
                progress.BarColumn(),
                progress.TextColumn("{task.fields[status]}"),
                progress.TimeRemainingColumn(),
                console=_console(),
            )
            self.task = self.bar.add_task("", total=self.epochs * self.steps, epoch=1, status="")
            self.bar.start()
        return self

    def __exit__(self, *raised: object) -> None:
        if self.bar:
            self.bar.stop()

    def say(self, what: str) -> None:
        """Print a line above the bar."""
        if self.bar:
            self.bar.console.print(what, highlight=False, markup=False)
        elif self.verbose:
            print(what, file=sys.stderr, flush=True)

    def begin(self, epoch: int, done: int) -> None:
        """Start an epoch after `done` batches."""
        self.epoch = epoch
        if self.start_step is None:
            self.start, self.start_step = time.monotonic(), epoch * self.steps + done

    def step(self, done: int, logs: dict[str, Any]) -> None:
        """Advance the bar to `done` batches of the epoch."""
        if self.bar:
            status = f"step {done} of {self.steps}  loss {float(logs.get('loss', 0)):.4f}"
            self.bar.update(self.task, completed=self.epoch * self.steps + done, epoch=self.epoch + 1, status=status)

    def end(self, row: dict[str, Any], best: dict | None) -> None:
        """Print an epoch's metrics and the time left."""
        figures = "  ".join(f"{name} {value:.4f}" for name, value in row.items() if name != "epoch")
        done = row["epoch"] * self.steps
        assert self.start_step is not None  # set by `begin`
        pace = (time.monotonic() - self.start) / max(1, done - self.start_step)
        left = pace * (self.epochs * self.steps - done)
        mark = "  best so far" if best and best["epoch"] == row["epoch"] else ""
        self.say(f"epoch {row['epoch']} of {self.epochs}  {figures}{mark}  {_clock(left)} left")


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def _console() -> Any:
    from rich.console import Console

    return Console(stderr=True)


def samples_writer(model: VisionText, examples: Any, count: int) -> Callable[[Path], list[tuple[str, list[str]]]]:
    """Return a function that writes the page of samples: the same examples with the model's current predictions.

    It returns what the model says, and what is expected; nothing of drawings.
    """
    chosen = encoded_of(examples).shuffle(1_000, seed=0).take(count)
    rows = list(chosen.as_numpy_iterator())
    if isinstance(model, Generator):
        texts = [(*expected(row, TEXT_FIELDS), "")[0] for row in rows]
        unreadable = model.unreadable(texts)
        rows = [row for place, row in enumerate(rows) if place not in unreadable]
        return lambda path: _write_drawings(model, rows, path)

    def write_samples(path: Path) -> list[tuple[str, list[str]]]:
        outcome = said_of(model, rows)
        results = [row for row in outcome.rows if row.expected][: len(rows)]  # a search also has rows of texts
        images = _images(model, [image_of(rows[row.place]) for row in results], results)
        cards = []
        for row, frames in zip(results, images, strict=True):
            lines = [("input", row.read), ("predicted", row.said), ("expected", " | ".join(row.expected))]
            cards.append(pages.Card(frames, [(label, line) for label, line in lines if line]))
        left_out = [f"row {place} is left out: {why}" for place, why in outcome.left_out.items()]
        pages.write_page(path, f"{model.spec['name']}: held-out samples", [("Validation", cards)], left_out)
        return [(row.said, list(row.expected)) for row in results]

    return write_samples


def _write_drawings(model: Generator, rows: Sequence[dict], path: Path) -> list[tuple[str, list[str]]]:
    """Write the page of drawings: for each text two pictures, always of the same noise, and the real one."""
    texts = [expected(row, TEXT_FIELDS)[0] for row in rows]
    pictures = model.draw([text for text in texts for _ in range(2)]) if texts else ()
    cards = []
    for place, (row, text) in enumerate(zip(rows, texts, strict=True)):
        real, drawings = image_of(row), list(pictures[2 * place : 2 * place + 2])
        if len(model.image_shape) == 4:
            real, drawings = media.read_clip(real, 2), [frame for clip in drawings for frame in (clip[0], clip[-1])]
        frames = [*drawings, *(real if isinstance(real, list) else [real])]
        cards.append(pages.Card(frames, [("words", text), ("pictures", "two drawings, then the real one")]))
    pages.write_page(path, f"{model.spec['name']}: drawings of held-out texts", [("Validation", cards)])
    return []


def _images(model: VisionText, inputs: Sequence[Any], results: Sequence[Row]) -> list[list[np.ndarray]]:
    """Return the images (four frames of a clip), each with its attention map if the fusion has attention."""
    if len(model.image_shape) == 4:
        return [list(media.read_clip(clip, 4)) for clip in inputs]
    images = [[media.read(image)] for image in inputs]
    texts = [row.said if isinstance(model, Captioner) else row.read for row in results]
    with_text = [place for place, text in enumerate(texts) if text] if attention_blocks(model) else []
    if with_text:  # all at once: one by one takes several times as long
        maps = explain.attention(model, [inputs[place] for place in with_text], [texts[place] for place in with_text])
        for place, attention in zip(with_text, maps, strict=True):
            if attention.words:
                images[place].append(explain.overlay(attention.picture, attention.heat()))
    return images
