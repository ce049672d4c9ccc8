"""The exact edge measure: each of its steps, cases worked by hand, and all of it against brute force."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from joblib.externals.loky import get_reusable_executor
from scipy import ndimage
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching

from dtme_search.data import derive
from dtme_search.metrics import OdsFMeter, ods
from dtme_search.metrics.boundaries import THRESHOLDS, count_boundaries, suppress_non_maxima
from dtme_search.metrics.matching import Matcher
from dtme_search.tasks import edge

SIZE = (120, 160)
"""Diagonal 200 pixels, so the tolerance of NYUD is 2.2 pixels."""


def measure(probability, truth, tolerance=0.011, valid=None):
    """odsF of a set of maps (N, H, W) or of one (H, W)."""
    meter = OdsFMeter(replace(edge(tolerance=tolerance), metric="ods_f"))
    probability, truth = (
        torch.as_tensor(np.asarray(maps)).view(-1, 1, *maps.shape[-2:]) for maps in (probability, truth)
    )
    valid = torch.ones_like(truth).bool() if valid is None else valid
    meter.update(probability.double().logit(eps=1e-9), truth.float(), valid)
    return meter.compute()


def lines(**heights):
    """Vertical lines away from the border: x20=0.9 is a line of probability 0.9 in column 20."""
    image = np.zeros(SIZE)
    for name, height in heights.items():
        image[10:110, int(name[1:])] = height
    return image


def random_maps(seed, height=22, width=27):
    """A noisy prediction and the outlines of random regions."""
    rng = np.random.default_rng(seed)
    centres = rng.random((6, 2)) * (height, width)
    y, x = np.indices((height, width))
    nearest = ((y[..., None] - centres[:, 0]) ** 2 + (x[..., None] - centres[:, 1]) ** 2).argmin(-1)
    truth = np.zeros((height, width), bool)
    truth[:, :-1] |= nearest[:, :-1] != nearest[:, 1:]
    truth[:-1] |= nearest[:-1] != nearest[1:]
    shifted = np.roll(truth, rng.integers(-2, 3, 2), (0, 1)).astype(float)
    noise = rng.normal(size=truth.shape)
    probability = 2.5 * ndimage.gaussian_filter(shifted, 0.8) + ndimage.gaussian_filter(noise, rng.random())
    return np.clip(0.8 * probability, 0, 1), truth


# Brute force: every step the plain way, pixel by pixel and pair by pair.


def suppressed_pixel_by_pixel(probability):
    height, width = probability.shape
    kernel = np.outer(*[[1, 2, 3, 4, 5, 4, 3, 2, 1]] * 2) / 625
    smooth = ndimage.convolve(probability, kernel, mode="reflect")
    d_y, d_x = np.gradient(smooth)
    d_yy, d_xx, d_xy = np.gradient(d_y)[0], np.gradient(d_x)[1], np.gradient(d_x)[0]
    kept = np.zeros_like(probability)
    for y in range(height):
        for x in range(width):
            angle = math.atan(d_yy[y, x] * np.sign(-d_xy[y, x]) / (d_xx[y, x] + 1e-5))
            rivals = [
                interpolated(probability, y + side * math.sin(angle), x + side * math.cos(angle))
                for side in (1, -1)
            ]
            if max(rivals) <= 1.01 * probability[y, x]:
                fade_y, fade_x = (min(i, n - 1 - i, 5) / 5 for i, n in ((y, height), (x, width)))
                kept[y, x] = probability[y, x] * fade_y * fade_x
    return kept


def interpolated(image, y, x):
    height, width = image.shape
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    top, left = min(int(y), height - 2), min(int(x), width - 2)
    y, x = y - top, x - left
    a, b, c, d = image[top : top + 2, left : left + 2].ravel()
    return (1 - y) * ((1 - x) * a + x * b) + y * ((1 - x) * c + x * d)


def matches_by_assignment(predicted, truth, radius):
    """The cheapest assignment in which leaving a pixel alone costs 100 times the largest distance."""
    here, there = np.argwhere(predicted), np.argwhere(truth)
    distance = np.linalg.norm(here[:, None] - there[None], axis=-1)
    alone = 100 * radius
    cost = np.full((len(here) + len(there),) * 2, alone)
    cost[: len(here), : len(there)] = np.where(distance <= radius, distance, 1e9)
    cost[len(here) :, len(there) :] = 0
    rows, columns = linear_sum_assignment(cost)
    return int(((rows < len(here)) & (columns < len(there))).sum())


def counts_by_brute_force(probability, truth, tolerance):
    radius = tolerance * math.hypot(*truth.shape)
    strength = suppressed_pixel_by_pixel(np.floor(255 * probability) / 255)
    thin_truth = derive.thin(truth)
    predicted, matched = [], []
    for threshold in THRESHOLDS:
        line = derive.thin(strength > threshold)
        predicted.append(int(line.sum()))
        matched.append(matches_by_assignment(line, thin_truth, radius))
    return int(thin_truth.sum()), predicted, matched


@pytest.mark.parametrize("seed", range(6))
def test_all_counts_equal_brute_force(seed):
    tolerance = (0.03, 0.06, 0.09)[seed % 3]  # 1 to 3.1 pixels
    probability, truth = random_maps(seed)
    codes = (255 * probability).astype(np.uint8)
    counts = count_boundaries(codes, truth, np.ones_like(truth), tolerance)
    num_true, predicted, matched = counts_by_brute_force(probability, truth, tolerance)
    assert counts.num_true == num_true > 0
    assert counts.predicted.tolist() == predicted
    assert counts.matched.tolist() == matched
    assert len(set(matched)) > 10  # not all or nothing


def test_the_measure_of_a_set_equals_brute_force():
    maps = [random_maps(seed) for seed in (10, 11, 12)]
    counts = [counts_by_brute_force(*each, 0.06) for each in maps]
    best = 0.0
    for index in range(len(THRESHOLDS)):
        matched = sum(count[2][index] for count in counts)
        precision = matched / max(sum(count[1][index] for count in counts), 1)
        recall = matched / sum(count[0] for count in counts)
        best = max(best, 2 * precision * recall / max(precision + recall, 1e-12))
    probability, truth = (np.stack(each) for each in zip(*maps, strict=True))
    assert measure(probability, truth, 0.06) == pytest.approx(best, rel=1e-12)
    assert 0.2 < best < 0.9


# The steps.


@pytest.mark.parametrize("seed", range(20))
def test_the_matching_is_the_largest_whatever_came_before(seed):
    rng = np.random.default_rng(seed)
    shape, radius = (20, 30), rng.uniform(0.5, 6)
    true_pixels, candidates = (
        np.sort(rng.choice(600, size=rng.integers(1, 150), replace=False)) for _ in range(2)
    )
    matcher = Matcher(true_pixels, candidates, shape, radius)
    for _ in range(6):
        present = rng.random(len(candidates)) < rng.random()
        here, there = (np.stack(np.divmod(each, shape[1]), -1) for each in (true_pixels, candidates[present]))
        near = np.linalg.norm(here[:, None] - there[None], axis=-1) <= radius
        largest = maximum_bipartite_matching(csr_array(near.astype(np.int8)))
        assert matcher.match(present) == int((largest >= 0).sum())


def test_every_chain_is_followed_to_its_end():
    # Each pixel could be matched at once with its right neighbour; then the last one must push all others.
    true_pixels, candidates = np.arange(0, 100), np.arange(1, 101)
    matcher = Matcher(true_pixels, candidates, (1, 200), 1.0)
    assert matcher.match(candidates > 1) == 99
    assert matcher.match(candidates > 0) == 100


@pytest.mark.parametrize("rise", [0.34, 0.5, 1.0, 3.0, -0.5, -2.0])
def test_suppression_leaves_the_crest_of_a_soft_line(rise):
    y, x = np.mgrid[:80.0, :80.0]
    distance = (y - 40 - rise * (x - 40)) / math.hypot(1, rise)
    kept = suppress_non_maxima(np.exp(-(distance**2) / 18))[15:65, 15:65] > 0
    assert np.abs(distance[15:65, 15:65][kept]).max() < 1.1
    across = 0 if abs(rise) < 1 else 1
    crossings = kept.sum(across)[np.abs(distance[15:65, 15:65]).min(across) < 0.75]
    assert crossings.min() >= 1 and crossings.max() <= 3


def test_the_outer_pixels_fade():
    kept = suppress_non_maxima(np.full((20, 30), 0.5))
    assert kept[10, :7] == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.5])
    assert kept[10, ::-1] == pytest.approx(kept[10])
    assert kept[:7, 15] == pytest.approx(kept[10, :7])
    assert kept[2, 3] == pytest.approx(0.5 * 2 / 5 * 3 / 5)


# Cases worked by hand.


@pytest.mark.parametrize(
    ("shift", "tolerance", "expected"),
    [(0, 0.011, 1.0), (2, 0.011, 1.0), (3, 0.011, 0.0), (1, 0.0075, 1.0), (2, 0.0075, 0.0)],
)
def test_a_shift_below_the_tolerance_costs_nothing_and_one_above_it_everything(shift, tolerance, expected):
    truth = lines(x40=1.0, x90=1.0)
    assert measure(np.roll(0.9 * truth, shift, axis=1), truth, tolerance) == expected


def test_any_outline_shifted_by_less_than_the_tolerance_is_perfect():
    truth = np.zeros((5, *SIZE))
    rng = np.random.default_rng(0)
    for image in truth:
        top, left = rng.integers(10, 60, 2)
        box = np.zeros(SIZE, bool)
        box[top : top + 40, left : left + 70] = True
        image[box & ~ndimage.binary_erosion(box)] = 1
    assert measure(np.roll(truth, (1, -1), (1, 2)), truth) == 1.0


def test_half_right():
    # One of two predicted lines is right, the only true line is found: P 1/2, R 1, F 2/3.
    assert measure(lines(x40=0.9, x90=0.9), lines(x40=1.0)) == pytest.approx(2 / 3)


def test_matching_is_one_to_one():
    # Both lines lie within the tolerance of the only true one.
    assert measure(lines(x39=0.9, x41=0.9), lines(x40=1.0)) == pytest.approx(2 / 3)
    # Every second pixel of a line is no line: P 1, R 1/2.
    dots = lines(x40=0.9)
    dots[::2] = 0
    assert measure(dots, lines(x40=1.0)) == pytest.approx(2 / 3)


def test_one_threshold_serves_the_whole_set():
    # Per image the right line could be kept alone; for both, either one of two is right above 0.4 (P 1/2,
    # R 1/2), or all lines are there (P 1/2, R 1).
    probability = np.stack([lines(x40=0.9, x90=0.4), lines(x40=0.4, x90=0.9)])
    assert measure(probability, np.stack([lines(x40=1.0)] * 2)) == pytest.approx(2 / 3)
    assert measure(probability[0], lines(x40=1.0)) == 1.0


def test_probabilities_are_cut_to_8_bits_and_thresholds_are_exclusive():
    # 0.5 becomes 127/255 = 0.498, so that it still counts at 0.49; 1 stays 1 and counts at 0.999.
    codes = (255 * torch.tensor(lines(x40=0.5, x90=1.0))).to(torch.uint8).numpy()
    counts = count_boundaries(codes, lines(x40=1.0) > 0, np.ones(SIZE, bool), 0.011)
    assert [THRESHOLDS[index] for index in np.flatnonzero(np.diff(counts.predicted))] == [0.49]
    assert counts.predicted[[0, -1]].tolist() == [200, 100]
    assert counts.matched[[0, -1]].tolist() == [100, 0]


def test_wide_truth_and_wide_predictions_are_thinned():
    wide = lines(x39=1.0, x40=1.0, x41=1.0)
    assert measure(wide, wide) == 1.0
    assert measure(lines(x40=1.0), wide) > 0.98  # thinning also shortens


def test_nothing_true_or_nothing_predicted_gives_zero():
    assert measure(lines(x40=0.9), np.zeros(SIZE)) == 0.0
    assert measure(np.zeros(SIZE), lines(x40=1.0)) == 0.0


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 2), (7, 3)])
def test_tiny_images_are_no_special_case(size):
    assert 0.0 <= measure(np.full(size, 0.5), np.ones(size)) <= 1.0


@pytest.mark.slow
def test_several_processes_give_the_same(monkeypatch):
    probability, truth = (np.stack(each) for each in zip(*map(random_maps, range(4)), strict=True))
    alone = measure(probability, truth, 0.06)
    monkeypatch.setattr(ods, "_PIXELS_WORTH_PROCESSES", 1)
    monkeypatch.setattr(ods.joblib, "cpu_count", lambda: 2)
    # joblib would go on with processes of an earlier test, which leave after a while or lost their folder.
    get_reusable_executor().shutdown(wait=True)
    assert measure(probability, truth, 0.06) == alone
