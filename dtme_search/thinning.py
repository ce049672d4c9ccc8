"""Lines one pixel wide: thinning of binary maps, 64 of them at once.

Shapes: H height, W width.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Bits = npt.NDArray[np.uint64]
Bools = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.intp]


def thin(mask_HW: Bools) -> Bools:
    """Thin the lines of one map to one pixel; see ``thin_bits``.

    Example:
        >>> thin(np.ones((3, 4), bool)).astype(int).sum(0).max()
        np.int64(1)
    """
    return thin_bits(mask_HW.astype(np.uint64)).astype(np.bool_)


def thin_bits(maps_HW: Bits) -> Bits:
    """Thin lines to one pixel without breaking them (Guo and Hall, Comm. ACM 1989, algorithm A1).

    The rule of MATLAB's ``bwmorph(mask, 'thin', Inf)``: two kinds of passes in turn until nothing changes.
    The computation is ours, with the same result: bit k of every pixel belongs to map k, and the rule is
    written in bitwise operations. A pass only looks at pixels that lost a neighbour since the last pass of
    its kind, because the others cannot change.

    Args:
        maps_HW: 64 independent binary maps.

    Returns:
        The thinned maps, a new array.
    """
    padded = np.pad(maps_HW, 1)
    flat, row = padded.ravel(), padded.shape[1]
    # The eight neighbours clockwise from the upper one, as in the paper; p1..p8 are its p2..p9.
    around = np.array([-row, -row + 1, 1, row + 1, row, row - 1, -1, -row - 1])
    place = np.empty(len(flat), dtype=np.intp)

    def once(pixels: Indices) -> Indices:
        # Of equal pixels the one written last is kept; sorting would take most of the time.
        order = np.arange(len(pixels))
        place[pixels] = order
        kept: Indices = pixels[place[pixels] == order]
        return kept

    pending = [np.flatnonzero(flat)] * 2
    kind = 0
    while len(pending[0]) or len(pending[1]):
        pixels = pending[kind]
        removed = flat[pixels] & _removable([flat[pixels + step] for step in around], kind)
        changed = removed != 0
        pixels = pixels[changed]
        flat[pixels] &= ~removed[changed]
        beside = (pixels[:, None] + around).ravel()
        beside = once(beside[flat[beside] != 0])
        pending[kind] = beside
        kind = 1 - kind
        pending[kind] = once(np.concatenate([pending[kind], beside]))
    return padded[1:-1, 1:-1].copy()


def _removable(neighbours: list[Bits], kind: int) -> Bits:
    """Where a pixel may be removed, given its eight neighbours: the paper's three conditions, bit by bit."""
    p1, p2, p3, p4, p5, p6, p7, p8 = neighbours
    a, b, c, d = ~p1 & (p2 | p3), ~p3 & (p4 | p5), ~p5 & (p6 | p7), ~p7 & (p8 | p1)
    three_components = (a & b & (c | d)) | (c & d & (a | b))
    one_component = (a ^ b ^ c ^ d) & ~three_components
    two_pairs, four_pairs = _at_least_two_and_all(p8 | p1, p2 | p3, p4 | p5, p6 | p7)
    two_others, four_others = _at_least_two_and_all(p1 | p2, p3 | p4, p5 | p6, p7 | p8)
    kept = (p5 | p6 | ~p8) & p7 if kind == 0 else (p1 | p2 | ~p4) & p3
    removable: Bits = one_component & two_pairs & two_others & ~(four_pairs & four_others) & ~kept
    return removable


def _at_least_two_and_all(a: Bits, b: Bits, c: Bits, d: Bits) -> tuple[Bits, Bits]:
    first: Bits = a & b
    second: Bits = c & d
    across: Bits = (a | b) & (c | d)
    two: Bits = first | second | across
    four: Bits = first & second
    return two, four
