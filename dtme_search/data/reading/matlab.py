"""MATLAB files of version 5, read only where their parts fit: scipy ends the process at some that do not."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_HEADER = 128
_MATRIX, _COMPRESSED = 14, 15
_TYPES = range(1, 19)


def read_matlab(path: Path, names: Sequence[str] | None = None) -> dict[str, Any]:
    """Variables of a file by name, as ``scipy.io.loadmat`` gives them; all by default.

    Raises:
        ValueError: If an element does not fit in what holds it. Other damage raises whatever scipy raises.
        OSError: If the file cannot be read.
    """
    from scipy.io import loadmat

    content = path.read_bytes()
    if content[124:128] in (b"\x00\x01IM", b"\x01\x00MI"):  # version 5; scipy says what it thinks of others
        _check(content[_HEADER:], "<" if content[126:128] == b"IM" else ">")
    found: dict[str, Any] = loadmat(path, variable_names=None if names is None else list(names))
    return found


def _check(content: bytes, order: str) -> None:
    """Walk the elements of a file or a matrix; each must be of a known type and end within ``content``."""
    place = 0
    while place < len(content):
        if place + 8 > len(content):
            raise ValueError("the file is cut or damaged: an element has no beginning")
        kind, size = struct.unpack_from(f"{order}II", content, place)
        if kind >> 16:  # a small element: size, type and up to four bytes in one
            kind, size, start, step = kind & 0xFFFF, kind >> 16, place + 4, 8
            fits = size <= 4
        else:
            start = place + 8
            step = 8 + size + (0 if kind == _COMPRESSED else -size % 8)
            fits = start + size <= len(content)
        if kind not in _TYPES or not fits:
            raise ValueError("the file is cut or damaged: an element does not fit")
        if kind == _MATRIX:
            _check(content[start : start + size], order)
        elif kind == _COMPRESSED:
            _check(zlib.decompress(content[start : start + size]), order)
        place += step
