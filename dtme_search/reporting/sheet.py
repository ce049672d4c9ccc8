"""A contact sheet: images and labels as training sees them, with a legend for every task.

Shapes: B images, C channels, H height, W width. Lengths are in inches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from dtme_search.config import DataConfig
from dtme_search.data import Batch, restore_colours
from dtme_search.reporting.colours import Picture, paint, paint_values, stripes, value_limits
from dtme_search.reporting.whole_image import in_words, write_words
from dtme_search.tasks import TaskSpec

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PICTURE_WIDTH, _NARROWEST = 2.2, 8.0
_ABOVE, _BETWEEN, _MARGIN = 0.62, 0.12, 0.1
_ENTRY_WIDTH, _ROW_HEIGHT, _SWATCH = 1.4, 0.2, (0.13, 0.24)
_LONGEST_NAME = 15
_DIRECTIONS = {
    "right": (1, 0, 0),
    "left": (-1, 0, 0),
    "up": (0, -1, 0),
    "down": (0, 1, 0),
    "to the camera": (0, 0, -1),
}


def label_sheet(batch: Batch, specs: Mapping[str, TaskSpec], config: DataConfig, title: str) -> Figure:
    """Draw a batch: one row per image, one column per task, and below them a legend per task.

    Only classes that occur on the sheet are named. Pixels without a label are striped. Distances and values
    have one scale for the whole sheet.

    Args:
        batch: What to draw; on the CPU.
        specs: Its tasks, the columns in order.
        config: Says how the images were normalised.
        title: Shown above.
    """
    from matplotlib.figure import Figure  # takes seconds to import, and most commands draw nothing

    images = restore_colours(batch.images, config).permute(0, 2, 3, 1).numpy()
    columns = [_Column.of(spec, batch) for spec in specs.values()]
    num_images, height, width = images.shape[:3]
    sheet_width = max(_NARROWEST, _PICTURE_WIDTH * (1 + len(columns)))
    per_row = int((sheet_width - 2 * _MARGIN) / _ENTRY_WIDTH)
    keys = [(column, 1 + -(-len(column.entries) // per_row)) for column in columns if column.entries]
    pictures_height = num_images * sheet_width / (1 + len(columns)) * height / width
    keys_height = sum(rows * _ROW_HEIGHT + _BETWEEN for _, rows in keys)
    total = _ABOVE + pictures_height + keys_height + _MARGIN

    figure = Figure(figsize=(sheet_width, total))
    figure.text(_MARGIN / sheet_width, 1 - 0.1 / total, title, fontsize=10, va="top")
    grid = figure.subplots(num_images, 1 + len(columns), squeeze=False)
    bottom = 1 - (_ABOVE + pictures_height) / total
    figure.subplots_adjust(0, bottom, 1, 1 - _ABOVE / total, wspace=0.02, hspace=0.02)
    for index, row in enumerate(grid):
        _show(row[0], images[index])
        for axis, column in zip(row[1:], columns, strict=True):
            column.draw(axis, index)
    for axis, name in zip(grid[0], ["image", *specs], strict=True):
        axis.set_title(name, fontsize=9, pad=3)

    key = figure.add_axes((0, 0, 1, keys_height / total + _MARGIN / total))
    key.set(xlim=(0, sheet_width), ylim=(keys_height + _MARGIN, 0))
    key.set_axis_off()
    top = 0.0
    for column, rows in keys:
        top += _BETWEEN
        _draw_key(key, column, top, per_row)
        top += rows * _ROW_HEIGHT
    return figure


def _show(axis: Axes, picture: Picture) -> None:
    axis.imshow(picture, interpolation="nearest", aspect="auto")
    axis.set_axis_off()


def _draw_key(axis: Axes, column: _Column, top: float, per_row: int) -> None:
    axis.text(_MARGIN, top + 0.1, column.heading, fontsize=8, weight="bold", va="center")
    high, wide = _SWATCH
    for place, (name, swatch) in enumerate(column.entries):
        left = _MARGIN + (place % per_row) * _ENTRY_WIDTH
        upper = top + (1 + place // per_row) * _ROW_HEIGHT
        swatch_axis = axis.inset_axes((left, upper, wide, high), transform=axis.transData)
        swatch_axis.imshow(swatch, aspect="auto")
        swatch_axis.set(xticks=(), yticks=())
        shown = name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…"
        axis.text(left + wide + 0.06, upper + high / 2, shown, fontsize=7.5, va="center")


@dataclass(frozen=True)
class _Column:
    """Labels of one task, (B, H, W) or (B, H, W, C), distances as logarithms; where they count (B, H, W)."""

    spec: TaskSpec
    labels: npt.NDArray[Any]
    valid: npt.NDArray[np.bool_]
    limits: tuple[float, float]

    @classmethod
    def of(cls, spec: TaskSpec, batch: Batch) -> _Column:
        labels = batch.targets[spec.name].numpy()
        if spec.kind != "classes":
            labels = np.moveaxis(labels, 1, -1)
            labels = labels[..., 0] if labels.shape[-1] == 1 else labels
        valid = batch.valid[spec.name].numpy()[:, 0]
        if spec.kind == "distance":
            # Logarithms, so that near things differ in colour too although a sheet spans metres.
            labels = np.log(np.where(valid, labels, 1))
        values = np.linalg.norm(labels, axis=-1) if labels.ndim == 4 else labels
        return cls(spec, labels, valid, value_limits(values, valid))

    def draw(self, axis: Axes, index: int) -> None:
        label, valid = self.labels[index], self.valid[index]
        if self.spec.of_image:
            axis.set_axis_off()
            write_words(axis, in_words(self.spec, label, counts=bool(valid.all())))
        else:
            _show(axis, paint(self.spec, label, valid, self.limits))

    @property
    def heading(self) -> str:
        about = {
            "distance": ", metres",
            "normals": ", where the surface faces",
            "values": f", length of {self.spec.channels} channels" if self.spec.channels > 1 else "",
        }.get(self.spec.kind, "")
        return f"{self.spec.name}{about}" + (
            f" (derived from {self.spec.derived_from})" if self.spec.derived_from else ""
        )

    @property
    def entries(self) -> Sequence[tuple[str, Picture]]:
        """Name and swatch of everything on the sheet; nothing for what is written in words."""
        if self.spec.of_image:
            return []
        if self.spec.kind == "classes":
            found = np.unique(self.labels[self.valid]).tolist()
            named = [(self.spec.channel_names[index], self._swatch(index)) for index in found]
        elif self.spec.kind == "mask":
            named = [("yes", self._swatch(1)), ("no", self._swatch(0))]
        elif self.spec.kind == "normals":
            named = [(name, self._swatch(vector)) for name, vector in _DIRECTIONS.items()]
        else:
            steps = np.linspace(*self.limits, 5)
            shown = np.exp(steps) if self.spec.kind == "distance" else steps
            named = [
                (f"{number:.3g}", paint_values(np.full((1, 1), step), self.limits))
                for number, step in zip(shown, steps, strict=True)
            ]
        return named if self.valid.all() else [*named, ("no label", stripes((12, 24)))]

    def _swatch(self, value: Any) -> Picture:
        return paint(self.spec, np.array(value)[None, None])
