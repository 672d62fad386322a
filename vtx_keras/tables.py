"""Rows for people: a table in a terminal, plain columns where the output is piped."""

from __future__ import annotations

import sys
from collections.abc import Sequence

GAP = "  "


def show(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows of cells; their header in a terminal alone, so that what is piped is rows and nothing else.

    >>> show(["name", "task"], [["gated_vqa", "vqa"], ["retriever", "retriever"]])
    gated_vqa  vqa
    retriever  retriever
    """
    if not sys.stdout.isatty():
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            print(GAP.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        return
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(*header, box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for row in rows:
        table.add_row(*map(escape, row))
    Console().print(table)
