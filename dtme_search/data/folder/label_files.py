"""Decode a label file described by a ``FolderTask``; whatever does not fit is a ``DataError`` that names it.

Shapes: H height, W width, C channels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dtme_search.config import FolderTask
from dtme_search.data.reading.files import read_array, read_class_ids
from dtme_search.data.reading.pictures import read_colours
from dtme_search.errors import DataError

Bools = npt.NDArray[np.bool_]
Label = tuple[npt.NDArray[Any], Bools]

_FARTHEST = 1000.0
_SHORTEST_NORMAL = 0.05
_WHITE = 255


def read_label(path: Path, name: str, task: FolderTask) -> Label:
    """Label in the form of ``Sample`` and where it counts.

    Apart from the values in ``ignore`` these count: every pixel of classes and masks; distances that are
    finite and above 0; normals that are finite and at least 0.05 long (grey is no direction); finite values.

    Args:
        path: The file.
        name: Name of the task, for messages.
        task: Its description.

    Raises:
        DataError: If the file is missing, damaged or of another form, or holds what the description excludes.
    """
    where = f"{path}: {name}"
    if task.target in ("classes", "mask") and task.how in ("labels", "colours"):
        codes = _codes(path, name) if task.how == "colours" else read_class_ids(path, name)
        return _classes(codes, where, task) if task.kind == "classes" else _mask(codes, where, task)
    numbers, valid = _numbers(path, name, task)
    if task.target == "mask":
        return (numbers[..., 0] > 0.5).astype(np.uint8), valid
    if task.kind == "distance":
        valid &= numbers[..., 0] > 0
        _check_range(numbers[..., 0][valid], where, task.range or (0.0, _FARTHEST))
        return np.where(valid, numbers[..., 0], 0).astype(np.float32), valid
    if task.kind == "normals":
        length = np.sqrt(np.einsum("hwc,hwc->hw", numbers, numbers))
        valid &= length >= _SHORTEST_NORMAL
        return (numbers / np.where(valid, length, 1)[..., None]).astype(np.float32), valid
    if task.range is not None:
        _check_range(numbers[valid], where, task.range)
    return numbers.astype(np.float32), valid


def _classes(codes: npt.NDArray[np.integer[Any]], where: str, task: FolderTask) -> Label:
    values = [
        (_code(value), index) for index, each in enumerate(task.class_values.values()) for value in each
    ]
    values.sort()
    known, index = (np.array(column) for column in zip(*values, strict=True))
    ignored = np.isin(codes, [_code(value) for value in task.ignore])
    place = np.minimum(np.searchsorted(known, codes), len(known) - 1)
    strange = (known[place] != codes) & ~ignored
    if strange.any():
        found = np.unique(codes[strange])
        shown = ", ".join(_shown(code, task) for code in found[:3]) + (", ..." if len(found) > 3 else "")
        raise DataError(
            f"{where} must hold the {task.how} of its classes or of ignore only, got {shown} at "
            f"{int(strange.sum())} pixels. Add them to the description, or correct the file."
        )
    return np.where(ignored, 0, index[place]).astype(np.uint8), ~ignored


def _mask(codes: npt.NDArray[np.integer[Any]], where: str, task: FolderTask) -> Label:
    valid = ~np.isin(codes, task.ignore)
    if task.positive:
        positive = np.isin(codes, task.positive)
    else:
        positive = codes != 0
        _refuse_soft(codes[valid & positive], where)
    return (positive & valid).astype(np.uint8), valid


def _refuse_soft(positive: npt.NDArray[np.integer[Any]], where: str) -> None:
    """Refuse numbers other than 0 and 255: they would all mean yes, and come from scaling or lossy files."""
    between = np.unique(positive[positive != _WHITE])
    if between.size and between.size < np.unique(positive).size:
        shown = ", ".join(str(value) for value in between[:3]) + ", ..." * (between.size > 3)
        raise DataError(
            f"{where} must hold 0 and {_WHITE} only, or positive must list the values that mean yes, got "
            f"{shown} too: the mask was scaled or stored with loss. Write it again, or use encoding numbers "
            "and scale 0.0039, which cuts at one half."
        )


def _numbers(path: Path, name: str, task: FolderTask) -> tuple[npt.NDArray[np.float64], Bools]:
    """Numbers (H, W, C) after scale and offset, and where they are finite and not ignored (H, W)."""
    channels = 3 if task.kind == "normals" else task.channels
    raw = read_colours(path, name, grey=False) if task.how == "rgb" else read_array(path)
    raw = raw[..., None] if raw.ndim == 2 else raw
    if raw.ndim != 3 or raw.shape[2] != channels or raw.dtype.kind not in "biuf":
        raise DataError(
            f"{path}: {name} must hold {channels} number{'s' * (channels > 1)} per pixel, got {raw.dtype} "
            f"{tuple(raw.shape)}. Correct the file, or encoding and channels in its description."
        )
    # 0.1 in the description differs from 0.1 in a file that holds float32.
    ignored = np.array(task.ignore, dtype=raw.dtype if raw.dtype.kind == "f" else None)
    valid = np.asarray(np.isfinite(raw).all(-1) & ~np.isin(raw, ignored).all(-1))
    numbers = np.where(valid[..., None], raw, 0).astype(np.float64)
    if task.kind == "normals" and task.how == "rgb":
        return 2 * numbers / 255 - 1, valid
    return np.where(valid[..., None], task.scale * numbers + task.offset, 0), valid


def _check_range(counted: npt.NDArray[np.float64], where: str, allowed: tuple[float, float]) -> None:
    if counted.size and not allowed[0] <= counted.min() <= counted.max() <= allowed[1]:
        raise DataError(
            f"{where} must lie in {allowed[0]:g} to {allowed[1]:g}, got {counted.min():.6g} to "
            f"{counted.max():.6g}. Set scale, ignore or range in the description, or correct the file."
        )


def _codes(path: Path, name: str) -> npt.NDArray[np.integer[Any]]:
    """Colours as single numbers, red first."""
    channels = read_colours(path, name).astype(np.int64)
    codes: npt.NDArray[np.int64] = (channels[..., 0] << 16) + (channels[..., 1] << 8) + channels[..., 2]
    return codes


def _code(value: float | str) -> int:
    return int(value[1:], 16) if isinstance(value, str) else int(value)


def _shown(code: int, task: FolderTask) -> str:
    return f"#{code:06x}" if task.how == "colours" else str(code)
