"""Rows for people: a table in a terminal, plain columns where the output is piped."""

from __future__ import annotations

import sys
from collections.abc import Sequence

GAP, LEAST = "  ", 14  # between plain columns; characters of a table's column that may be broken


def show(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows of cells; their header in a terminal alone, so that what is piped is rows and nothing else.

    Names, which have no blanks, are never cut: a terminal too narrow for them gets plain rows.

    >>> show(["name", "task"], [["gated_vqa", "vqa"], ["retriever", "retriever"]])
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
