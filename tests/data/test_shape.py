"""What ``data check`` says of labels that lose their shape, and of masks that are scored as another thing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dtme_search.data.shape import added, notes_on, shape_of
from dtme_search.tasks import TaskSpec, depth, edge, semseg

MASK = TaskSpec("person", 1, "mask", "batch_balanced_bce", "iou", "fraction", True)
AS_LINE = replace(MASK, metric="edge_f")
SIZE = (12, 16)


def notes(label, spec, how="area", size=SIZE, times=3):
    valid = np.ones(label.shape, bool)
    return notes_on(added(shape_of(label, valid, spec, size, how) for _ in range(times)), spec, size)


def outline(size=(60, 80)):
    """The border of a rectangle, one pixel wide."""
    label = np.zeros(size, np.uint8)
    label[10:50, 10:70] = 1
    label[11:49, 11:69] = 0
    return label


def filled(size=(60, 80)):
    label = np.zeros(size, np.uint8)
    label[10:40, 10:60] = 1
    return label


def test_a_line_that_becomes_dots_is_told_and_one_that_stays_is_not():
    (note,) = notes(np.roll(outline(), 1, axis=(0, 1)), edge(), "nearest")
    assert note.startswith("edge: at 12x16 (data.image_size)") and "Set data.resize: area" in note
    assert notes(np.roll(outline(), 1, axis=(0, 1)), edge()) == []
    assert notes(outline(), edge(), "nearest", size=(60, 80)) == []  # nothing is made smaller


def test_lines_are_counted_by_hand():
    """A column of eight pixels passes four cells; nearest misses all of them."""
    label = np.zeros((8, 8), np.uint8)
    label[:, 2] = 1
    everywhere = np.ones_like(label, bool)
    kept = shape_of(label, everywhere, edge(), (4, 4), "area")
    assert (kept.crossed, kept.found, kept.pieces, kept.pieces_after) == (4, 4, 1, 1)
    lost = shape_of(label, everywhere, edge(), (4, 4), "nearest")
    assert (lost.crossed, lost.found, lost.pieces_after) == (4, 0, 0)


def test_a_thin_class_that_disappears_is_named():
    label = np.zeros((60, 80), np.uint8)
    label[:, 33] = 1  # a pole
    label[:, 50:] = 2
    (note,) = notes(label, semseg(("wall", "pole", "floor")))
    assert "most of the area is lost of pole (keeps 0 %)" in note and "Raise data.image_size" in note


@pytest.mark.parametrize(
    ("label", "spec", "words"),
    [
        (filled(), AS_LINE, "31 % of the pixels are set, but it is scored as a line (edge_f)"),
        (outline(), MASK, "one or two pixels wide, but it is scored by iou"),
        (filled(), MASK, None),
        (outline(), AS_LINE, None),
        (outline(), edge(), None),
        (np.zeros((60, 80), np.uint8), AS_LINE, None),
    ],
)
def test_masks_are_scored_as_what_they_are(label, spec, words):
    found = notes(label, spec, size=(60, 80))
    assert (found == []) if words is None else words in found[0]


def test_numbers_have_no_shape():
    assert notes(np.ones((60, 80), np.float32), depth()) == []
