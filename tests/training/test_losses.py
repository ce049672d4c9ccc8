import math

import pytest
import torch

from dtme_search.tasks import (
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
from dtme_search.training.losses import task_loss

SPECS = {
    spec.name: spec
    for spec in (
        semseg(("wall", "floor", "chair")),
        depth(),
        normals(),
        edge(),
        sal(),
        human_parts(("background", "head", "torso")),
        regression("keypoints"),
        regression("curvature", 2, loss="mse"),
        image_class("room", ("bath", "hall", "attic")),
        image_labels("signs", ("red", "old")),
        image_value("crop", ("kg", "count")),
    )
}


@pytest.fixture(params=SPECS.values(), ids=SPECS.keys())
def spec(request):
    return request.param


@pytest.fixture
def batch(spec):
    generator = torch.Generator().manual_seed(0)
    size, num_images = spec.label_size((5, 7)), 9 if spec.of_image else 2
    prediction = torch.randn(num_images, spec.channels, *size, generator=generator)
    if spec.kind == "classes":
        target = torch.randint(3, (num_images, *size), generator=generator)
    else:
        target = torch.randn(prediction.shape, generator=generator)
        target = (target > 0).float() if spec.kind == "mask" else target
    return prediction, target, torch.rand(num_images, 1, *size, generator=generator) < 0.7


def loss_of(spec, prediction, target, valid, weight=0.95):
    return task_loss(spec, prediction, target, valid, edge_positive_weight=weight)


def loss_and_gradient(spec, prediction, target, valid):
    prediction = prediction.clone().requires_grad_()
    loss = loss_of(spec, prediction, target, valid)
    loss.backward()
    return loss.detach(), prediction.grad


def by_definition(spec, prediction, target, valid, weight):
    """The loss in plain float64 arithmetic over the list of valid pixels."""
    mask = valid[:, 0]
    p = prediction.double().movedim(1, -1)[mask]
    if spec.kind == "classes":
        picked = p.softmax(-1).gather(1, target[mask][:, None])
        return -picked.log().sum() / mask.sum()
    g = target.double().movedim(1, -1)[mask]
    if spec.loss == "normals_l1":
        return (p / p.norm(dim=-1, keepdim=True) - g).abs().sum() / mask.sum()
    if spec.loss == "bce":
        s = 1 / (1 + torch.exp(-p))
        return -(g * s.log() + (1 - g) * (1 - s).log()).mean()
    if spec.loss == "balanced_bce":
        s = 1 / (1 + torch.exp(-p))
        return -(weight * g * s.log() + (1 - weight) * (1 - g) * (1 - s).log()).mean()
    if spec.loss == "batch_balanced_bce":
        s, weight = 1 / (1 + torch.exp(-p)), 1 - g.mean()
        return -(weight * g * s.log() + (1 - weight) * (1 - g) * (1 - s).log()).mean()
    return (p - g).square().mean() if spec.loss == "mse" else (p - g).abs().mean()


@pytest.mark.parametrize("weight", [0.5, 0.95])
def test_equals_the_definition(spec, batch, weight):
    loss = loss_of(spec, *batch, weight)
    assert loss.shape == ()
    assert loss.dtype == torch.float32
    assert float(loss) == pytest.approx(float(by_definition(spec, *batch, weight)), rel=1e-6)


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
def test_invalid_pixels_leak_neither_into_the_loss_nor_into_the_gradient(spec, batch, poison):
    prediction, target, valid = batch
    inside = valid[:, 0] if spec.kind == "classes" else valid
    bad = torch.where(inside, target, 255 if spec.kind == "classes" else poison)
    loss, gradient = loss_and_gradient(spec, prediction, target, valid)
    bad_loss, bad_gradient = loss_and_gradient(spec, torch.where(valid, prediction, poison), bad, valid)
    assert torch.equal(bad_loss, loss)
    assert torch.equal(bad_gradient, gradient)
    assert gradient[~valid.expand_as(gradient)].abs().sum() == 0
    assert gradient.isfinite().all()
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize("scale", [1.0, 1e38, math.inf])
def test_an_empty_mask_gives_zero_and_a_zero_gradient(spec, batch, scale):
    prediction, target, valid = batch
    loss, gradient = loss_and_gradient(spec, prediction * scale, target, torch.zeros_like(valid))
    assert loss == 0.0
    assert torch.equal(gradient, torch.zeros_like(gradient))


def test_bfloat16_predictions_give_a_float32_loss(spec, batch):
    prediction, target, valid = batch
    rounded = prediction.bfloat16()
    loss, gradient = loss_and_gradient(spec, rounded, target, valid)
    assert loss.dtype == torch.float32
    assert gradient.dtype == torch.bfloat16
    assert float(loss) == pytest.approx(float(loss_of(spec, rounded.float(), target, valid)), rel=1e-6)


def test_autocast_does_not_lower_the_precision(spec, batch):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = loss_of(spec, *batch)
    assert torch.equal(loss, loss_of(spec, *batch))


def test_padding_changes_nothing(spec, batch):
    prediction, target, valid = batch
    padded = [torch.nn.functional.pad(tensor, (1, 2, 3, 4)) for tensor in (prediction, target, valid)]
    assert float(loss_of(spec, *padded)) == pytest.approx(float(loss_of(spec, *batch)), rel=1e-6)


def test_inputs_stay_as_they_are(spec, batch):
    before = [tensor.clone() for tensor in batch]
    loss_and_gradient(spec, *batch)
    assert all(torch.equal(tensor, copy) for tensor, copy in zip(batch, before, strict=True))


def test_large_logits_stay_finite():
    for name in ("semseg", "edge"):
        spec = SPECS[name]
        prediction = (
            torch.tensor([1e4, -1e4, 0.0]).view(1, 3, 1, 1)
            if name == "semseg"
            else torch.full((1, 1, 1, 1), -1e4)
        )
        target = torch.ones(1, 1, 1).long() if name == "semseg" else torch.ones(1, 1, 1, 1)
        loss, gradient = loss_and_gradient(spec, prediction, target, torch.ones(1, 1, 1, 1).bool())
        assert loss.isfinite() and loss > 1e3
        assert gradient.isfinite().all()


def test_a_predicted_normal_of_length_zero_has_a_bounded_gradient():
    target = torch.tensor([0.0, 0.0, 1.0]).view(1, 3, 1, 1)
    loss, gradient = loss_and_gradient(
        SPECS["normals"], torch.zeros(1, 3, 1, 1), target, torch.ones(1, 1, 1, 1).bool()
    )
    assert loss == 1.0
    assert gradient.abs().max() <= 1e4


def test_edges_worked_by_hand():
    # Logit 0 everywhere: ln 2 times the mean weight of one edge pixel (0.8) and three others (0.2).
    target = torch.tensor([1.0, 0.0, 0.0, 0.0]).view(1, 1, 2, 2)
    loss = loss_of(SPECS["edge"], torch.zeros(1, 1, 2, 2), target, torch.ones(1, 1, 2, 2).bool(), 0.8)
    assert float(loss) == pytest.approx(math.log(2) * (0.8 + 3 * 0.2) / 4)


def test_normals_sum_over_channels_and_ignore_the_length_of_the_prediction():
    prediction = torch.tensor([5.0, 0.0, 0.0]).view(1, 3, 1, 1)
    target = torch.tensor([0.0, 0.0, 1.0]).view(1, 3, 1, 1)
    valid = torch.ones(1, 1, 1, 1).bool()
    assert float(loss_of(SPECS["normals"], prediction, target, valid)) == pytest.approx(2.0)
    assert float(loss_of(SPECS["normals"], 0.1 * prediction, target, valid)) == pytest.approx(2.0)


def test_saliency_weighs_both_sides_of_a_batch_alike():
    # One of four pixels is salient: w = 3/4. Logit 0 everywhere: ln 2 (3/4 + 3 * 1/4) / 4.
    target = torch.tensor([1.0, 0.0, 0.0, 0.0]).view(1, 1, 2, 2)
    loss = loss_of(SPECS["sal"], torch.zeros(1, 1, 2, 2), target, torch.ones(1, 1, 2, 2).bool())
    assert float(loss) == pytest.approx(math.log(2) * 1.5 / 4)


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_saliency_of_a_batch_of_one_kind_costs_nothing(level):
    # As published: where no negative is left to weigh against, the weight of positives is 0, and vice versa.
    target = torch.full((1, 1, 2, 2), level)
    loss, gradient = loss_and_gradient(SPECS["sal"], torch.randn(1, 1, 2, 2), target, target >= 0)
    assert loss == 0.0
    assert torch.equal(gradient, torch.zeros_like(gradient))


def test_parts_leave_out_images_that_show_no_part():
    generator = torch.Generator().manual_seed(0)
    prediction = torch.randn(3, 3, 2, 2, generator=generator)
    target = torch.tensor([[[0, 1], [0, 0]], [[0, 0], [0, 0]], [[0, 2], [0, 0]]])
    valid = torch.ones(3, 1, 2, 2).bool()
    valid[2, 0, 0, 1] = False  # its only part does not count
    loss, gradient = loss_and_gradient(SPECS["human_parts"], prediction, target, valid)
    alone = torch.nn.functional.cross_entropy(prediction[:1], target[:1])
    assert float(loss) == pytest.approx(float(alone), rel=1e-6)
    assert gradient[0].abs().min() > 0
    assert torch.equal(gradient[1:], torch.zeros(2, 3, 2, 2))


def test_shapes_that_would_broadcast_are_refused(spec, batch):
    prediction, target, valid = batch
    with pytest.raises(ValueError, match="prediction must have shape"):
        loss_of(spec, prediction[:, :1].expand(-1, 5, -1, -1), target, valid)
    with pytest.raises(ValueError, match="target must have shape"):
        loss_of(spec, prediction, target[:1], valid)
    with pytest.raises(ValueError, match="valid must have shape"):
        loss_of(spec, prediction, target, valid[:, 0])
