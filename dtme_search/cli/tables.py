"""Tables in the terminal."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from dtme_search.words import cell, heading

if TYPE_CHECKING:
    from dtme_search.reporting import Frame

_NARROWEST_WORDS = 16
"""Minimum width to which columns of words are wrapped before the gaps between all columns shrink."""
_NUMBER = re.compile(r"[-+]?\d[\d.]*(e[-+]?\d+)?( (%|m|deg))?\??")


def print_table(console: Console, title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table of texts: numbers to the right and never cut, words to the left and wrapped."""
    cells = [[str(cell) for cell in row] for row in rows]
    by_column = [list(column) for column in zip(columns, *cells, strict=True)]
    numeric = [_is_numeric(texts) for _, *texts in by_column]
    needed = sum(
        max(map(len, column)) if is_number else min(max(map(len, column)), _NARROWEST_WORDS)
        for column, is_number in zip(by_column, numeric, strict=True)
    )
    fits = needed + 2 * (len(columns) - 1) <= console.width
    table = Table(
        box=SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 1 if fits else 0, 0, 0),
        pad_edge=False,
    )
    for name, is_number in zip(columns, numeric, strict=True):
        table.add_column(name, justify="right" if is_number else "left", no_wrap=is_number, overflow="fold")
    for row in cells:
        table.add_row(*row)
    if title:  # a title inside the table would be wrapped to the table's width
        console.print(title, style="bold")
    console.print(table)


def print_frame(console: Console, title: str, frame: Frame) -> None:
    """A DataFrame with rounded numbers."""
    rows = [[cell(str(column), value) for column, value in row.items()] for row in frame.to_dict("records")]
    print_table(console, title, [heading(column) for column in frame.columns], rows)


def _is_numeric(texts: Sequence[str]) -> bool:
    return any(texts) and all(_NUMBER.fullmatch(text) for text in texts if text)
