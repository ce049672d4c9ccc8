"""One suite over all meters, then a case worked by hand for each (edges have a file of their own)."""

import math
from dataclasses import replace
from typing import get_args

import pytest
import torch

from dtme_search.metrics import build_meter
from dtme_search.tasks import (
    MetricName,
    depth,
    edge,
    human_parts,
    image_class,
    image_labels,
    image_value,
    normals,
    regression,
    sal,
    semseg,
)

NUM_IMAGES, HEIGHT, WIDTH = 5, 24, 37
SPECS = {
    spec.metric: spec
    for spec in (
        semseg(("wall", "floor", "chair")),
        human_parts(("background", "head", "torso")),
        depth(),
        normals(),
        edge(),
        replace(edge(), metric="ods_f"),
        sal(),
        replace(sal(), metric="iou"),
        replace(sal(), metric="max_f_double_sigmoid"),
        regression("keypoints2d"),
        image_class("room", ("bath", "hall", "attic")),
        replace(image_class("room", ("bath", "hall", "attic")), metric="macro_f1"),
        image_labels("signs", ("red", "old")),
    )
}
SPECS["accuracy of pixels"] = replace(semseg(("wall", "floor", "chair")), metric="accuracy")
SPECS["l1 of images"] = image_value("crop", ("kg", "count"))
SPECS["rmse of two channels"] = regression("curvature", 2, loss="mse", metric="rmse")


@pytest.fixture(params=SPECS.values(), ids=SPECS.keys())
def spec(request):
    return request.param


@pytest.fixture
def batch(spec):
    """A noisy prediction, a target, and a mask with holes in every image."""
    return make_batch(spec, seed=0)


def make_batch(spec, seed):
    generator = torch.Generator().manual_seed(seed)
    size = spec.label_size((HEIGHT, WIDTH))
    shape = (NUM_IMAGES, spec.channels, *size)
    noise = torch.randn(shape, generator=generator)
    valid = torch.rand((NUM_IMAGES, 1, *size), generator=generator) < 0.9
    if spec.kind == "classes":
        target = torch.randint(spec.channels, (NUM_IMAGES, *size), generator=generator)
    elif spec.of_image and spec.kind == "mask":
        target = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [0.0, 0.0], [0.0, 1.0]])[..., None, None]
    elif spec.kind == "mask":
        target = outlines(generator)
    elif spec.kind == "distance":
        target = 1 + 9 * torch.rand(shape, generator=generator)
    else:
        target = torch.nn.functional.normalize(torch.randn(shape, generator=generator), dim=1)
    return perfect(spec, target) * 0.03 + noise, target, valid


def outlines(generator):
    """One-pixel outlines of random boxes."""
    target = torch.zeros(NUM_IMAGES, 1, HEIGHT, WIDTH)
    for image in target[:, 0]:
        top, left = (int(torch.randint(2, 8, (), generator=generator)) for _ in range(2))
        image[top, left : left + 20] = image[top + 12, left : left + 20] = 1
        image[top : top + 13, left] = image[top : top + 13, left + 20] = 1
    return target


def perfect(spec, target):
    """Raw decoder output that is right everywhere."""
    if spec.kind == "classes":
        return 20 * torch.nn.functional.one_hot(target, spec.channels).movedim(-1, 1).float()
    if spec.kind == "mask":
        return 40 * target - 20
    return 3 * target if spec.kind == "normals" else target.clone()


def measure(spec, *batches):
    meter = build_meter(spec)
    for batch in batches:
        meter.update(*batch)
    return meter.compute()


def test_every_metric_is_in_this_suite():
    assert {spec.metric for spec in SPECS.values()} == set(get_args(MetricName))


