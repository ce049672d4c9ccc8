"""Plain text tables for reports and plans."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]], max_cell: int = 28) -> str:
    """Align columns under their headers; numbers to the right, words to the left.

    Args:
        header: Column titles.
        rows: Cells as text, one sequence per row.
        max_cell: Longer cells continue in the next line of the same column.

    Returns:
        Lines without trailing blanks, joined by newlines.

    Example:
        >>> print(format_table(("layer", "operation"), [("0", "both"), ("11", "none")]))
        layer  operation
        -----  ---------
            0  both
           11  none
    """
    lines = [list(header), *(line for row in rows for line in _wrapped(row, max_cell))]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    numeric = [
        bool(rows) and all(cell[:1].isdigit() for cell in column) for column in zip(*rows, strict=True)
    ]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, numeric or [False] * len(widths), strict=True)
        ).rstrip()
        for line in lines
    )


def _wrapped(row: Sequence[str], width: int) -> list[list[str]]:
    cells = [textwrap.wrap(cell, width) if len(cell) > width else [cell] for cell in row]
    return [
        [cell[line] if line < len(cell) else "" for cell in cells] for line in range(max(map(len, cells)))
    ]
