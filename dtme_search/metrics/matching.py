"""One-to-one matching of predicted and true edge pixels within a distance, for many thresholds in turn.

Shapes: H height, W width, E pairs of pixels that may be matched.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Bools = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.intp]

_NOBODY = -1


class Neighbours:
    """Which pixels may be matched: lists of neighbours in one array, as in a sparse matrix.

    Args:
        owners: One end of every pair, sorted, shape (E,).
        others: The other end, shape (E,).
        num_owners: Number of possible owners.
    """

    def __init__(self, owners: Indices, others: Indices, num_owners: int) -> None:
        self._others = others
        self._counts = np.bincount(owners, minlength=num_owners)
        self._starts = np.cumsum(self._counts) - self._counts

    def of(self, owners: Indices) -> tuple[Indices, Indices]:
        """All pairs of some owners: each owner repeated once per neighbour, and the neighbours."""
        counts = self._counts[owners]
        first = np.cumsum(counts) - counts
        places = np.repeat(self._starts[owners] - first, counts) + np.arange(counts.sum())
        return np.repeat(owners, counts), self._others[places]


class Matcher:
    """Largest one-to-one matching between the true pixels and a changing set of predicted ones.

    The size is that of a maximum matching and does not depend on how it is found. It is found by augmenting
    paths (Hopcroft and Karp, SIAM J. Comput. 1973) that grow from all unmatched pixels of the smaller side at
    once, each tree ending at its first unmatched pixel of the other side, as in the parallel algorithm of
    Azad, Buluc and Pothen (IPDPS 2015). Each matching starts from the previous one, which makes a hundred
    thresholds per image affordable.

    Args:
        true_pixels: Flat positions of the true pixels in the image, different ones.
        candidates: Flat positions of all pixels that are ever predicted, different ones.
        shape: Height and width of the image.
        radius: Largest Euclidean distance of a match in pixels.
    """

    def __init__(
        self, true_pixels: Indices, candidates: Indices, shape: tuple[int, int], radius: float
    ) -> None:
        true, predicted = _pairs_within(true_pixels, candidates, shape, radius)
        by_predicted = np.argsort(predicted, kind="stable")
        self._of_true = Neighbours(true, predicted, len(true_pixels))
        self._of_predicted = Neighbours(predicted[by_predicted], true[by_predicted], len(candidates))
        self._true_reachable = np.zeros(len(true_pixels), dtype=np.bool_)
        self._true_reachable[true] = True
        self._predicted_reachable = np.zeros(len(candidates), dtype=np.bool_)
        self._predicted_reachable[predicted] = True
        self._mate_of_true = np.full(len(true_pixels), _NOBODY)
        self._mate_of_predicted = np.full(len(candidates), _NOBODY)

    def match(self, present: Bools) -> int:
        """Number of matches when the candidates of ``present`` are the predicted pixels.

        Args:
            present: Which candidates are predicted, shape (number of candidates,).
        """
        gone = np.flatnonzero(~present & (self._mate_of_predicted != _NOBODY))
        self._mate_of_true[self._mate_of_predicted[gone]] = _NOBODY
        self._mate_of_predicted[gone] = _NOBODY
        all_true = np.ones(len(self._mate_of_true), dtype=np.bool_)
        while True:
            free_true = np.flatnonzero((self._mate_of_true == _NOBODY) & self._true_reachable)
            free_predicted = np.flatnonzero(
                present & (self._mate_of_predicted == _NOBODY) & self._predicted_reachable
            )
            if len(free_true) < len(free_predicted):
                grown = _augment(
                    free_true, self._of_true, self._mate_of_true, self._mate_of_predicted, present
                )
            else:
                grown = _augment(
                    free_predicted,
                    self._of_predicted,
                    self._mate_of_predicted,
                    self._mate_of_true,
                    all_true,
                )
            if not grown:
                return int((self._mate_of_true != _NOBODY).sum())


def _augment(
    roots: Indices, neighbours: Neighbours, mate: Indices, mate_of_other: Indices, usable: Bools
) -> int:
    """Extend the matching along disjoint paths from ``roots``, the unmatched pixels of one side.

    Args:
        roots: Where paths start.
        neighbours: Of this side.
        mate: Of every pixel of this side; changed in place.
        mate_of_other: Of every pixel of the other side; changed in place.
        usable: Which pixels of the other side are present.

    Returns:
        Number of paths found; 0 only if there is none.
    """
    parent = np.where(usable, _NOBODY, 0)  # of the other side; a pixel with a parent is not visited again
    root = np.full(len(mate), _NOBODY)
    root[roots] = roots
    end = np.full(len(mate), _NOBODY)  # by root
    tips = roots
    while len(tips):
        sources, reached = neighbours.of(tips)
        new = parent[reached] == _NOBODY
        sources, reached = sources[new], reached[new]
        # If several tips reach one pixel, one of them keeps it.
        parent[reached] = sources
        kept = parent[reached] == sources
        sources, reached = sources[kept], reached[kept]
        partners = mate_of_other[reached]
        unmatched = partners == _NOBODY
        end[root[sources[unmatched]]] = reached[unmatched]
        tips = partners[~unmatched]
        root[tips] = root[sources[~unmatched]]
        tips = tips[end[root[tips]] == _NOBODY]
    ends = end[roots]
    ends = ends[ends != _NOBODY]
    walking = ends
    while len(walking):
        sources = parent[walking]
        before = mate[sources]
        mate[sources], mate_of_other[walking] = walking, sources
        walking = before[before != _NOBODY]
    return len(ends)


def _pairs_within(
    true_pixels: Indices, candidates: Indices, shape: tuple[int, int], radius: float
) -> tuple[Indices, Indices]:
    """All pairs of a true pixel and a candidate within ``radius``, as two arrays (E,) sorted by the first."""
    reach = math.floor(radius)
    row = shape[1] + 2 * reach
    number = np.full((shape[0] + 2 * reach) * row, _NOBODY, dtype=np.int32)

    def padded(pixels: Indices) -> Indices:
        y, x = np.divmod(pixels, shape[1])
        return (y + reach) * row + x + reach

    number[padded(candidates)] = np.arange(len(candidates))
    steps = np.arange(-reach, reach + 1)
    dy, dx = np.meshgrid(steps, steps, indexing="ij")
    inside = dy * dy + dx * dx <= radius * radius
    found = number[padded(true_pixels)[:, None] + (dy * row + dx)[inside]]
    true, place = np.nonzero(found != _NOBODY)
    return true, found[true, place].astype(np.intp)