def test_perfect_prediction_is_ideal_and_noise_is_not(spec, batch):
    _, target, valid = batch
    ideal = 1.0 if spec.higher_is_better else 0.0
    assert measure(spec, (perfect(spec, target), target, valid)) == pytest.approx(ideal, abs=1e-6)
    noisy = measure(spec, batch)
    assert noisy < ideal - 0.1 if spec.higher_is_better else noisy > ideal + 0.1


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf, 1e30])
def test_invalid_pixels_change_nothing(spec, batch, poison):
    prediction, target, valid = batch
    inside = valid[:, 0] if spec.kind == "classes" else valid
    bad_target = torch.where(inside, target, 10**6 if spec.kind == "classes" else poison)
    bad_prediction = torch.where(valid, prediction, poison)
    assert measure(spec, (bad_prediction, bad_target, valid)) == measure(spec, batch)


@pytest.mark.parametrize("sizes", [(1, 1, 1, 1, 1), (2, 3), (4, 1)])
def test_any_batch_split_gives_the_same(spec, batch, sizes):
    parts = zip(*(tensor.split(sizes) for tensor in batch), strict=True)
    assert measure(spec, *parts) == pytest.approx(measure(spec, batch), rel=1e-12)


def test_order_of_images_gives_the_same(spec, batch):
    assert measure(spec, [tensor.flip(0) for tensor in batch]) == pytest.approx(
        measure(spec, batch), rel=1e-12
    )


def test_padding_that_is_not_valid_changes_nothing(spec, batch):
    def padded(tensor, value):
        return torch.nn.functional.pad(tensor, (5, 2, 3, 7), value=value)

    prediction, target, valid = batch
    larger = padded(prediction, math.nan), padded(target, 255), padded(valid, False)
    assert measure(spec, larger) == pytest.approx(measure(spec, batch), rel=1e-12)


def test_reset_equals_a_new_meter(spec, batch):
    meter = build_meter(spec)
    meter.update(*make_batch(spec, seed=1))
    meter.reset()
    with pytest.raises(ValueError, match=f"no valid {spec.labelled_thing}s"):
        meter.compute()
    meter.update(*batch)
    assert meter.compute() == measure(spec, batch)


def test_inputs_stay_as_they_are_and_results_repeat(spec, batch):
    before = [tensor.clone() for tensor in batch]
    meter = build_meter(spec)
    meter.update(*batch)
    first = meter.compute()
    assert meter.compute() == first
    assert all(torch.equal(tensor, copy) for tensor, copy in zip(batch, before, strict=True))


def test_no_valid_pixel_is_an_error_and_adds_nothing(spec, batch):
    prediction, target, valid = batch
    empty = (prediction, target, torch.zeros_like(valid))
    with pytest.raises(ValueError, match=rf"'{spec.name}': no valid {spec.labelled_thing}s"):
        measure(spec, empty)
    assert measure(spec, empty, batch, empty) == measure(spec, batch)


def test_memory_layout_does_not_matter(spec, batch):
    prediction, target, valid = batch
    channels_last = prediction.contiguous(memory_format=torch.channels_last)
    strided = torch.stack([valid, valid], dim=-1)[..., 0]
    assert measure(spec, (channels_last, target, strided)) == pytest.approx(measure(spec, batch), rel=1e-12)


def test_bfloat16_counts_as_the_same_numbers_in_float32(spec, batch):
    prediction, target, valid = batch
    rounded = prediction.bfloat16()
    assert measure(spec, (rounded, target, valid)) == pytest.approx(
        measure(spec, (rounded.float(), target, valid)), rel=1e-12
    )


def test_shapes_that_would_broadcast_are_refused(spec, batch):
    prediction, target, valid = batch
    meter = build_meter(spec)
    with pytest.raises(ValueError, match="prediction must have shape"):
        meter.update(prediction[:, :1].expand(-1, 4, -1, -1), target, valid)
    with pytest.raises(ValueError, match="target must have shape"):
        meter.update(prediction, target[:1], valid)
    with pytest.raises(ValueError, match="valid must have shape"):
        meter.update(prediction, target, valid[:, 0])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_cuda_device_gives_the_same(spec, batch):
    on_device = [tensor.cuda() for tensor in batch]
    assert measure(spec, on_device) == pytest.approx(measure(spec, batch), rel=1e-6)


