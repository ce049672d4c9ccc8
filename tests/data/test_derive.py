"""Normals of known planes, edges of hand-made label maps."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import ndimage

from dtme_search.data.derive import Camera, edges_from_labels, normals_from_depth

SIZE = (120, 160)
CAMERA = Camera(focal_x=259.4, focal_y=259.7, centre_x=80.0, centre_y=60.0)
EIGHT = np.ones((3, 3))


def unit(vector):
    return np.array(vector) / np.linalg.norm(vector)


def plane_depth(normal, distance, size=SIZE, camera=CAMERA):
    """Depth at which the ray of each pixel meets the plane ``normal . point = -distance``."""
    v, u = np.mgrid[: size[0], : size[1]] + 0.5
    ray = [(u - camera.centre_x) / camera.focal_x, (v - camera.centre_y) / camera.focal_y, np.ones(size)]
    return -distance / sum(n * r for n, r in zip(normal, ray, strict=True))


def errors(normals, truth):
    """Angle in degrees at each pixel."""
    return np.degrees(2 * np.arctan2(*[np.linalg.norm(normals + s * truth, axis=-1) for s in (-1, 1)]))


def everywhere(depth):
    return np.ones(depth.shape, dtype=bool)


# ---- normals


@pytest.mark.parametrize("normal", [(0, 0, -1), (1, 0, -1), (-2, 0, -1), (0, -1, -0.5), (0.3, 0.8, -0.9)])
@pytest.mark.parametrize("distance", [0.5, 2.0])
def test_an_exact_plane_gives_its_normal(normal, distance):
    depth = plane_depth(unit(normal), distance)
    assert (depth > 0).all()
    normals, valid = normals_from_depth(depth, everywhere(depth), CAMERA)
    assert valid.all()
    assert errors(normals, unit(normal)).max() < 0.1


@pytest.mark.parametrize("normal", [(0, 0, -1), (1, 0, -1), (-1.5, 0.2, -1), (0.1, -1, -0.6)])
@pytest.mark.parametrize("distance", [1.0, 2.5])
def test_rounding_to_16_mm_costs_little(normal, distance):
    depth = 0.016 * np.rint(plane_depth(unit(normal), distance) / 0.016)
    normals, valid = normals_from_depth(depth, everywhere(depth), CAMERA, depth_step=0.016)
    error = errors(normals, unit(normal))[valid]
    assert valid.mean() > 0.99
    assert error.mean() < 1 and error.max() < 3


def test_sensor_noise_is_averaged_out():
    truth = unit((0.5, -0.3, -1))
    noise = 1.5e-3 * np.random.default_rng(0).normal(size=SIZE)
    depth = 1 / (1 / plane_depth(truth, 2.5) + noise)
    normals, valid = normals_from_depth(depth, everywhere(depth), CAMERA)
    error = errors(normals, truth)
    # Neighbours alone would be off by tens of degrees: the step between two pixels is 11 mm, the noise 10 mm.
    assert error.mean() < 1.5
    assert valid.mean() > 0.99


def test_a_floor_and_a_wall_do_not_blend_at_their_crease():
    floor, wall = unit((0, -1, 0)), unit((0, 0, -1))
    far = 1e3
    with np.errstate(divide="ignore"):
        floor_depth = plane_depth(floor, 1.0)
    depth = np.minimum(np.where(floor_depth > 0, floor_depth, far), plane_depth(wall, 5.5))
    normals, _ = normals_from_depth(depth, everywhere(depth), CAMERA)
    crease = int(np.argmax(depth[:, 0] < 5.5))
    rows = np.arange(SIZE[0])
    assert errors(normals, wall)[rows < crease - 4].max() < 2
    assert errors(normals, floor)[rows >= crease + 4].max() < 3


@pytest.mark.parametrize("half", [(20, 30), (5, 6)])
def test_a_near_box_of_any_size_and_the_wall_behind_it_keep_their_normals(half):
    wall, box = unit((0.4, 0, -1)), unit((-0.5, 0, -1))
    depth = plane_depth(wall, 3.0)
    inside = np.zeros(SIZE, dtype=bool)
    inside[60 - half[0] : 60 + half[0], 80 - half[1] : 80 + half[1]] = True
    depth[inside] = plane_depth(box, 1.0)[inside]
    normals, valid = normals_from_depth(depth, everywhere(depth), CAMERA)
    truth = np.where(inside[..., None], box, wall)
    error = errors(normals, truth)
    assert error[valid].max() < 3
    assert valid.mean() > 0.99 and valid[inside].mean() > 0.8


def test_a_pixel_that_no_plane_explains_does_not_count():
    depth = plane_depth(unit((0, 0, -1)), 2.0)
    depth[60, 80] = 1.2
    _, valid = normals_from_depth(depth, everywhere(depth), CAMERA)
    assert np.argwhere(~valid).tolist() == [[60, 80]]


def test_unmeasured_pixels_do_not_count_and_do_not_matter():
    truth = unit((0.7, 0.2, -1))
    depth = plane_depth(truth, 2.0)
    valid = np.random.default_rng(1).random(SIZE) < 0.7
    valid[:, 100:130] = False
    for filler in (0.0, np.nan, 17.0):
        normals, fits = normals_from_depth(np.where(valid, depth, filler), valid, CAMERA)
        np.testing.assert_array_equal(fits, valid)
        assert errors(normals, truth)[fits].max() < 0.1
        assert not normals[~fits].any()


def test_too_few_neighbours_give_no_normal():
    depth = np.full(SIZE, 2.0)
    valid = np.zeros(SIZE, dtype=bool)
    valid[10, 10] = valid[60, :] = True
    normals, fits = normals_from_depth(depth, valid, CAMERA)
    assert not fits.any() and not normals.any()


def test_normals_are_unit_vectors_towards_the_camera():
    depth = ndimage.gaussian_filter(np.random.default_rng(2).uniform(1, 4, SIZE), 3)
    normals, valid = normals_from_depth(depth, everywhere(depth), CAMERA)
    assert normals.dtype == np.float32 and valid.mean() > 0.5
    np.testing.assert_allclose(np.linalg.norm(normals[valid], axis=-1), 1, atol=1e-6)
    x, y = CAMERA.rays(*SIZE)
    towards = normals[..., 0] * x + normals[..., 1] * y + normals[..., 2]
    assert towards[valid].max() < 0


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (9, 200)])
def test_images_smaller_than_a_window_pass(size):
    """A window needs a fifth of its 7x7 pixels inside the image."""
    depth = np.full(size, 2.0)
    normals, valid = normals_from_depth(depth, everywhere(depth), CAMERA)
    assert normals.shape == (*size, 3)
    assert valid.all() == (size == (9, 200))


def test_a_larger_picture_gives_the_same_normals():
    truth = unit((0.6, 0.1, -1))
    camera = Camera(*(2 * number for number in (259.4, 259.7, 80.0, 60.0)))
    depth = plane_depth(truth, 2.0, (240, 320), camera)
    depth += np.random.default_rng(3).normal(0, 0.004, depth.shape)
    normals, valid = normals_from_depth(depth, everywhere(depth), camera)
    assert errors(normals, truth)[valid].mean() < 0.6


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"one shape \(H, W\), got \(4, 5\) and \(5, 4\)"):
        normals_from_depth(np.ones((4, 5)), np.ones((5, 4), dtype=bool), CAMERA)


# ---- edges


def drawn(*rows):
    """Label map from digits, '.' for unlabelled."""
    return np.array([[0 if c == "." else int(c) for c in row] for row in rows])


def picture(mask):
    return ["".join("#" if pixel else "-" for pixel in row) for row in mask]


def test_two_touching_regions_share_one_line():
    edge, valid = edges_from_labels(drawn("111222", "111222", "111222"), crack_radius=1)
    assert picture(edge) == ["--#---"] * 3
    assert valid.all()
    assert edge.dtype == np.uint8


@pytest.mark.parametrize("width", [1, 2])
def test_a_crack_becomes_one_line(width):
    labels = drawn(*["111" + "." * width + "222"] * 5)
    edge, valid = edges_from_labels(labels, crack_radius=1)
    assert (edge.sum(axis=1) == 1).all() and valid.all()
    assert edge[:, 2 : 3 + width].sum() == 5


def test_a_crack_within_one_class_separates_two_objects():
    edge, valid = edges_from_labels(drawn(*["333.333"] * 4), crack_radius=1)
    assert (edge.sum(axis=1) == 1).all() and valid.all()


def test_a_crack_that_ends_inside_an_object_is_no_edge():
    edge, valid = edges_from_labels(drawn("333.333", "333.333", "3333333", "3333333"), crack_radius=1)
    assert not edge.any() and valid.all()


def test_a_wide_unlabelled_area_has_an_outline_and_an_unknown_inside():
    labels = np.ones((12, 14), dtype=int)
    labels[3:9, 4:11] = 0
    edge, valid = edges_from_labels(labels, crack_radius=1)
    assert edge.any() and not valid.all()
    assert not valid[5:8, 6:10].any()
    assert valid[[0, 1, 10, 11]].all()
    assert ndimage.label(edge, EIGHT)[1] == 1, "one closed outline"
    # Walking from the inside never reaches the outside without crossing the outline.
    assert ndimage.label(~edge.astype(bool))[1] == 2


def test_the_radius_decides_what_is_a_crack():
    labels = drawn(*["1111....2222"] * 8)
    assert edges_from_labels(labels, crack_radius=1)[0].sum(axis=1).tolist() == [2] * 8
    assert edges_from_labels(labels, crack_radius=2)[0].sum(axis=1).tolist() == [1] * 8
    assert edges_from_labels(drawn("1.2", "1.2"), crack_radius=0)[0].any()


def test_an_unlabelled_strip_along_the_frame_makes_no_edge():
    labels = np.zeros((10, 12), dtype=int)
    labels[1:9, 1:11] = 4
    edge, valid = edges_from_labels(labels, crack_radius=1)
    assert not edge.any() and valid.all()


def test_specks_are_dropped():
    labels = np.ones((8, 8), dtype=int)
    labels[3, 3:5] = 2
    assert edges_from_labels(labels, 1, smallest_region=1)[0].any()
    edge, valid = edges_from_labels(labels, 1, smallest_region=3)
    assert not edge.any() and valid.all()


def test_nothing_labelled_is_nothing_known():
    edge, valid = edges_from_labels(np.zeros((5, 6), dtype=np.uint8), crack_radius=2)
    assert not edge.any() and not valid.any()


def test_labels_that_are_no_ids_are_refused():
    with pytest.raises(ValueError, match=r"labels must be integers of shape \(H, W\), got float64 \(3, 3\)"):
        edges_from_labels(np.zeros((3, 3)), 1)
    with pytest.raises(ValueError, match=r"crack_radius must be at least 0, got -1"):
        edges_from_labels(np.zeros((3, 3), int), -1)


@settings(deadline=None, max_examples=60)
@given(arrays.arrays(np.uint8, st.tuples(st.integers(1, 14), st.integers(1, 14)), elements=st.integers(0, 3)))
def test_lines_are_one_pixel_wide_whatever_the_labels(labels):
    edge, valid = edges_from_labels(labels, crack_radius=1)
    full = edge[:-1, :-1] & edge[1:, :-1] & edge[:-1, 1:] & edge[1:, 1:]
    # A filled 2x2 square can only stay where four lines or more meet.
    assert full.sum() <= edge.sum() / 4
    assert valid[edge == 1].all()
    assert valid[labels > 0].all()
