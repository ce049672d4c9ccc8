"""Pictures. Every axis states what it shows and in which unit; colours are safe for colour-blind eyes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from dtme_search.token_space import ConflictReport
from dtme_search.training import RunResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DPI = 120
_WIDTH_PER_COLUMN = 0.75
_HEIGHT_PER_LAYER = 0.34


def conflict_heat_map(report: ConflictReport) -> Figure:
    """Conflict rate in percent by layer (rows) and pair of tasks (columns), range space beside null space."""
    if not report.pairs:
        from matplotlib.figure import Figure

        figure = Figure(figsize=(8.0, 1.0))
        figure.text(0.5, 0.5, report.summary(), ha="center", va="center")
        return figure
    pairs = [f"{a}\n{b}" for a, b in report.pairs]
    grids = {space: _grid(report, space) for space in ("range", "null")}
    everything = [value for grid in grids.values() for row in grid for value in row]
    limits = (min(everything), max(everything))
    figure, axes, scale = _frame(len(pairs), report.num_layers)
    for axis, (space, operation) in zip(axes, (("range", "modulation"), ("null", "expansion")), strict=True):
        image = axis.imshow(grids[space], cmap="cividis", vmin=limits[0], vmax=limits[1], aspect="auto")
        axis.set_title(f"{space} space (token {operation})", fontsize=10)
        axis.set_xticks(range(len(pairs)), pairs, fontsize=7)
        axis.set_yticks(range(report.num_layers))
        _write_values(axis, grids[space], limits)
    axes[0].set_ylabel("layer (0 = first block)")
    figure.supxlabel("pair of tasks", fontsize=9, y=0.02, va="bottom")
    figure.colorbar(image, cax=scale, label="tokens in conflict (%)")
    figure.suptitle(f"Conflicting tokens, {report.num_images} images", fontsize=11, y=0.985, va="top")
    return figure


def _frame(num_pairs: int, num_layers: int) -> tuple[Figure, list[Axes], Axes]:
    """Two panels and a colour scale, placed in inches, because a layout engine would double the time."""
    from matplotlib.figure import Figure  # takes seconds to import, and most commands draw nothing

    left, gap, right, below, above, scale_width = 0.7, 0.45, 1.0, 0.65, 0.65, 0.18
    panel_width = max(3.0, _WIDTH_PER_COLUMN * num_pairs)
    panel_height = max(1.0, _HEIGHT_PER_LAYER * num_layers)
    width, height = left + 2 * panel_width + gap + right, below + panel_height + above
    figure = Figure(figsize=(width, height))

    def place(x: float, panel: float) -> Axes:
        return figure.add_axes((x / width, below / height, panel / width, panel_height / height))

    axes = [place(left + index * (panel_width + gap), panel_width) for index in range(2)]
    return figure, axes, place(width - right + 0.15, scale_width)


def draw_trial(folder: Path, result: RunResult) -> Sequence[Path]:
    """Draw the pictures of a finished trial into its folder; returns their paths."""
    if result.report is None or not result.report.pairs:
        return []
    path = folder / "conflicts.png"
    path.write_bytes(_heat_map_png(result.report.to_json()))
    return [path]


@lru_cache(maxsize=16)
def _heat_map_png(report: str) -> bytes:
    """The picture of a report. Cached, because trials share reports, and drawing takes most of the time."""
    picture = BytesIO()
    conflict_heat_map(ConflictReport.from_json(report)).savefig(picture, format="png", dpi=_DPI)
    return picture.getvalue()


def save_png(figure: Figure, path: Path) -> None:
    """Write a figure as PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=_DPI, metadata={"Software": "dtme-search"})


def _grid(report: ConflictReport, space: str) -> list[list[float]]:
    rates = report.range_rates if space == "range" else report.null_rates
    names = report.tasks
    return [
        [100 * float(rates[layer, names.index(a), names.index(b)]) for a, b in report.pairs]
        for layer in range(report.num_layers)
    ]


def _write_values(axis: Axes, grid: list[list[float]], limits: tuple[float, float]) -> None:
    middle = sum(limits) / 2
    for row, values in enumerate(grid):
        for column, value in enumerate(values):
            colour = "black" if value > middle else "white"
            axis.text(column, row, f"{value:.1f}", ha="center", va="center", fontsize=7, color=colour)
