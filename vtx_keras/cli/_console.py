"""How commands begin, fail and print: TensorFlow's log is hidden, an error is a sentence, rows are a table."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence

import click

TOLD = (ValueError, TypeError, KeyError, OSError, ImportError, RuntimeError)  # with a message made for people


@contextlib.contextmanager
def polite() -> Iterator[None]:
    """What went wrong as a sentence and exit code 2; warnings as sentences, too.

    >>> with contextlib.suppress(SystemExit), polite():
    ...     raise ValueError("it cannot be")
    """
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: click.echo(f"vtx: {message}", err=True)
        try:
            yield
        except BrokenPipeError:  # whoever read has enough; click ends quietly then
            raise
        except Exception as error:
            if not known(error):
                raise
            click.echo(f"vtx: {told(error)}", err=True)
            raise SystemExit(2) from error


def known(error: Exception) -> bool:
    """Whether an error tells a user what to do, and no one else need see where it came from.

    >>> known(ValueError()), known(ZeroDivisionError())
    (True, False)
    """
    return isinstance(error, TOLD) or type(error).__module__.startswith("tensorflow")  # a damaged file of data


def told(error: Exception) -> str:
    """An error's message, which a KeyError would put in quotes.

    >>> told(KeyError("no such thing")), told(ValueError())
    ('no such thing', 'ValueError')
    """
    said = error.args[0] if isinstance(error, KeyError) and error.args else error
    return str(said).strip() or type(error).__name__


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hides what TensorFlow logs while it starts, before it can be told not to; shows it if the start fails."""
    with tempfile.TemporaryFile() as log:
        stderr = os.dup(2)
        os.dup2(log.fileno(), 2)
        try:
            yield
        except BaseException:
            log.seek(0)
            os.write(stderr, log.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


GAP, LEAST = "  ", 14  # between plain columns; characters of a table's column that may be broken


def show_rows(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows of cells; their header in a terminal alone, so that what is piped is rows and nothing else.

    Names, which have no blanks, are never cut: a terminal too narrow for them gets plain rows.

    >>> show_rows(["name", "task"], [["gated_vqa", "vqa"], ["retriever", "retriever"]])
    gated_vqa  vqa
    retriever  retriever
    """
    columns = [[name, *cells] for name, *cells in zip(header, *rows, strict=True)]
    names = [not any(" " in cell for cell in cells) for _, *cells in columns]
    if not sys.stdout.isatty():
        _plain(rows)
        return
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    least = sum(max(map(len, cells)) if whole else LEAST for cells, whole in zip(columns, names, strict=True))
    if console.width < least + len(GAP) * len(columns):
        _plain(rows)
        return
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", padding=(0, len(GAP), 0, 0), pad_edge=False)
    for name, whole in zip(header, names, strict=True):
        table.add_column(name, no_wrap=whole, overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    console.print(table)


def _plain(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print(GAP.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
