"""Shared by all commands: one-line errors, hidden startup logs of TensorFlow, and tables."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import click

USER_ERRORS = (ValueError, TypeError, KeyError, OSError, ImportError, RuntimeError)  # their messages are for users
USUAL: dict[str, Any] = {"prompt": None, "beams": 1, "max_length": None}  # how a captioner writes


@contextlib.contextmanager
def reporting_errors() -> Iterator[None]:
    """Print errors and warnings as one line; an error exits with code 2.

    >>> with contextlib.suppress(SystemExit), reporting_errors():
    ...     raise ValueError("it cannot be")
    """
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: click.echo(f"vtx: {message}", err=True)
        try:
            yield
        except BrokenPipeError:  # the reader of a pipe closed it; click exits quietly
            raise
        except Exception as error:
            if not is_user_error(error):
                raise
            click.echo(f"vtx: {message_of(error)}", err=True)
            raise SystemExit(2) from error


def is_user_error(error: Exception) -> bool:
    """Return whether an error's message is for users, so that no traceback is needed.

    >>> is_user_error(ValueError()), is_user_error(ZeroDivisionError())
    (True, False)
    """
    return isinstance(error, USER_ERRORS) or type(error).__module__.startswith("tensorflow")  # a damaged data file


def message_of(error: Exception) -> str:
    """Return an error's message, without the quotes that a KeyError adds.

    >>> message_of(KeyError("no such thing")), message_of(ValueError())
    ('no such thing', 'ValueError')
    """
    message = error.args[0] if isinstance(error, KeyError) and error.args else error
    return str(message).strip() or type(error).__name__


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hide what TensorFlow logs before logging can be configured; show it after an error."""
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


GAP, LEAST = "  ", 14  # space between plain columns; least width of a table column whose cells may be wrapped


def show_rows(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows of cells; the header only in a terminal, so that a pipe gets nothing but rows.

    Names, which contain no spaces, are never cut: a terminal too narrow for them gets plain rows.

    >>> show_rows(["name", "task"], [["gated_vqa", "vqa"], ["retriever", "retriever"]])
    gated_vqa  vqa
    retriever  retriever
    """
    columns = [[name, *cells] for name, *cells in zip(header, *rows, strict=True)]
    are_names = [not any(" " in cell for cell in cells) for _, *cells in columns]
    if not sys.stdout.isatty():
        _plain(rows)
        return
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    least = sum(max(map(len, cells)) if is_name else LEAST for cells, is_name in zip(columns, are_names, strict=True))
    if console.width < least + len(GAP) * len(columns):
        _plain(rows)
        return
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", padding=(0, len(GAP), 0, 0), pad_edge=False)
    for name, is_name in zip(header, are_names, strict=True):
        table.add_column(name, no_wrap=is_name, overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    console.print(table)


def _plain(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print(GAP.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