def test_miou_worked_by_hand():
    # Labels 0 0 1 1, predictions 0 1 1 1: IoU is 1/2 for class 0, 2/3 for class 1, and class 2 is absent.
    target = torch.tensor([[[0, 0, 1, 1]]])
    prediction = torch.nn.functional.one_hot(torch.tensor([[[0, 1, 1, 1]]]), 3).movedim(-1, 1).float()
    value = measure(SPECS["miou"], (prediction, target, torch.ones(1, 1, 1, 4).bool()))
    assert value == pytest.approx((1 / 2 + 2 / 3 + 0) / 3)


def test_miou_pools_the_set_instead_of_averaging_images():
    spec, valid = semseg(("a", "b")), torch.ones(1, 1, 1, 2).bool()
    all_a = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1).expand(1, 2, 1, 2)
    right, half = torch.zeros(1, 1, 2).long(), torch.tensor([[[0, 1]]])
    # Pooled: class a 3 of 4, class b 0 of 1. Averaged over images it would be (1/2 + 1/4) / 2.
    assert measure(spec, (all_a, right, valid), (all_a, half, valid)) == pytest.approx(3 / 8)


@pytest.mark.parametrize("label", [-1, 3, 255])
def test_miou_refuses_labels_that_no_class_has(label):
    target = torch.full((1, 2, 2), label)
    batch = torch.zeros(1, 3, 2, 2), target, torch.ones(1, 1, 2, 2, dtype=torch.bool)
    with pytest.raises(ValueError, match=rf"valid labels must lie in 0..2, got {label}..{label}"):
        measure(SPECS["miou"], batch)


def test_rmse_worked_by_hand():
    # Errors 1, -2, and 2 after the clamp of -5 to 0: sqrt((1 + 4 + 4) / 3).
    prediction, target = torch.tensor([3.0, 1.0, -5.0]), torch.tensor([2.0, 3.0, 2.0])
    shaped = (prediction.view(1, 1, 1, 3), target.view(1, 1, 1, 3), torch.ones(1, 1, 1, 3).bool())
    assert measure(SPECS["rmse"], shaped) == pytest.approx(math.sqrt(3))


def test_rmse_of_plain_values_is_not_clamped_and_pools_channels():
    prediction = torch.tensor([-5.0, 1.0]).view(1, 2, 1, 1)
    target = torch.tensor([-5.0, 3.0]).view(1, 2, 1, 1)
    assert measure(
        SPECS["rmse of two channels"], (prediction, target, torch.ones(1, 1, 1, 1).bool())
    ) == pytest.approx(math.sqrt(2))


def test_mean_angle_worked_by_hand():
    # 0, 45, 90, 180 degrees and a zero vector, which counts as 90; lengths do not matter.
    predicted = torch.tensor([[0, 0, 7.0], [0, 3.0, 3.0], [5.0, 0, 0], [0, 0, -1.0], [0, 0, 0]])
    prediction = predicted.T.reshape(1, 3, 1, 5)
    target = torch.tensor([0.0, 0.0, 1.0]).view(1, 3, 1, 1).expand(1, 3, 1, 5)
    value = measure(SPECS["mean_angle"], (prediction, target, torch.ones(1, 1, 1, 5).bool()))
    assert value == pytest.approx((0 + 45 + 90 + 180 + 90) / 5, abs=1e-9)


def test_mean_angle_sees_angles_that_an_arc_cosine_would_lose():
    tiny = 1e-6
    prediction = torch.tensor([tiny, 0.0, 1.0]).view(1, 3, 1, 1)
    target = torch.tensor([0.0, 0.0, 1.0]).view(1, 3, 1, 1)
    value = measure(SPECS["mean_angle"], (prediction, target, torch.ones(1, 1, 1, 1).bool()))
    assert value == pytest.approx(math.degrees(tiny), rel=1e-6)


