"""Labels that are made smaller: by hand, and what must hold for any label and any size."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import label as components

from dtme_search.data.batches.resizing import crossed_cells, resize_label
from dtme_search.tasks import TaskSpec, depth, edge, normals, regression, sal, semseg

CLASSES = semseg(("a", "b", "c", "d"))
REGION = TaskSpec("region", 1, "mask", "batch_balanced_bce", "iou", "fraction", True)
EIGHT = np.ones((3, 3))


def resized(label, spec, size, valid=None, how="area"):
    label = np.asarray(label)
    label = label[..., None] if label.ndim == 2 else label
    counts = np.ones(label.shape[:2], bool) if valid is None else np.asarray(valid, bool)
    return resize_label(label, counts, spec, size, how)


def test_classes_by_majority():
    """Left cell: three of class 2; right cell: a tie of 0 and 3, which the pixel at its centre decides."""
    label = np.array([[2, 2, 0, 3], [2, 1, 0, 3]], np.uint8)
    found, counts = resized(label, CLASSES, (1, 2))
    assert found[..., 0].tolist() == [[2, 3]] and counts.all() and found.dtype == np.uint8


def test_pixels_that_do_not_count_have_no_vote():
    label, valid = np.array([[1, 3, 3, 3]], np.uint8), [[True, False, False, False]]
    found, counts = resized(label, CLASSES, (1, 1), valid)
    assert not counts.any()  # one of four: too few
    found, counts = resized(label[:, :2], CLASSES, (1, 1), [[True, False]])
    assert found[0, 0, 0] == 1 and counts.all()


def test_numbers_are_means_of_what_counts():
    label = np.array([[1.0, 3.0, 5.0, np.inf]], np.float32)
    found, counts = resized(label, depth(), (1, 2), np.isfinite(label))
    assert found[..., 0].tolist() == [[2.0, 5.0]] and counts.all()


def test_normals_keep_length_1_and_opposed_ones_have_no_mean():
    label = np.array([[[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, -1]]], np.float32)
    found, counts = resized(label, normals(), (1, 2))
    assert found[0, 0] == pytest.approx([0.5**0.5, 0.5**0.5, 0.0]) and counts.tolist() == [[True, False]]


def test_nearest_is_what_published_pipelines_do():
    label = np.arange(16, dtype=np.float32).reshape(4, 4)
    found, _ = resized(label, depth(), (2, 2), how="nearest")
    assert found[..., 0].tolist() == [[5.0, 7.0], [13.0, 15.0]]


sizes = st.tuples(st.integers(4, 60), st.integers(4, 60))


@st.composite
def shrinking(draw):
    before = draw(sizes)
    return before, (draw(st.integers(1, before[0])), draw(st.integers(1, before[1])))


@given(shrinking(), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_a_line_stays_in_one_piece(both, seed):
    before, size = both
    generator = np.random.default_rng(seed)
    ends = np.stack([generator.integers(0, side, 2) for side in before], axis=1)
    steps = max(abs(ends[1] - ends[0]).max(), 1) + 1
    rows, columns = (np.rint(np.linspace(*ends[:, axis], steps)).astype(int) for axis in (0, 1))
    line = np.zeros(before, np.uint8)
    line[rows, columns] = 1
    found, counts = resized(line, edge(), size)
    assert components(found[..., 0], EIGHT)[1] == 1 and counts.all()
    # Nowhere but where it passes.
    assert not (found[..., 0].astype(bool) & ~crossed_cells(line > 0, size)).any()


@given(shrinking(), st.sampled_from([CLASSES, REGION, sal(), depth(), normals(), regression("x", 2)]))
@settings(max_examples=60, deadline=None)
def test_a_constant_stays_what_it_is(both, spec):
    before, size = both
    value = {"classes": [3], "mask": [1], "normals": [0, 0.6, -0.8]}.get(spec.kind, [2.5] * spec.channels)
    kind = np.uint8 if spec.kind in ("classes", "mask") else np.float32
    label = np.broadcast_to(np.array(value, kind), (*before, len(value)))
    found, counts = resized(label, spec, size)
    assert counts.all() and found.shape == (*size, len(value)) and found.dtype == kind
    assert np.allclose(found, np.array(value), atol=1e-6)


@given(shrinking(), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_what_does_not_count_is_never_a_value(both, seed):
    before, size = both
    generator = np.random.default_rng(seed)
    valid = generator.random(before) < 0.7
    label = np.where(valid, generator.integers(0, 3, before), 3).astype(np.uint8)
    found, counts = resized(label, CLASSES, size, valid)
    assert not (found[..., 0][counts] == 3).any()
    numbers = np.where(valid, 1.0, np.nan).astype(np.float32)
    found, counts = resized(numbers, depth(), size, valid)
    assert np.allclose(found[..., 0][counts], 1.0)


@given(sizes, st.integers(0, 2**32 - 1), st.sampled_from([CLASSES, edge(), depth(), normals()]))
@settings(max_examples=40, deadline=None)
def test_the_same_size_changes_nothing(size, seed, spec):
    """Lines are thinned all the same: what is one pixel wide stays."""
    generator = np.random.default_rng(seed)
    label = generator.integers(0, 3, size).astype(np.uint8)
    if spec.kind == "mask":
        label = np.eye(*size, dtype=np.uint8)
    if spec.kind in ("distance", "normals"):
        values = generator.normal(size=(*size, spec.channels))
        label = (values / np.linalg.norm(values, axis=-1, keepdims=True)).astype(np.float32)
    found, counts = resized(label, spec, size)
    assert counts.all() and np.allclose(found.reshape(label.shape), label, atol=1e-6)
