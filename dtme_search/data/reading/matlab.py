"""MATLAB files of version 5, read only where their parts fit: scipy ends the process at some that do not.

A file is a list of elements, each a type, a size and content. An array is an element whose content is four
elements or more: flags (with the class), dimensions, name, and what the class demands.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

_HEADER = 128
_INT8, _INT32, _UINT32, _MATRIX, _COMPRESSED = 1, 5, 6, 14, 15
_BYTES = {1: 1, 2: 1, 3: 2, 4: 2, 5: 4, 6: 4, 7: 4, 9: 8, 12: 8, 13: 8, 16: 1, 17: 2, 18: 4}
"""Type of an element with numbers or text -> bytes of each."""
_CELL, _STRUCT, _CHAR, _NUMBERS = 1, 2, 4, range(6, 16)
_COMPLEX = 0x0800

_Element = tuple[int, bytes]


def read_matlab(path: Path, names: Sequence[str] | None = None) -> dict[str, Any]:
    """Variables of a file by name, as ``scipy.io.loadmat`` gives them; all by default.

    Raises:
        ValueError: If the parts of a variable do not fit together, or it is no array of numbers, text, cells
            or structs. Other damage raises whatever scipy raises.
        OSError: If the file cannot be read.
    """
    from scipy.io import loadmat

    content = path.read_bytes()
    if content[124:128] in (b"\x00\x01IM", b"\x01\x00MI"):  # version 5; scipy says what it thinks of others
        _check_all(content[_HEADER:], "<" if content[126:128] == b"IM" else ">")
    found: dict[str, Any] = loadmat(BytesIO(content), variable_names=None if names is None else list(names))
    return found


def _check_all(content: bytes, order: str) -> None:
    """Check the variables of a file."""
    for kind, inside in _elements(content, order):
        if kind == _COMPRESSED:
            _check_all(zlib.decompress(inside), order)
        else:
            _hold(kind == _MATRIX, "a variable is no array")
            _check_array(inside, order)


def _check_array(content: bytes, order: str) -> None:
    if not content:  # an empty array may say nothing
        return
    parts = _elements(content, order)
    flags = _numbers(next(parts, None), _UINT32, order)
    sizes = _numbers(next(parts, None), _INT32, order)
    _hold(len(flags) == 2 and len(sizes) >= 2 and min(sizes) >= 0, "an array has no class or size")
    kind, count = flags[0] & 0xFF, math.prod(sizes)
    _hold(next(parts, (0, b""))[0] == _INT8, "an array has no name")
    if kind == _STRUCT:
        (width, *_) = _numbers(next(parts, None), _INT32, order) or (0,)
        kind_of_names, names = next(parts, (0, b""))
        _hold(width > 0 and kind_of_names == _INT8 and len(names) % width == 0, "a struct has no names")
        count *= len(names) // width
    if kind in (_STRUCT, _CELL):
        inner = list(parts)
        _hold(len(inner) == count and all(kind == _MATRIX for kind, _ in inner), "cells are missing")
        for _, inside in inner:
            _check_array(inside, order)
        return
    _hold(kind == _CHAR or kind in _NUMBERS, f"an array has the unknown class {kind}")
    rows = list(parts)
    _hold(len(rows) == (2 if flags[0] & _COMPLEX else 1), "an array has no values")
    for type_, values in rows:
        _hold(type_ in _BYTES and len(values) % _BYTES[type_] == 0, "values have an unknown type")
        _hold(
            kind == _CHAR or len(values) == count * _BYTES[type_],
            "an array has not as many values as its size",
        )


def _elements(content: bytes, order: str) -> Iterator[_Element]:
    """Type and content of each element; it must end within ``content``."""
    place = 0
    while place < len(content):
        _hold(place + 8 <= len(content), "an element has no beginning")
        kind, size = struct.unpack_from(f"{order}II", content, place)
        if kind >> 16:  # a small element: size, type and up to four bytes in one
            kind, size, start, step = kind & 0xFFFF, kind >> 16, place + 4, 8
            _hold(size <= 4, "an element does not fit")
        else:
            start = place + 8
            step = 8 + size + (0 if kind == _COMPRESSED else -size % 8)
            _hold(start + size <= len(content), "an element does not fit")
        yield kind, content[start : start + size]
        place += step


def _numbers(element: _Element | None, kind: int, order: str) -> tuple[int, ...]:
    """Numbers of four bytes; none if the element is something else."""
    if element is None or element[0] != kind or len(element[1]) % 4:
        return ()
    code = "i" if kind == _INT32 else "I"
    return struct.unpack(f"{order}{len(element[1]) // 4}{code}", element[1])


def _hold(holds: bool, what: str) -> None:
    if not holds:
        raise ValueError(f"the file is cut or damaged: {what}")
