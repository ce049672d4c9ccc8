"""A study drawn with letters: the front as a small plot, the operations of the layers as coloured blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.text import Text

if TYPE_CHECKING:
    from dtme_search.reporting import Frame

_STYLES = {
    ".": "black on grey70",
    "M": "black on orange1",
    "E": "white on dodger_blue3",
    "B": "white on grey11",
    "L": "white on green4",
    "m": "white on red3",
    "e": "black on plum3",
    "b": "white on grey42",
}
"""Colours of the operations, similar to those of the figures; the letters alone also distinguish them."""


def layer_blocks(layers: str) -> Text:
    """One block of two columns per layer, starting at the input.

    Example:
        >>> layer_blocks(".M").plain
        ' .  M '
    """
    blocks = Text()
    for letter in layers:
        blocks.append(f" {letter} ", style=_STYLES.get(letter, ""))
    return blocks


def plot_points(
    points: Sequence[tuple[float, float, str]], *, width: int = 60, height: int = 12
) -> list[str]:
    """Points with a mark each in a frame of letters, extremes written at the axes.

    Args:
        points: x, y, and the mark; of several marks in one place the last is visible.
        width: Columns of the plot, without the labels to the left.
        height: Lines of the plot.

    Example:
        >>> for line in plot_points([(0.0, 1.0, "o"), (2.0, 3.0, "*")], width=9, height=3):
        ...     print(line)
        +3.00 |        *
              |
        +1.00 |o
              +---------
               0.000 2.000
    """
    across, up, _ = zip(*points, strict=True)
    grid = [[" "] * width for _ in range(height)]
    left, right, bottom, top = min(across), max(across), min(up), max(up)
    for x, y, mark in points:
        grid[_place(y, bottom, top, height)][_place(x, left, right, width)] = mark
    labels = {height - 1: f"{top:+.2f}", 0: f"{bottom:+.2f}"}
    margin = max(map(len, labels.values()))
    lines = [
        f"{labels.get(row, ''):>{margin}} |{''.join(grid[row])}".rstrip() for row in range(height - 1, -1, -1)
    ]
    low, high = f"{left:.3f}", f"{right:.3f}"
    gap = max(1, width - len(low) - len(high))
    return [*lines, f"{'':>{margin}} +{'-' * width}", f"{'':>{margin}}  {low}{' ' * gap}{high}"]


def front_points(trials: Frame, goal: str, price: str) -> list[tuple[float, float, str]]:
    """Complete trials for :func:`plot_points`: ``x`` above a limit, ``o`` feasible, ``*`` on the front."""
    shown = trials[(trials["state"] == "complete") & trials[goal].notna()]
    marked = [
        (float(row[price]), float(row[goal]), _mark(row["feasible"], row["on_front"]))
        for _, row in shown.iterrows()
    ]
    # The front comes last, so that nothing hides it.
    return sorted(marked, key=lambda point: "xo*".index(point[2]))


def _mark(feasible: object, on_front: object) -> str:
    if on_front:
        return "*"
    return "o" if feasible is None or feasible != feasible or feasible else "x"


def _place(value: float, low: float, high: float, size: int) -> int:
    return round((value - low) / (high - low) * (size - 1)) if high > low else 0
