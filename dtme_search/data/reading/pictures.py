"""The one place that opens picture files: photographs as people see them, labels as the numbers they store.

Shapes: H height, W width, C channels.
"""

from __future__ import annotations

import re
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from dtme_search.errors import DataError

DAMAGED = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    # From a header with inconsistent parts.
    *(TypeError, KeyError, IndexError, AttributeError, OverflowError, MemoryError, RuntimeError),
)
"""What Pillow and numpy raise on damaged files."""

_LABEL_FORMATS = ("PNG", "TIFF", "BMP", "GIF")
"""Formats whose stored numbers are accessible; others are lossy, or Pillow rescales them."""
_LOSSY_IN_TIFF = ("jpeg", "tiff_jpeg", "webp")
_OF_CAMERAS = (".heic", ".heif", ".dng", ".cr2", ".cr3", ".nef", ".arw")
_ORIENTATION = 0x0112
_LAST_UPRIGHT = 4
"""Orientations above it exchange height and width."""
_STRETCHED = re.compile(r"L;([24])$")
"""Pillow's names for grey of fewer than 8 bits, which it stretches to 0..255."""


def read_image(path: Path) -> npt.NDArray[np.uint8]:
    """A photograph, upright according to its orientation tag, in RGB: uint8 (H, W, 3).

    Grey becomes RGB, 16 bits become 8, transparency is dropped.

    Raises:
        DataError: If the file is missing, truncated, not a picture, several pictures, or of unknown range.
    """
    try:
        with Image.open(path) as image:
            _check_single(path, image)
            upright = ImageOps.exif_transpose(image)
            if upright.mode in ("I", "F"):
                raise DataError(
                    f"{path}: a photograph must have 8 or 16 bits per channel, got mode {upright.mode}, "
                    "whose white level is unknown. Save it as 8-bit."
                )
            if upright.mode.startswith("I;16"):
                grey = (np.asarray(upright).astype(np.uint32) * 255 + 32767) // 65535
                return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2)
            return _as_rgb(upright)
    except DAMAGED as error:
        raise damaged(path, error) from error


def read_size(path: Path) -> tuple[int, int]:
    """(H, W) of a photograph as :func:`read_image` gives it, from its header.

    Raises:
        DataError: If the file is missing or not a picture.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
            lies = image.getexif().get(_ORIENTATION, 1) > _LAST_UPRIGHT
            return (width, height) if lies else (height, width)
    except DAMAGED as error:
        raise damaged(path, error) from error


def read_colours(path: Path, name: str, *, grey: bool = True) -> npt.NDArray[np.uint8]:
    """Labels written as colours, uint8 (H, W, 3); errors call them ``name``.

    Args:
        path: The file.
        name: What it holds, for the message.
        grey: Whether a picture without colours is accepted, because file optimisers store black and white so.

    Raises:
        DataError: If the file is missing, damaged, lossy or not of 8 bits per channel.
    """
    image, raw = _open_label(path)
    if image.mode not in ("RGB", "RGBA", "P", *(("L", "1") if grey else ())) or "16" in raw:
        raise DataError(
            f"{path}: {name} must be a picture in colours of 8 bits, got mode {image.mode}"
            f"{' of 16 bits' if '16' in raw else ''}. Replace the file."
        )
    return _as_rgb(image)


def read_stored(path: Path) -> tuple[npt.NDArray[Any], str]:
    """The numbers that a label picture stores, (H, W) or (H, W, C), and Pillow's name of its mode.

    A palette gives its indices. Grey of 2 or 4 bits gives 0 to 3 or 0 to 15 as stored, with the mode ``L;2``
    or ``L;4``.

    Raises:
        DataError: If the file is missing, damaged or lossy, or Pillow cannot return the stored numbers.
    """
    image, raw = _open_label(path)
    values = np.asarray(image)
    if found := _STRETCHED.match(raw):
        return values // (255 // (2 ** int(found[1]) - 1)), raw
    if values.ndim == 3 and "16" in raw:
        raise DataError(
            f"{path}: a label of several channels must have 8 bits each, got 16. Save it as npy, or as 8-bit."
        )
    return values, image.mode


def damaged(path: Path, error: Exception) -> DataError:
    """One line about a file that is missing or cannot be decoded."""
    if isinstance(error, FileNotFoundError):
        return DataError(f"{path}: the file is missing. Complete the data set.")
    if isinstance(error, UnidentifiedImageError):
        way_out = "Convert it to jpg or png" if path.suffix.lower() in _OF_CAMERAS else "Replace it"
        return DataError(f"{path}: the file cannot be read (not an image). {way_out}.")
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return DataError(f"{path}: the file cannot be read ({reason.splitlines()[0]}). Replace it.")


def _open_label(path: Path) -> tuple[Image.Image, str]:
    """A label picture, decoded, and how its pixels are stored."""
    try:
        with Image.open(path) as image:
            raw = _raw_mode(image)  # read first, because other attributes may decode the pixels
            _check_single(path, image)
            _check_exact(path, image)
            # Rotating the label would not be enough: the numbers of normals would have to turn too.
            turned = image.getexif().get(_ORIENTATION, 1)
            image.load()
    except DAMAGED as error:
        raise damaged(path, error) from error
    if turned not in (0, 1):
        raise DataError(
            f"{path}: a label must be stored upright, got the orientation tag {turned}. "
            "Save it upright and without the tag."
        )
    if re.match(r"(1|L);[24]?I", raw):
        raise DataError(f"{path}: a label must store black as 0, got white as 0 ({raw}). Save it as png.")
    return image, raw


def _raw_mode(image: Image.Image) -> str:
    """The decoder's mode for reading the pixels, for example ``L;4``; known only before decoding."""
    tiles = getattr(image, "tile", None)
    arguments = tiles[0][3] if tiles else ()
    first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return first if isinstance(first, str) else image.mode


def _check_single(path: Path, image: Image.Image) -> None:
    # Phones store a small second picture beside the photograph (MPO); the first one is meant.
    frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    if frames != 1:
        raise DataError(f"{path}: must hold one picture, got {frames}. Save one picture per file.")


def _check_exact(path: Path, image: Image.Image) -> None:
    compression = str(image.info.get("compression", "")) if image.format == "TIFF" else ""
    if image.format in _LABEL_FORMATS and compression not in _LOSSY_IN_TIFF:
        return
    found = f"TIFF compressed as {compression}" if compression in _LOSSY_IN_TIFF else str(image.format)
    raise DataError(
        f"{path}: a label must be stored without loss as png, tiff or npy, got {found}, which changes "
        "numbers. Write it again from its source."
    )


def _as_rgb(image: Image.Image) -> npt.NDArray[np.uint8]:
    # Transparent pixels count with their colour; Pillow would warn about some palettes with transparency.
    image.info.pop("transparency", None)
    return np.asarray(image.convert("RGB"))
