"""Lines one pixel wide: thinning of binary maps, fast enough for a hundred thresholds an image.

Shapes: H height, W width.
"""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt

Bools = npt.NDArray[np.bool_]


def thin(mask_HW: Bools) -> Bools:
    """Thin lines to one pixel without breaking them (Guo and Hall, Comm. ACM 1989, algorithm A1).

    The rule of MATLAB's ``bwmorph(mask, 'thin', Inf)``: two kinds of passes in turn until nothing changes.
    Here a pass looks only at pixels that lost a neighbour since the last pass of its kind; the answer of
    all others is known, so the result is the same [ours].

    Example:
        >>> thin(np.ones((3, 4), bool)).astype(int).sum(0).max()
        np.int64(1)
    """
    padded = np.pad(mask_HW, 1)
    flat, row = padded.ravel(), padded.shape[1]
    # The eight neighbours clockwise from the upper one, as in the paper; bit i of a code is neighbour i.
    around = np.array([-row, -row + 1, 1, row + 1, row, row - 1, -1, -row - 1])
    place = np.empty(len(flat), dtype=np.intp)

    def once(pixels: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
        # Of equal pixels the one written last stays; sorting would take most of the time.
        order = np.arange(len(pixels))
        place[pixels] = order
        return pixels[place[pixels] == order]

    pending = [np.flatnonzero(flat)] * 2
    kind = 0
    while len(pending[0]) or len(pending[1]):
        pixels = pending[kind][flat[pending[kind]]]
        code = np.zeros(len(pixels), dtype=np.uint8)
        for bit, step in enumerate(around):
            code |= flat[pixels + step].view(np.uint8) << np.uint8(bit)
        removed = pixels[_removable()[kind][code]]
        flat[removed] = False
        lost_a_neighbour = (removed[:, None] + around).ravel()
        lost_a_neighbour = once(lost_a_neighbour[flat[lost_a_neighbour]])
        pending[kind] = lost_a_neighbour
        kind = 1 - kind
        pending[kind] = once(np.concatenate([pending[kind], lost_a_neighbour]))
    return padded[1:-1, 1:-1].copy()


@functools.cache
def _removable() -> Bools:
    """For each kind of pass and code of eight neighbours, whether the pixel goes, shape (2, 256)."""
    codes = np.arange(256, dtype=np.uint8)[:, None]
    p1, p2, p3, p4, p5, p6, p7, p8 = np.unpackbits(codes, axis=1, bitorder="little").astype(bool).T
    components = (~p1 & (p2 | p3)).astype(int) + (~p3 & (p4 | p5)) + (~p5 & (p6 | p7)) + (~p7 & (p8 | p1))
    pairs = (p8 | p1).astype(int) + (p2 | p3) + (p4 | p5) + (p6 | p7)
    other_pairs = (p1 | p2).astype(int) + (p3 | p4) + (p5 | p6) + (p7 | p8)
    neighbours = np.minimum(pairs, other_pairs)
    goes = (components == 1) & (neighbours >= 2) & (neighbours <= 3)
    return np.stack([goes & ~((p5 | p6 | ~p8) & p7), goes & ~((p1 | p2 | ~p4) & p3)])
