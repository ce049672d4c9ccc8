import math

import pytest
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import maximum_bipartite_matching

from dtme_search.metrics import EdgeFMeter
from dtme_search.metrics.boundaries import THRESHOLDS
from dtme_search.metrics.edges import count_matches, find_crests
from dtme_search.tasks import edge

SMALL = (40, 60)  # tolerance 1 pixel
LARGE = (240, 320)  # tolerance 4.4 pixels


def measure(probability, target, valid=None):
    meter = EdgeFMeter(edge())
    probability = probability.view(-1, 1, *probability.shape[-2:])
    target = target.view_as(probability)
    meter.update(
        probability.logit(eps=1e-9), target, torch.ones_like(target).bool() if valid is None else valid
    )
    return meter.compute()


def columns(size, **heights):
    """Vertical one-pixel lines: x20=0.9 is a line of probability 0.9 in column 20."""
    image = torch.zeros(size)
    for name, height in heights.items():
        image[:, int(name[1:])] = height
    return image


def scenes(num_images, height, width, seed):
    """Outlines between random overlapping boxes, one pixel wide."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.zeros(num_images, height, width)
    for image in labels:
        for label in range(1, 9):
            top, left, tall, wide = (
                torch.rand(4, generator=generator) * torch.tensor([0.8, 0.8, 0.5, 0.5])
            ).tolist()
            rows = slice(int(top * height), int((top + 0.1 + tall) * height))
            image[rows, int(left * width) : int((left + 0.1 + wide) * width)] = label
    target = torch.zeros_like(labels)
    target[:, :, :-1] += labels[:, :, :-1] != labels[:, :, 1:]
    target[:, :-1] += labels[:, :-1] != labels[:, 1:]
    return target.clamp(max=1)


@pytest.mark.parametrize("level", [0.0, 0.05, 0.5, 0.95, 1.0])
def test_a_constant_map_predicts_nothing(level):
    assert measure(torch.full(SMALL, level), columns(SMALL, x20=1.0)) == 0.0


def test_a_map_that_is_constant_up_to_rounding_predicts_nothing():
    generator = torch.Generator().manual_seed(0)
    wiggles = 0.5 + 1e-6 * torch.randn(SMALL, generator=generator)
    assert measure(wiggles, columns(SMALL, x20=1.0)) == 0.0


def test_a_constant_map_with_holes_predicts_nothing():
    valid = torch.rand(1, 1, *SMALL, generator=torch.Generator().manual_seed(0)) < 0.8
    assert measure(torch.full(SMALL, 0.5), columns(SMALL, x20=1.0), valid) == 0.0


@pytest.mark.parametrize(
    ("size", "shift", "expected"), [(SMALL, 1, 1.0), (SMALL, 2, 0.0), (LARGE, 4, 1.0), (LARGE, 5, 0.0)]
)
def test_lines_match_within_the_tolerance_only(size, shift, expected):
    truth = columns(size, x20=1.0)
    assert measure(truth.roll(shift, dims=1), truth) == expected


def test_half_right_worked_by_hand():
    # One of two predicted lines is right, the only true line is found: P 1/2, R 1, F 2/3.
    assert measure(columns(SMALL, x20=0.9, x40=0.9), columns(SMALL, x20=1.0)) == pytest.approx(2 / 3)


def test_the_best_threshold_drops_the_weaker_false_line():
    assert measure(columns(SMALL, x20=0.9, x40=0.4), columns(SMALL, x20=1.0)) == 1.0


def test_one_threshold_serves_the_whole_set():
    # The right line is the weaker one in one image and the stronger one in the other, so no threshold
    # keeps exactly the right ones. Above 0.4 remain one right and one false line: P 1/2, R 1/2; below:
    # P 1/2, R 1, F 2/3. Best thresholds per image would give 5/6.
    probability = torch.stack([columns(SMALL, x20=0.9, x40=0.4), columns(SMALL, x20=0.4, x40=0.9)])
    truth = columns(SMALL, x20=1.0).expand(2, -1, -1).contiguous()
    assert measure(probability, truth) == pytest.approx(2 / 3)


def test_parallel_lines_along_one_edge_do_not_pay():
    # Both lines lie within the tolerance, but only one of them can be the edge.
    assert measure(columns(LARGE, x18=0.9, x22=0.9), columns(LARGE, x20=1.0)) == pytest.approx(2 / 3)


def test_sparse_dots_do_not_find_a_whole_line():
    dots = columns(LARGE, x20=0.9)
    dots[torch.arange(LARGE[0]) % 8 != 0] = 0
    assert measure(dots, columns(LARGE, x20=1.0)) == pytest.approx(2 * 30 / (30 + 240))


def test_a_blurred_line_is_thinned_to_the_line():
    x = torch.arange(SMALL[1])
    blurred = torch.exp(-((x - 20.0) ** 2) / 18).expand(SMALL).contiguous()
    assert measure(blurred, columns(SMALL, x20=1.0)) == 1.0


@pytest.mark.parametrize("rise", [0.0, 0.34, 0.5, 1.0, 3.0])
def test_soft_ridges_of_any_slant_become_thin_lines(rise):
    y, x = torch.meshgrid(torch.arange(60.0), torch.arange(60.0), indexing="ij")
    distance = (y - 30 - rise * (x - 30)) / math.hypot(1, rise)
    crests = find_crests(torch.exp(-(distance**2) / 8)[None], torch.ones(60, 60).bool(), passes=2)[0]
    inner = crests[10:50, 10:50]
    assert distance[10:50, 10:50][inner].abs().max() < 1.0
    # One pixel per step along the longer axis, at most every second one doubled.
    assert 40 <= int(inner.sum()) <= 60


@pytest.mark.parametrize("times", [2, 5, 10])
def test_a_faint_prediction_counts_alike_where_it_is_enlarged(times):
    """As on the test split, where predictions are enlarged to the labels' own size."""
    ridge = torch.arange(40).sub(20).abs().float().mul(-0.3).exp().mul(0.01).add(0.4).expand(30, 40)
    size = (30 * times, 40 * times)
    larger = torch.nn.functional.interpolate(ridge[None, None], size, mode="bilinear")[0, 0]
    truth = columns(size, **{f"x{20 * times + times // 2}": 1.0})
    assert measure(larger, truth) > 0.9