def labels_and_choice(labels, choice, num_classes):
    """A row of pixels per image: labels as they are, predictions as scores of the chosen class."""
    prediction = torch.nn.functional.one_hot(torch.tensor(choice), num_classes).movedim(-1, 1).float()
    target = torch.tensor(labels)
    return prediction, target, torch.ones_like(target).bool()[:, None]


def test_parts_miou_counts_the_background_but_not_images_without_parts():
    # First image, labels 0 0 1 2, predictions 0 1 1 2: IoU 1/2, 1/2 and 1. The second has no part.
    batch = labels_and_choice([[[0, 0, 1, 2]], [[0, 0, 0, 0]]], [[[0, 1, 1, 2]], [[1, 2, 2, 0]]], 3)
    assert measure(SPECS["parts_miou"], batch) == pytest.approx(2 / 3)
    assert measure(SPECS["miou"], batch) == pytest.approx((2 / 6 + 1 / 3 + 1 / 3) / 3)


def test_parts_miou_of_a_part_that_is_not_valid_only_is_not_defined():
    prediction, target, valid = labels_and_choice([[[0, 0, 1]]], [[[0, 0, 1]]], 3)
    valid[..., 2] = False
    with pytest.raises(ValueError, match="no valid pixels, so parts_miou"):
        measure(SPECS["parts_miou"], (prediction, target, valid))


def test_accuracy_and_macro_f1_worked_by_hand():
    # Labels 0 0 0 1 2, predictions 0 0 1 1 1. F1: 4/5 (3 labelled, 2 predicted, 2 hits), 2/4, and 0 for the
    # class that nobody predicts; the fourth class occurs nowhere and does not count.
    batch = labels_and_choice([[[label]] for label in (0, 0, 0, 1, 2)], [[[c]] for c in (0, 0, 1, 1, 1)], 4)
    spec = image_class("room", ("bath", "hall", "attic", "cellar"))
    assert measure(spec, batch) == pytest.approx(3 / 5)
    assert measure(replace(spec, metric="macro_f1"), batch) == pytest.approx((4 / 5 + 1 / 2 + 0) / 3)


def labels_of_images(scores, truth):
    """Scores and truth (N, C) as prediction, target and valid."""
    prediction, target = (
        torch.tensor(each, dtype=torch.float32)[..., None, None] for each in (scores, truth)
    )
    return prediction, target, torch.ones(len(target), 1, 1, 1).bool()


def test_mean_average_precision_worked_by_hand():
    # First label, ranked: yes no yes no. Precision 1 at recall 1/2 and 2/3 at recall 1: AP 1/2 + 1/3.
    # Second: three images share the best score, one of them is right: precision 1/3 at recall 1.
    # Nobody has the third.
    scores = [[4, 1, 0], [3, 1, 0], [2, 1, 0], [1, 0, 0]]
    truth = [[1, 0, 0], [0, 1, 0], [1, 0, 0], [0, 0, 0]]
    spec = image_labels("signs", ("red", "old", "ill"))
    assert measure(spec, labels_of_images(scores, truth)) == pytest.approx((5 / 6 + 1 / 3) / 2)


def test_a_constant_score_has_the_share_of_the_label_as_its_average_precision():
    spec = image_labels("signs", ("red",))
    batch = labels_of_images([[0.3]] * 8, [[1]] * 3 + [[0]] * 5)
    assert measure(spec, batch) == pytest.approx(3 / 8)


def test_mean_average_precision_of_labels_that_nobody_has_is_not_defined():
    spec = image_labels("signs", ("red",))
    with pytest.raises(ValueError, match=r"no image has any of its labels"):
        measure(spec, labels_of_images([[0.3]], [[0]]))


