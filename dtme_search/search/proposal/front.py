"""Fronts of (gain, price) pairs, and how far one more plan is expected to push them.

A gain should be high and is uncertain before training. A price (overhead, FLOPs, latency, step cost) should
be low and is known before training. That is why the expected hypervolume improvement, in general an integral
over two dimensions (Emmerich et al., 2006), is an exact sum of one-dimensional expected improvements here
[ours].
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

Array = NDArray[np.float64]
Rows = NDArray[np.intp]
"""Numbers of rows."""


def front(gains: Array, prices: Array) -> Rows:
    """Rows that no other row dominates, by ascending price; the first of equal pairs.

    Example:
        >>> front(np.array([1.0, 3.0, 2.0]), np.array([0.0, 1.0, 2.0])).tolist()
        [0, 1]
    """
    rows, best = [], -np.inf
    for row in np.lexsort((-gains, prices)):
        if gains[row] > best:
            rows.append(row)
            best = gains[row]
    return np.array(rows, dtype=np.intp)


def hypervolume(gains: Array, prices: Array, reference: tuple[float, float]) -> float:
    """Area that the pairs dominate, up to the ``reference`` (lowest gain, highest price) that counts.

    Example:
        >>> hypervolume(np.array([1.0, 3.0]), np.array([0.0, 1.0]), (0.0, 2.0))
        4.0
    """
    total, best = 0.0, reference[0]
    for row in front(gains, prices):
        if gains[row] > best and prices[row] <= reference[1]:
            total += float((gains[row] - best) * (reference[1] - prices[row]))
            best = gains[row]
    return total


def expected_improvement(mean: Array, deviation: Array, level: float) -> Array:
    """Mean of ``max(0, y - level)`` for normal ``y``; deviations above 0."""
    u = (mean - level) / deviation
    improvement: Array = deviation * (u * ndtr(u) + np.exp(-0.5 * u * u) / np.sqrt(2 * np.pi))
    return improvement


def expected_hypervolume_improvement(
    mean: Array, deviation: Array, prices: Array, reached: tuple[Array, Array], reference: tuple[float, float]
) -> Array:
    """By how much a plan is expected to enlarge the hypervolume reached so far, for each of n plans.

    Between two neighbours on the front the height to beat is constant. So the improvement is the sum, over
    the stretches to the right of the plan's price, of width times expected improvement over the height.

    Args:
        mean: Expected gain, shape (n,); ``deviation`` above 0, likewise.
        prices: Known prices, shape (n,).
        reached: Gains and prices of what counts as reached, shape (m,) each.
        reference: Lowest gain and highest price that count.

    Example:
        >>> sure, reached = np.array([1e-9]), (np.array([1.0]), np.array([1.0]))
        >>> grown = expected_hypervolume_improvement(sure + 2, sure, 0 * sure, reached, (0.0, 3.0))
        >>> round(float(grown[0]), 6)
        4.0
    """
    gains, costs = reached
    rows = front(gains, costs)
    edges = np.concatenate([[-np.inf], costs[rows], [np.inf]])
    heights = np.maximum(np.concatenate([[reference[0]], gains[rows]]), reference[0])
    total = np.zeros(len(mean))
    for left, right, height in zip(edges[:-1], edges[1:], heights, strict=True):
        width = np.minimum(right, reference[1]) - np.maximum(left, prices)
        here = width > 0
        if here.any():
            total[here] += width[here] * expected_improvement(mean[here], deviation[here], float(height))
    return total
