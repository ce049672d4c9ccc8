"""Predictions as data files: whole arrays at the picture's own size, written row by row."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from dtme_search.reporting.colours import class_colours
from dtme_search.reporting.whole_image import save_numbers
from dtme_search.tasks import TaskSpec
from dtme_search.training import Prediction

Array = npt.NDArray[Any]

FARTHEST_MM = 65535
"""Maximum of 16 bits; depth beyond 65.535 m is stored as this value."""


def raster_ending(spec: TaskSpec) -> str:
    """Ending of the file that :func:`save_raster` writes.

    Example:
        >>> from dtme_search.tasks import depth, normals
        >>> raster_ending(depth()), raster_ending(normals())
        ('png', 'npy')
    """
    if spec.of_image:
        return "csv"
    return "png" if _is_picture(spec) else "npy"


def save_raster(prediction: Prediction, task: str, target: Path) -> None:
    """Write one task of a picture.

    Classes become an indexed png whose numbers are the classes; distances a 16-bit grey png in whole
    millimetres; masks (probabilities), normals (unit vectors) and other numbers a float32 npy; what is said
    about the whole image a csv.
    """
    spec = prediction.specs[task]
    if spec.of_image:
        save_numbers(prediction, task, target)
        return
    bands = prediction.bands(task)
    if not _is_picture(spec):
        _save_array(bands, prediction.size, target)
        return
    kind = np.uint8 if spec.kind == "classes" else np.uint16
    whole = np.empty(prediction.size, dtype=kind)
    for rows, band in _with_rows(bands):
        whole[rows] = band if spec.kind == "classes" else np.clip(np.rint(1000 * band), 0, FARTHEST_MM)
    picture = Image.fromarray(whole)
    if spec.kind == "classes":
        picture.putpalette(class_colours(spec.channels).tobytes())
    picture.save(target)


def _is_picture(spec: TaskSpec) -> bool:
    return spec.kind == "distance" or (spec.kind == "classes" and spec.channels <= 256)


def _save_array(bands: Iterator[Array], size: tuple[int, int], target: Path) -> None:
    whole: Array | None = None
    for rows, band in _with_rows(bands):
        if whole is None:
            whole = np.lib.format.open_memmap(
                target, mode="w+", dtype=np.float32, shape=(*size, *band.shape[2:])
            )
        whole[rows] = band
    if isinstance(whole, np.memmap):
        whole.flush()


def _with_rows(bands: Iterator[Array]) -> Iterator[tuple[slice, Array]]:
    start = 0
    for band in bands:
        yield slice(start, start + len(band)), band
        start += len(band)
