"""Colours: apart for every eye, and labels painted so that what has none is seen."""

from __future__ import annotations

import numpy as np
import pytest

from dtme_search.reporting.colours import (
    INVALID_COLOURS,
    SERIES,
    class_colours,
    colour_distances,
    paint,
    rgb,
    stripes,
    value_limits,
)
from dtme_search.tasks import TaskSpec, depth, edge, normals, semseg

JUST_SEEN = 0.02
"""Difference in OKLab at which two patches side by side begin to differ."""


def smallest(colours) -> float:
    apart = colour_distances(colours, colours)
    np.fill_diagonal(apart, np.inf)
    return apart.min()


@pytest.mark.parametrize(("count", "times"), [(13, 2.5), (21, 2.5), (40, 2), (60, 1.5)])
def test_classes_stay_apart_for_every_eye(count, times):
    colours = class_colours(count)
    assert colours.shape == (count, 3) and colours.dtype == np.uint8
    assert smallest(colours) > times * JUST_SEEN
    assert colour_distances(colours, INVALID_COLOURS).min() > times * JUST_SEEN


def test_a_class_keeps_its_colour_when_others_join():
    assert (class_colours(40)[:13] == class_colours(13)).all()
    assert class_colours(0).shape == (0, 3) and class_colours(3).tolist() == [
        *map(list, map(rgb, SERIES[:3]))
    ]


def test_series_are_told_apart():
    assert smallest([rgb(colour) for colour in SERIES]) > 3 * JUST_SEEN


def test_simulated_sight_confuses_red_and_green_alone():
    assert colour_distances([[0, 0, 0]], [[255, 255, 255]])[0, 0] == pytest.approx(1, abs=1e-3)
    # Chosen on the confusion line of deuteranopia: far apart for others.
    red_green = colour_distances([[160, 82, 45]], [[107, 107, 35]])[0, 0]
    assert red_green < 0.05 < colour_distances([[160, 82, 45]], [[45, 82, 160]])[0, 0]


def test_classes_and_what_has_no_label():
    spec = semseg(("wall", "floor", "bed"))
    label = np.array([[0, 1, 2], [255, 1, 0]], dtype=np.uint8)
    valid = label != 255
    picture = paint(spec, label, valid)
    assert (picture[valid] == class_colours(3)[label[valid]]).all()
    assert (picture[1, 0] == stripes((2, 3))[1, 0]).all()


def test_distances_run_from_dark_to_light_between_the_limits():
    label = np.linspace(1.0, 5.0, 50, dtype=np.float32)[None].repeat(20, axis=0)
    lightness = paint(depth(), label, limits=(2.0, 4.0)).astype(float).mean(axis=-1)[0]
    assert (np.diff(lightness) >= -0.5).all() and lightness[0] == lightness[12] < 90 < lightness[-1]
    assert (paint(depth(), label)[0, 0] != paint(depth(), label)[0, -1]).any()


def test_limits_ignore_outliers_and_what_does_not_count():
    values = np.linspace(1.0, 2.0, 1000).reshape(10, 100)
    valid = np.ones_like(values, dtype=bool)
    values[0, 0], valid[0, 1], values[0, 1], values[0, 2] = 100.0, False, 1e9, np.nan
    low, high = value_limits(values, valid)
    assert 1.0 <= low < 1.05 and 1.95 < high <= 2.0
    assert value_limits(values, np.zeros_like(valid)) == (0.0, 1.0)
    assert value_limits(np.full((2, 2), 3.0), np.ones((2, 2), bool)) == (3.0, 4.0)


@pytest.mark.parametrize(
    ("normal", "colour"),
    [([0, 0, -1], (128, 128, 255)), ([1, 0, 0], (255, 128, 128)), ([0, -1, 0], (128, 255, 128))],
    ids=["faces the camera", "looks right", "looks up"],
)
def test_normals_have_the_colours_of_their_directions(normal, colour):
    painted = paint(normals(), np.array([[normal]], dtype=np.float32))[0, 0]
    assert np.abs(painted.astype(int) - colour).max() <= 1


def test_masks_are_ink_on_paper():
    soft = np.array([[0.0, 0.5, 1.0]], dtype=np.float32)
    assert paint(edge(), soft)[0, :, 0].tolist() == [255, 128, 0]
    assert paint(edge(), np.array([[0, 1]], dtype=np.uint8))[0, :, 0].tolist() == [255, 0]


def test_values_of_several_channels_show_their_length():
    spec = TaskSpec("flow", 2, "values", "l1", "rmse", "m", False)
    label = np.array([[[3.0, 4.0], [5.0, 0.0], [0.0, 0.0]]], dtype=np.float32)
    picture = paint(spec, label)
    assert (picture[0, 0] == picture[0, 1]).all() and (picture[0, 0] != picture[0, 2]).any()


def test_what_does_not_count_is_striped_not_one_flat_colour():
    picture = paint(depth(), np.ones((16, 16), np.float32), np.zeros((16, 16), bool))
    assert {tuple(pixel) for pixel in picture.reshape(-1, 3)} == set(INVALID_COLOURS)
