"""One suite over all meters, then a case worked by hand for each (edges have a file of their own)."""

import math

import pytest
import torch

from dtme_search.metrics import build_meter
from dtme_search.tasks import TaskSpec, depth, edge, normals, semseg

NUM_IMAGES, HEIGHT, WIDTH = 5, 24, 37
SPECS = {
    spec.name: spec
    for spec in (
        semseg(("wall", "floor", "chair")),
        depth(),
        normals(),
        edge(),
        TaskSpec("curvature", 2, "values", "l1", "rmse", "m", False),
    )
}
IDEAL = {"semseg": 1.0, "depth": 0.0, "normals": 0.0, "edge": 1.0, "curvature": 0.0}


@pytest.fixture(params=SPECS.values(), ids=SPECS.keys())
def spec(request):
    return request.param


@pytest.fixture
def batch(spec):
    """A noisy prediction, a target, and a mask with holes in every image."""
    return make_batch(spec, seed=0)


def make_batch(spec, seed):
    generator = torch.Generator().manual_seed(seed)
    shape = (NUM_IMAGES, spec.channels, HEIGHT, WIDTH)
    noise = torch.randn(shape, generator=generator)
    valid = torch.rand((NUM_IMAGES, 1, HEIGHT, WIDTH), generator=generator) < 0.9
    if spec.kind == "classes":
        target = torch.randint(spec.channels, (NUM_IMAGES, HEIGHT, WIDTH), generator=generator)
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


def test_perfect_prediction_is_ideal_and_noise_is_not(spec, batch):
    _, target, valid = batch
    ideal = IDEAL[spec.name]
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
    with pytest.raises(ValueError, match="no valid pixels"):
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
    with pytest.raises(ValueError, match=rf"'{spec.name}': no valid pixels"):
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
    value = measure(SPECS["semseg"], (prediction, target, torch.ones(1, 1, 1, 4).bool()))
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
    with pytest.raises(ValueError, match=rf"valid labels must lie in 0..2, got {label}..{label}"):
        build_meter(SPECS["semseg"]).update(
            torch.zeros(1, 3, 2, 2), target, torch.ones(1, 1, 2, 2, dtype=torch.bool)
        )


def test_rmse_worked_by_hand():
    # Errors 1, -2, and 2 after the clamp of -5 to 0: sqrt((1 + 4 + 4) / 3).
    prediction, target = torch.tensor([3.0, 1.0, -5.0]), torch.tensor([2.0, 3.0, 2.0])
    shaped = (prediction.view(1, 1, 1, 3), target.view(1, 1, 1, 3), torch.ones(1, 1, 1, 3).bool())
    assert measure(SPECS["depth"], shaped) == pytest.approx(math.sqrt(3))


def test_rmse_of_plain_values_is_not_clamped_and_pools_channels():
    prediction = torch.tensor([-5.0, 1.0]).view(1, 2, 1, 1)
    target = torch.tensor([-5.0, 3.0]).view(1, 2, 1, 1)
    assert measure(SPECS["curvature"], (prediction, target, torch.ones(1, 1, 1, 1).bool())) == pytest.approx(
        math.sqrt(2)
    )


def test_mean_angle_worked_by_hand():
    # 0, 45, 90, 180 degrees and a zero vector, which counts as 90; lengths do not matter.
    predicted = torch.tensor([[0, 0, 7.0], [0, 3.0, 3.0], [5.0, 0, 0], [0, 0, -1.0], [0, 0, 0]])
    prediction = predicted.T.reshape(1, 3, 1, 5)
    target = torch.tensor([0.0, 0.0, 1.0]).view(1, 3, 1, 1).expand(1, 3, 1, 5)
    value = measure(SPECS["normals"], (prediction, target, torch.ones(1, 1, 1, 5).bool()))
    assert value == pytest.approx((0 + 45 + 90 + 180 + 90) / 5, abs=1e-9)


def test_mean_angle_sees_angles_that_an_arc_cosine_would_lose():
    tiny = 1e-6
    prediction = torch.tensor([tiny, 0.0, 1.0]).view(1, 3, 1, 1)
    target = torch.tensor([0.0, 0.0, 1.0]).view(1, 3, 1, 1)
    value = measure(SPECS["normals"], (prediction, target, torch.ones(1, 1, 1, 1).bool()))
    assert value == pytest.approx(math.degrees(tiny), rel=1e-6)
