"""Decode single label files; whatever is wrong with one is a ``DataError`` that names it.

Shapes: H height, W width. Every label reader returns the label and where it counts.
"""

from __future__ import annotations

import tokenize
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NoReturn

import numpy as np
import numpy.typing as npt

from dtme_search.data.base import Sample
from dtme_search.data.reading.pictures import DAMAGED, damaged, read_stored
from dtme_search.data.reading.threads import numpy_header_lock
from dtme_search.errors import DataError
from dtme_search.tasks import TaskSpec

Bools = npt.NDArray[np.bool_]
Label = tuple[npt.NDArray[Any], Bools]
"""A label and where it counts."""

# From a damaged header: numpy reads it as Python and then asks for as much memory as it says.
_DAMAGED_ARRAY = (*DAMAGED, tokenize.TokenError)
_LARGEST_METRES = 1000.0
_SHORTEST_NORMAL = 0.05


def read_class_ids(path: Path, name: str = "segmentation") -> npt.NDArray[np.integer[Any]]:
    """Integer ids (H, W) from a grey or palette png or from an npy file; errors call them ``name``.

    Raises:
        DataError: If the file is missing, damaged or holds something else.
    """
    values, _ = _as_map(path)
    if values.ndim != 2 or values.dtype.kind not in "biu":
        _refuse(path, f"{name} must be integer ids of shape (H, W)", values)
    return values.astype(np.int64)


def read_depth(path: Path) -> tuple[npt.NDArray[np.float32], Bools]:
    """Depth in metres, float32 (H, W), and where it was measured.

    A png holds 16-bit millimetres; an npy file metres as floats of shape (H, W) or (H, W, 1). Values that are
    0, negative or not finite were not measured.

    Raises:
        DataError: If the file is missing, damaged or holds something else.
    """
    if path.suffix.lower() == ".png":
        millimetres, mode = read_stored(path)
        # Pillow calls 16-bit grey I;16, before version 10 sometimes I.
        if not mode.startswith("I"):
            raise DataError(
                f"{path}: depth must be a 16-bit grey png in millimetres, got mode {mode}. "
                "Save it as 16-bit, or as npy in metres."
            )
        return (millimetres / 1000).astype(np.float32), millimetres > 0
    metres, _ = _as_map(path)
    if metres.ndim != 2 or metres.dtype.kind != "f":
        _refuse(path, "depth must be floating metres of shape (H, W) or (H, W, 1)", metres)
    valid = np.isfinite(metres) & (metres > 0)
    metres = np.where(valid, metres, 0).astype(np.float32)
    if metres.max(initial=0.0) > _LARGEST_METRES:
        raise DataError(
            f"{path}: depth must be in metres, got values up to {metres.max():.6g}. "
            "Divide millimetres by 1000."
        )
    return metres, valid


def read_normals(path: Path) -> tuple[npt.NDArray[np.float32], Bools]:
    """Unit normals (H, W, 3) in the file's own frame and channel order.

    A png holds ``v = 255 (n + 1) / 2`` rounded, an npy file floats. Normals are scaled to length 1; those
    shorter than 0.05 (grey in a png) or not finite do not count.

    Raises:
        DataError: If the file is missing, damaged or holds something else.
    """
    if path.suffix.lower() == ".npy":
        vectors = _load(path)
        if vectors.ndim != 3 or vectors.shape[2] != 3 or vectors.dtype.kind != "f":
            _refuse(path, "normals must be floats of shape (H, W, 3)", vectors)
        vectors = vectors.astype(np.float64)
    else:
        values, mode = read_stored(path)
        if mode not in ("RGB", "RGBA"):
            raise DataError(
                f"{path}: normals must be an RGB png, got mode {mode}. Replace the file, or remove the "
                "normals folder to have normals derived from depth."
            )
        vectors = 2 * values[..., :3].astype(np.float64) / 255 - 1
    length = np.sqrt(np.einsum("hwc,hwc->hw", vectors, vectors))
    valid = np.isfinite(length) & (length >= _SHORTEST_NORMAL)
    unit = np.where(valid[..., None], vectors, 0) / np.where(valid, length, 1)[..., None]
    return unit.astype(np.float32), valid


