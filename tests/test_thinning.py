"""Thinning of lines: what stays of them, for labels and for metrics alike."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import ndimage

from dtme_search.thinning import thin

EIGHT = np.ones((3, 3))


def thin_plainly(mask):
    """The same rule, as the paper writes it: every pixel is looked at in every pass."""
    padded = np.pad(mask, 1)
    flat = padded.ravel()
    row = padded.shape[1]
    # The eight neighbours clockwise from the upper one; p1..p8 here are the paper's p2..p9.
    around = np.array([-row, -row + 1, 1, row + 1, row, row - 1, -1, -row - 1])
    changed = True
    while changed:
        changed = False
        for first_pass in (True, False):
            pixels = np.flatnonzero(flat)
            p1, p2, p3, p4, p5, p6, p7, p8 = flat[pixels[None] + around[:, None]]
            components = (
                (~p1 & (p2 | p3)).astype(int) + (~p3 & (p4 | p5)) + (~p5 & (p6 | p7)) + (~p7 & (p8 | p1))
            )
            pairs = (p8 | p1).astype(int) + (p2 | p3) + (p4 | p5) + (p6 | p7)
            other_pairs = (p1 | p2).astype(int) + (p3 | p4) + (p5 | p6) + (p7 | p8)
            neighbours = np.minimum(pairs, other_pairs)
            kept = ((p5 | p6 | ~p8) & p7) if first_pass else ((p1 | p2 | ~p4) & p3)
            removed = (components == 1) & (neighbours >= 2) & (neighbours <= 3) & ~kept
            flat[pixels[removed]] = False
            changed |= bool(removed.any())
    return flat.reshape(padded.shape)[1:-1, 1:-1].copy()


@pytest.mark.parametrize("seed", range(40))
def test_thinning_equals_thinning_all_pixels_in_every_pass(seed):
    rng = np.random.default_rng(seed)
    mask = rng.random(rng.integers(1, 40, 2)) < rng.random()
    if seed % 2:
        mask = ndimage.binary_dilation(mask, iterations=int(rng.integers(1, 5)))
    before = mask.copy()
    assert np.array_equal(thin(mask), thin_plainly(mask))
    assert np.array_equal(mask, before)


@settings(deadline=None, max_examples=100)
@given(arrays.arrays(np.bool_, st.tuples(st.integers(1, 16), st.integers(1, 16))))
def test_thinning_keeps_every_line_whole(mask):
    before = mask.copy()
    thinned = thin(mask)
    np.testing.assert_array_equal(mask, before)
    assert not (thinned & ~mask).any()
    parts, count = ndimage.label(mask, EIGHT)
    assert ndimage.label(thinned, EIGHT)[1] == count
    assert set(np.unique(parts[thinned])) == set(range(1, count + 1))
    np.testing.assert_array_equal(thin(thinned), thinned)


def test_a_bar_thins_to_a_line_and_a_line_stays():
    bar = np.zeros((9, 20), dtype=bool)
    bar[2:7, 2:18] = True
    line = thin(bar)
    assert (line.sum(axis=0) <= 1).all() and line.sum() >= 11
    diagonal = np.eye(12, dtype=bool)
    np.testing.assert_array_equal(thin(diagonal), diagonal)