def test_edges_two_pixels_wide_count_like_thin_ones():
    wide = columns(SMALL, x20=1.0, x21=1.0)
    assert measure(wide, wide) == 1.0
    assert measure(columns(SMALL, x20=0.9), wide) == 1.0


def test_lines_along_the_border_are_seen():
    truth = columns(SMALL, x0=1.0, x59=1.0)
    assert measure(0.9 * truth, truth) == 1.0


def test_no_true_edge_in_the_set_gives_zero():
    assert measure(columns(SMALL, x20=0.9), torch.zeros(SMALL)) == 0.0


def test_predictions_and_edges_outside_the_mask_do_not_count():
    valid = torch.ones(1, 1, *SMALL).bool()
    valid[..., 38:43] = False
    truth = columns(SMALL, x20=1.0)
    assert measure(columns(SMALL, x20=0.9, x40=0.95), truth, valid) == 1.0
    assert measure(columns(SMALL, x20=0.9), columns(SMALL, x20=1.0, x40=1.0), valid) == 1.0


def test_a_predictor_that_looks_is_far_above_the_mean_of_the_training_labels():
    truth = scenes(8, 64, 96, seed=1)
    prior = measure(scenes(64, 64, 96, seed=2).mean(0).expand_as(truth).contiguous(), truth)
    coarse = torch.nn.functional.avg_pool2d(truth[:, None], 4)
    looking = torch.nn.functional.interpolate(coarse, size=(64, 96), mode="bilinear")
    assert prior < 0.45
    assert measure(looking, truth) > 1.6 * prior


def test_the_value_falls_as_noise_grows():
    truth = scenes(6, 64, 96, seed=1)
    noise = torch.randn(truth.shape, generator=torch.Generator().manual_seed(0))
    values = [
        measure((6 * truth - 3 + scale * noise).sigmoid(), truth) for scale in (0.0, 1.0, 2.0, 4.0, 16.0)
    ]
    assert values == sorted(values, reverse=True)
    assert values[0] == 1.0
    assert values[-1] < 0.5


@pytest.mark.parametrize("size", [(40, 60), (96, 128), (160, 240)])
def test_counts_are_never_below_those_of_the_one_to_one_matching(size):
    truth = scenes(1, *size, seed=3)[0].bool()
    noise = torch.randn(size, generator=torch.Generator().manual_seed(0))
    probability = (4 * truth - 2 + noise).sigmoid()
    valid = torch.ones(size).bool()
    level = torch.bucketize(probability, torch.tensor(THRESHOLDS))
    num_true, predicted, matched = count_matches(probability, level, truth, valid)

    tolerance = max(1.0, 0.011 * math.hypot(*size))
    passes = max(1, round(8 * (tolerance / 7.73) ** 2))
    crests, true_crests = find_crests(torch.stack([probability, truth.float()]), valid, passes)
    true_points = (true_crests & truth).nonzero().double()
    assert num_true == len(true_points)
    for index in (1, 30, 60, 90):
        points = (crests & (probability > THRESHOLDS[index])).nonzero().double()
        near = coo_array(torch.cdist(points, true_points).le(tolerance).numpy()).tocsr()
        exact = int((maximum_bipartite_matching(near) >= 0).sum())
        assert predicted[index] == len(points)
        assert exact <= matched[index] <= min(len(points), num_true)
        assert matched[index] <= 1.25 * exact