def read_mask(path: Path, unknown: int | None = None) -> tuple[npt.NDArray[np.uint8], Bools]:
    """Mask of 0 and 1 from a grey png of 0 and 255 or from an npy file of 0 and 1 (or 255).

    Args:
        path: The file.
        unknown: Value of pixels that do not count, besides those that are not finite.

    Raises:
        DataError: If the file is missing, damaged or holds something else.
    """
    values, mode = _as_map(path)
    if mode.startswith("L;"):
        raise DataError(
            f"{path}: edge must be a grey png of 8 bits or 1, got {mode[2:]} bits. Replace the file."
        )
    if values.ndim != 2 or values.dtype.kind not in "biuf":
        _refuse(path, "edge must be numbers of shape (H, W) or (H, W, 1)", values)
    valid = np.isfinite(values)
    if unknown is not None:
        valid &= values != unknown
    values = np.where(valid, values, 0)
    above = 0.5 if values.max(initial=0) <= 1 else 127
    return (values > above).astype(np.uint8), valid


def read_array(path: Path) -> npt.NDArray[Any]:
    """The stored content of a grey or multi-channel picture or an npy file.

    Raises:
        DataError: If the file is missing or damaged.
    """
    return _load(path) if path.suffix.lower() == ".npy" else read_stored(path)[0]


def read_levels(path: Path, what: str, bits: Literal[8, 16, 24]) -> npt.NDArray[np.integer[Any]]:
    """Stored numbers of a png as they are: grey of 8 or 16 bits (H, W), or 24 for RGB (H, W, 3).

    Args:
        path: The file.
        what: What it holds, for the message.
        bits: Bits of a pixel.

    Raises:
        DataError: If the file is missing, damaged or of another depth.
    """
    values, mode = read_stored(path)
    # Pillow calls 16-bit grey I;16, before version 10 sometimes I.
    found = {"L": 8, "P": 8, "I;16": 16, "I;16B": 16, "I": 16, "RGB": 24, "RGBA": 24}.get(mode)
    if found != bits:
        kind = {8: "an 8-bit grey", 16: "a 16-bit grey", 24: "an RGB"}[bits]
        raise DataError(f"{path}: {what} must be {kind} png, got mode {mode}. Replace the file.")
    return values[..., :3] if bits == 24 else values


def no_label(spec: TaskSpec, size: tuple[int, int]) -> Label:
    """The label of an image of ``size`` (H, W) that has none: no pixel counts."""
    height, width = spec.label_size(size)
    channels: tuple[int, ...] = {"normals": (3,), "values": (spec.channels,)}.get(spec.kind, ())
    if spec.of_image and spec.kind == "mask":
        channels = (spec.channels,)
    kind = np.uint8 if spec.kind in ("classes", "mask") else np.float32
    return np.zeros((height, width, *channels), kind), np.zeros((height, width), np.bool_)


def make_sample(
    image: npt.NDArray[np.uint8],
    specs: Mapping[str, TaskSpec],
    labels: Mapping[str, Label],
    source: Callable[[str], Path],
) -> Sample:
    """Combine an image and its labels.

    Args:
        image: RGB, shape (H, W, 3).
        specs: The tasks of the sample.
        labels: Per task that has one, of the same H and W where every pixel has a label.
        source: Task -> file that its label comes from.

    Raises:
        DataError: Names the file of the first label that has another size.
    """
    size = (image.shape[0], image.shape[1])
    found = {task: labels[task] if task in labels else no_label(spec, size) for task, spec in specs.items()}
    for task, (label, _) in found.items():
        if label.shape[:2] != specs[task].label_size(size):
            raise DataError(
                f"{source(task)}: the size of {task} must be that of the image, "
                f"{size[0]}x{size[1]}, got {label.shape[0]}x{label.shape[1]}. Replace one."
            )
    return Sample(
        image,
        {task: label for task, (label, _) in found.items()},
        {task: valid for task, (_, valid) in found.items()},
    )


def _as_map(path: Path) -> tuple[npt.NDArray[Any], str]:
    """Numbers (H, W) where the file holds one channel, and the mode of a picture."""
    values, mode = (_load(path), "npy") if path.suffix.lower() == ".npy" else read_stored(path)
    return (values[..., 0] if values.ndim == 3 and values.shape[2] == 1 else values), mode


def _load(path: Path) -> npt.NDArray[Any]:
    try:
        with numpy_header_lock:
            loaded = np.load(path, allow_pickle=False)
    except FileNotFoundError as error:
        raise damaged(path, error) from error
    except _DAMAGED_ARRAY as error:
        # numpy's own message would advise unpickling whatever it does not know.
        raise damaged(path, ValueError("not a whole npy array")) from error
    if not isinstance(loaded, np.ndarray):
        raise DataError(f"{path}: must hold one array, got an archive. Save it with numpy.save.")
    return loaded


def _refuse(path: Path, rule: str, values: npt.NDArray[Any]) -> NoReturn:
    raise DataError(f"{path}: {rule}, got {values.dtype} {values.shape}. Replace the file.")