def test_iou_worked_by_hand():
    """Two pixels of both, one predicted only, one labelled only, one that does not count: 2 / 4."""
    meter = build_meter(replace(sal(), metric="iou"))
    prediction = torch.tensor([[[[1.0, 2.0, 3.0, -1.0, 9.0, -1.0]]]])
    target = torch.tensor([[[[1.0, 1.0, 0.0, 1.0, 0.0, 0.0]]]])
    valid = torch.tensor([[[[True, True, True, True, False, True]]]])
    meter.update(prediction, target, valid)
    assert meter.compute() == 0.5


def test_mean_absolute_error_worked_by_hand():
    prediction, target = torch.tensor([3.0, 1.0, -5.0]), torch.tensor([2.0, 3.0, 2.0])
    shaped = (prediction.view(1, 1, 1, 3), target.view(1, 1, 1, 3), torch.ones(1, 1, 1, 3).bool())
    assert measure(SPECS["l1"], shaped) == pytest.approx((1 + 2 + 7) / 3)


def saliency(probabilities, target):
    logits = torch.tensor(probabilities, dtype=torch.float64).logit().float()
    shape = (1, 1, 1, len(target))
    return logits.view(shape), torch.tensor(target).float().view(shape), torch.ones(shape).bool()


def test_max_f_worked_by_hand():
    # Salient are the pixels of 0.92, 0.52 and 0.12. At 0.50 three pixels are called salient, two of them
    # rightly: P 2/3, R 2/3. Above: P 1, R 1/3. From 0.12 down: P 3/5, R 1. Best is the one at 0.55 to 0.90.
    value = measure(SPECS["max_f"], saliency([0.92, 0.52, 0.53, 0.12, 0.13], [1, 1, 0, 1, 0]))
    options = [1.3 * p * r / (0.3 * p + r) for p, r in ((2 / 3, 2 / 3), (1, 1 / 3), (3 / 5, 1))]
    assert value == pytest.approx(max(options))


def test_a_pixel_on_a_threshold_is_salient():
    # The only threshold between the two pixels is 0.50 itself.
    assert measure(SPECS["max_f"], saliency([0.5, 0.499], [1, 0])) == 1.0


def test_the_double_sigmoid_has_no_threshold_where_the_correct_measure_has_one():
    # 0.55 to 0.60 separate the two, but a second sigmoid acts at 0.405 and 0.619 only: P 1/2, R 1 at best.
    batch = saliency([0.61, 0.54], [1, 0])
    assert measure(SPECS["max_f"], batch) == 1.0
    assert measure(SPECS["max_f_double_sigmoid"], batch) == pytest.approx(1.3 * 0.5 / (0.15 + 1))


@pytest.mark.parametrize("border", [0.201, 0.405, 0.619, 0.847])
def test_the_double_sigmoid_acts_at_four_probabilities(border):
    above, below = (
        saliency([border + 0.002, border - 0.002], [1, 0]),
        saliency([border + 0.004, border + 0.002], [1, 0]),
    )
    assert measure(SPECS["max_f_double_sigmoid"], above) == 1.0
    assert measure(SPECS["max_f_double_sigmoid"], below) < 1.0


def test_max_f_pools_the_set_and_takes_one_threshold():
    # Alone each image has a threshold that is right everywhere; no threshold suits both.
    first, second = saliency([0.92, 0.62], [1, 0]), saliency([0.42, 0.12], [1, 0])
    assert measure(SPECS["max_f"], first) == measure(SPECS["max_f"], second) == 1.0
    # At 0.15 to 0.40: P 2/3, R 1. At 0.65 to 0.90: P 1, R 1/2.
    assert measure(SPECS["max_f"], first, second) == pytest.approx(max(1.3 * 2 / 3 / 1.2, 1.3 * 0.5 / 0.8))


@pytest.mark.parametrize("metric", ["max_f", "max_f_double_sigmoid"])
def test_a_set_without_anything_salient_gives_zero(metric):
    assert measure(SPECS[metric], saliency([0.01, 0.9], [0, 0])) == 0.0
