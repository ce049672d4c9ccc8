"""Labels reduced by kind, so that an outline stays a line and an area keeps its share.

Every pixel of a label goes to the cell of the smaller label that contains its centre; no cell is empty.
Papers crop and pad, and resize by nearest pixel if they resize at all; everything else is ours.

Shapes: (H, W) before, (h, w) after, C channels.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from dtme_search.tasks import TaskSpec
from dtme_search.thinning import thin

Array = npt.NDArray[Any]
Bools = npt.NDArray[np.bool_]
Resizing = Literal["area", "nearest"]

THIN_METRICS = ("edge_f", "ods_f")
"""Masks with these metrics are lines."""
_SHORTEST_NORMAL = 0.05
"""Mean length above which averaged normals still have a common direction."""


def fitted_size(size: tuple[int, int], image_size: tuple[int, int]) -> tuple[int, int]:
    """Height and width after fitting into ``image_size``; an image that fits keeps its size.

    Example:
        >>> fitted_size((480, 640), (448, 576))
        (432, 576)
        >>> fitted_size((425, 560), (448, 576))
        (425, 560)
    """
    ratio = min(1.0, image_size[0] / size[0], image_size[1] / size[1])
    return (
        min(image_size[0], max(1, round(size[0] * ratio))),
        min(image_size[1], max(1, round(size[1] * ratio))),
    )


def resize_label(
    label: Array, valid: Bools, spec: TaskSpec, size: tuple[int, int], how: Resizing
) -> tuple[Array, Bools]:
    """Reduce a label.

    With ``area`` a cell counts if at least half of its pixels do, and contains - for classes and masks what
    most of these pixels say (in a tie, what the nearest pixel says); - for lines whether a line passes
    through it at all; lines are then thinned to one pixel, so they stay in one piece; - for numbers the mean,
    for normals the mean scaled to length 1.

    Args:
        label: Shape (H, W, C).
        valid: Where it counts, shape (H, W).
        spec: Its task.
        size: (h, w), neither larger than before.
        how: ``nearest`` takes the pixel at the centre of each cell, for every kind of label.

    Returns:
        Label (h, w, C) of the same type and where it counts.
    """
    nearest, counts_there = nearest_pixel(label, size), nearest_pixel(valid, size)
    if how == "nearest":
        return nearest, counts_there
    counted = _sum(valid, size)
    counts = 2 * counted >= _sum(np.ones_like(valid), size)
    if spec.kind == "mask" and spec.metric in THIN_METRICS:
        crossed = _sum(valid & (label[..., 0] > 0), size) > 0
        return thin(crossed)[..., None].astype(label.dtype), counts | crossed
    if spec.kind in ("classes", "mask"):
        return _most_frequent(label[..., 0], valid, nearest[..., 0], counts_there)[..., None], counts
    means = [_sum(np.where(valid, label[..., index], 0), size) for index in range(label.shape[2])]
    mean = np.stack(means, axis=-1) / np.maximum(counted, 1)[..., None]
    if spec.kind == "normals":
        length = np.linalg.norm(mean, axis=-1)
        counts = counts & (length > _SHORTEST_NORMAL)
        mean = mean / np.maximum(length, _SHORTEST_NORMAL)[..., None]
    return mean.astype(label.dtype), counts


def nearest_pixel(values: Array, size: tuple[int, int]) -> Array:
    """The pixel at the centre of each cell, shape (h, w, ...)."""
    rows, columns = (
        (2 * np.arange(after) + 1) * before // (2 * after)
        for before, after in zip(values.shape[:2], size, strict=True)
    )
    found: Array = values[rows[:, None], columns]
    return found


def crossed_cells(mask: Bools, size: tuple[int, int]) -> Bools:
    """Cells in which at least one pixel is set, shape (h, w)."""
    return _sum(mask, size) > 0


def _sum(values: Array, size: tuple[int, int]) -> npt.NDArray[np.float64]:
    """Sum of each cell, shape (h, w); float64."""
    found = values.astype(np.float64)
    for axis, (before, after) in enumerate(zip(values.shape, size, strict=True)):
        # The first pixel whose centre is in the cell.
        starts = -(-(2 * np.arange(after) * before - after) // (2 * after))
        found = np.add.reduceat(found, np.maximum(starts, 0), axis=axis)
    return found


def _most_frequent(label: Array, valid: Bools, nearest: Array, counts_there: Bools) -> Array:
    best, most = nearest.copy(), np.zeros(nearest.shape)
    own = np.zeros(nearest.shape)
    for value in np.unique(label[valid]):
        share = _sum(valid & (label == value), (nearest.shape[0], nearest.shape[1]))
        own = np.where((nearest == value) & counts_there, share, own)
        best, most = np.where(share > most, value, best), np.maximum(share, most)
    return np.where(own == most, nearest, best).astype(label.dtype)
