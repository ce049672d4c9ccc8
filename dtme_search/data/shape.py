"""What labels lose when they are reduced, and whether a mask is scored as what it is.

Shapes: H height, W width.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from dtme_search.data.batches.resizing import THIN_METRICS, Resizing, crossed_cells, fitted_size, resize_label
from dtme_search.tasks import TaskSpec

Array = npt.NDArray[Any]
Bools = npt.NDArray[np.bool_]

_AROUND = np.ones((3, 3), bool)
_KEPT = 0.9
"""Share of the cells crossed by a line that must still have it, or a neighbour, afterwards."""
_BROKEN = 1.5
_AREA = 0.5
"""A class that keeps less than this share of its area has lost its shape."""
_RARE = 1e-4
_FILLED, _OUTLINE = 0.15, 0.05
"""Lines cover less than the first share of an image, and nothing is left of them if a pixel is removed at
each side; areas keep more than the second share."""


@dataclass(frozen=True)
class Shape:
    """What one label, or the sum of many, becomes at the size of a run.

    Attributes:
        crossed: Cells of the smaller label that lines pass through; ``found``: those with the line within
            reach.
        pieces: Connected pieces of lines before; ``pieces_after`` afterwards.
        areas: Share of the image of each class or mask, summed over images; ``areas_after`` afterwards.
        positive: Set pixels of masks; ``inner`` those without any neighbour outside, of ``pixels`` that
            count.
        images: Number of labels examined.
        smaller: Number of labels that were reduced.
    """

    crossed: int = 0
    found: int = 0
    pieces: int = 0
    pieces_after: int = 0
    areas: tuple[float, ...] = ()
    areas_after: tuple[float, ...] = ()
    positive: int = 0
    inner: int = 0
    pixels: int = 0
    images: int = 0
    smaller: int = 0


def shape_of(
    values: Array, valid: Bools, spec: TaskSpec, image_size: tuple[int, int] | None, how: Resizing
) -> Shape:
    """Examine one label, (H, W) or (H, W, C); classes and masks only."""
    if spec.of_image or spec.kind not in ("classes", "mask"):
        return Shape()
    from scipy.ndimage import binary_dilation, binary_erosion, label  # takes a while to import

    plane = values.reshape(valid.shape)
    mask = valid & (plane > 0)
    shape = Shape(images=1)
    if spec.kind == "mask":
        inner = binary_erosion(mask, _AROUND, border_value=1)
        shape = replace(shape, positive=int(mask.sum()), inner=int(inner.sum()), pixels=int(valid.sum()))
    size = valid.shape if image_size is None else fitted_size((valid.shape[0], valid.shape[1]), image_size)
    if size == valid.shape:
        return shape
    smaller, counts = resize_label(plane[..., None], valid, spec, (size[0], size[1]), how)
    after = smaller[..., 0]
    if spec.metric in THIN_METRICS:
        there = counts & (after > 0)
        cells = crossed_cells(mask, (size[0], size[1]))
        return replace(
            shape,
            smaller=1,
            crossed=int(cells.sum()),
            found=int((cells & binary_dilation(there, _AROUND)).sum()),
            pieces=label(mask, _AROUND)[1],
            pieces_after=label(there, _AROUND)[1],
        )
    before, now = (
        np.bincount(each[where].astype(np.int64), minlength=max(spec.channels, 2)) / max(where.sum(), 1)
        for each, where in ((plane, valid), (after, counts))
    )
    return replace(shape, smaller=1, areas=tuple(before.tolist()), areas_after=tuple(now.tolist()))


def added(shapes: Iterable[Shape]) -> Shape:
    """Many labels of one task."""
    every = list(shapes)

    def total(name: str) -> int:
        return sum(getattr(one, name) for one in every)

    def totals(name: str) -> tuple[float, ...]:
        found = [getattr(one, name) for one in every if getattr(one, name)]
        return tuple(float(each) for each in np.sum(found, axis=0)) if found else ()

    return Shape(
        **{each.name: total(each.name) for each in fields(Shape) if each.default == 0},
        areas=totals("areas"),
        areas_after=totals("areas_after"),
    )


def notes_on(shape: Shape, spec: TaskSpec, size: Sequence[int]) -> list[str]:
    """What a user should know about the labels of a task, in sentences."""
    notes = []
    at = f"at {size[0]}x{size[1]} (data.image_size)"
    way_out = "Raise data.image_size"
    if shape.crossed and shape.smaller:
        kept = shape.found / shape.crossed
        before, after = shape.pieces / shape.smaller, shape.pieces_after / shape.smaller
        if kept < _KEPT or after > _BROKEN * max(before, 1.0):
            notes.append(
                f"{spec.name}: {at} {100 * (1 - kept):.0f} % of the lines are lost, and {before:.1f} pieces "
                f"in an image become {after:.1f}. Set data.resize: area, which keeps lines whole, or raise "
                "data.image_size."
            )
    if shape.areas:
        names = spec.class_names or ("background", spec.name)
        lost = [
            f"{name} (keeps {100 * new / old:.0f} %)"
            for name, old, new in zip(names, shape.areas, shape.areas_after, strict=False)
            if old > _RARE * shape.smaller and new < _AREA * old
        ]
        if lost:
            notes.append(f"{spec.name}: {at} most of the area is lost of {', '.join(lost)}. {way_out}.")
    return notes + _notes_on_mask(shape, spec)


def _notes_on_mask(shape: Shape, spec: TaskSpec) -> list[str]:
    if not shape.positive:
        return []
    share, inner = shape.positive / max(shape.pixels, 1), shape.inner / shape.positive
    covers = f"{spec.name}: {100 * share:.0f} % of the pixels are set"
    if spec.metric in THIN_METRICS and share > _FILLED and inner > _OUTLINE:
        return [
            f"{covers}, but it is scored as a line ({spec.metric}). Set its metric to iou if it is an area."
        ]
    if spec.metric == "iou" and share < _FILLED and inner < _OUTLINE:
        return [
            f"{spec.name}: its areas are one or two pixels wide, but it is scored by {spec.metric}. Set its "
            "kind to edge if it is an outline."
        ]
    return []
