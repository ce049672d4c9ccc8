"""Boundaries of one image compared with the truth, step by step as in the tools behind published odsF values.

The steps and their constants are those of SEISM's measure "fb", of ``correspondPixels`` (BSDS) and of
Dollar's edge suppression, as InvPT's author applies them; what is ours is marked.

Shapes: H height, W width, T thresholds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from dtme_search.metrics.matching import Matcher
from dtme_search.thinning import thin, thin_bits

Bools = npt.NDArray[np.bool_]
Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

THRESHOLDS = (0.001, *(percent / 100 for percent in range(1, 100)), 0.999)
"""The published 101 thresholds; a pixel is predicted where its probability is above."""

_FIRST_OF_WORD = range(0, len(THRESHOLDS), 64)
_LOWEST_BITS = np.array([(1 << count) - 1 for count in range(65)], dtype=np.uint64)
_TRIANGLE = np.array([1, 2, 3, 4, 5, 4, 3, 2, 1]) / 25
_STEADY = 1e-5  # added to a second derivative before dividing by it
_LEAD = 1.01  # a pixel goes if a neighbour exceeds it times this
_FADED_BORDER = 5


@dataclass(frozen=True)
class BoundaryCounts:
    """What one image adds to precision and recall; integers, so that sums do not depend on their order.

    Attributes:
        num_true: True boundary pixels.
        predicted: Predicted boundary pixels by threshold, shape (T,).
        matched: One-to-one matches by threshold, shape (T,).
    """

    num_true: int
    predicted: Counts
    matched: Counts


def count_boundaries(
    codes_HW: npt.NDArray[np.uint8], truth_HW: Bools, valid_HW: Bools, tolerance: float
) -> BoundaryCounts:
    """Suppress, threshold, thin and match one image.

    1. ``suppress_non_maxima`` of the probability, stored in 8 bits.
    2. Per threshold: the pixels above it, thinned to one pixel; the truth is thinned once.
    3. Matching one to one within ``tolerance`` times the diagonal.

    Pixels that are not valid have probability 0 and no truth [ours; the tools know no such pixels].

    Args:
        codes_HW: 255 times the edge probability, cut to an integer as for an 8-bit image.
        truth_HW: True boundary pixels.
        valid_HW: Pixels that count.
        tolerance: Largest distance of a match as a fraction of the diagonal of the image.
    """
    strength = suppress_non_maxima(np.where(valid_HW, codes_HW, 0) / 255)
    level = np.searchsorted(THRESHOLDS, strength)  # how many thresholds a pixel exceeds
    true_pixels = np.flatnonzero(thin(truth_HW & valid_HW))
    lines = np.stack([thin_bits(_LOWEST_BITS[np.clip(level - first, 0, 64)]) for first in _FIRST_OF_WORD])
    candidates = np.flatnonzero(lines.any(0))
    lines = lines.reshape(len(lines), -1)[:, candidates]
    matcher = Matcher(true_pixels, candidates, codes_HW.shape, tolerance * math.hypot(*codes_HW.shape))
    predicted, matched = (np.zeros(len(THRESHOLDS), dtype=np.int64) for _ in range(2))
    # The highest threshold first: it has few pixels, and each next set is nearly the previous one plus a few
    # more.
    for index in reversed(range(len(THRESHOLDS))):
        present = (lines[index // 64] >> np.uint64(index % 64) & np.uint64(1)).astype(np.bool_)
        predicted[index], matched[index] = present.sum(), matcher.match(present)
    return BoundaryCounts(len(true_pixels), predicted, matched)


def suppress_non_maxima(probability_HW: Floats) -> Floats:
    """Keep the crests of a probability map; everything else becomes 0.

    The map, smoothed by a triangle of radius 4, gives the direction across the line from its second
    derivatives: atan(d_yy sign(-d_xy) / (d_xx + 1e-5)). A pixel is dropped where the unsmoothed map,
    interpolated one pixel ahead or behind in that direction, exceeds 1.01 times its value. The outer 5 pixels
    fade linearly, to 0 at the border. Where d_xy is exactly 0 the direction is that of x, even for a
    horizontal line: such a line stays thick here and is left to the thinning, as in the original.

    Args:
        probability_HW: Between 0 and 1.
    """
    height, width = probability_HW.shape
    smooth = probability_HW
    for axis in (0, 1):
        smooth = ndimage.correlate1d(smooth, _TRIANGLE, axis, mode="reflect")
    d_y, d_x = _gradient(smooth)
    d_yy, _ = _gradient(d_y)
    d_xy, d_xx = _gradient(d_x)
    across = np.arctan(d_yy * np.sign(-d_xy) / (d_xx + _STEADY))
    y, x = np.indices(probability_HW.shape, dtype=np.float64)
    crest = np.ones_like(probability_HW, dtype=np.bool_)
    for sign in (1.0, -1.0):
        place = [
            np.clip(y + sign * np.sin(across), 0, height - 1),
            np.clip(x + sign * np.cos(across), 0, width - 1),
        ]
        crest &= ndimage.map_coordinates(probability_HW, place, order=1) <= _LEAD * probability_HW
    strength: Floats = np.where(crest, probability_HW, 0.0) * _fade(height)[:, None] * _fade(width)
    return strength


def _gradient(values: Floats) -> tuple[Floats, Floats]:
    """Central differences along y and x, one-sided at the border."""
    along_y, along_x = (
        np.gradient(values, axis=axis) if values.shape[axis] > 1 else np.zeros_like(values) for axis in (0, 1)
    )
    return along_y, along_x


def _fade(length: int) -> Floats:
    border = min(_FADED_BORDER, length // 2)
    from_end = np.minimum(np.arange(length), np.arange(length)[::-1])
    faded: Floats = np.minimum(from_end / max(border, 1), 1.0)
    return faded
