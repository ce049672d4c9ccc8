"""What authors of losses and metrics are told: built-in parts keep every rule, and each mistake is named."""

import pytest
import torch

from dtme_search.metrics import METRICS, MetricKind
from dtme_search.tasks import depth, edge, image_class, image_labels, normals, semseg
from dtme_search.testing import BrokenRule, check_loss, check_metric
from dtme_search.training.losses import LOSSES, LossKind

SPECS = {"classes": semseg(("wall", "floor")), "distance": depth(), "normals": normals(), "mask": edge()}


@pytest.mark.parametrize("name", LOSSES)
def test_built_in_losses_keep_the_rules(name):
    check_loss(LOSSES[name], SPECS[LOSSES[name].kinds[0]])


@pytest.mark.parametrize("name", ["miou", "rmse", "l1", "mean_angle", "iou", "max_f"])
def test_built_in_metrics_keep_the_rules(name):
    check_metric(METRICS[name], SPECS[METRICS[name].kinds[0]])


def test_labels_of_whole_images_keep_them_too():
    room, signs = image_class("room", ("bath", "hall")), image_labels("signs", ("red", "old"))
    for spec in (room, signs):
        check_loss(LOSSES[spec.loss], spec)
    for name, spec in (("accuracy", room), ("macro_f1", room), ("mean_ap", signs)):
        check_metric(METRICS[name], spec)


@pytest.mark.parametrize(
    ("per_pixel", "rule"),
    [
        (
            lambda p, t, s: (p - t).abs(),
            r"^loss: per_pixel must give \(B, H, W\) = .*, got \(3, 1, 6, 8\)\. See",
        ),
        (lambda p, t, s: (p - t).abs().mean(1).double(), "must give float32"),
        (lambda p, t, s: (p - t).abs().mean(1) / 0, "must give finite numbers"),
        (lambda p, t, s: (p - t).abs().mean(1).detach(), "must be differentiable"),
        (lambda p, t, s: (p - t.mul_(2)).abs().mean(1), "must not change prediction and target"),
    ],
)
def test_a_mistake_in_a_loss_is_named(per_pixel, rule):
    with pytest.raises(BrokenRule, match=rule):
        check_loss(LossKind(per_pixel, ("distance",)), depth())


class Mean:
    """Mean of the error; right."""

    def __init__(self, spec, options):
        self.reset()

    def reset(self):
        self.errors = []

    def update(self, prediction, target, valid):
        self.errors.append((prediction - target)[valid].abs())

    def compute(self):
        if not self.errors:
            raise ValueError("no valid pixels")
        return float(torch.cat(self.errors).mean())


class Everywhere(Mean):
    def update(self, prediction, target, valid):
        self.errors.append((prediction - target).abs().flatten())


class Forever(Mean):
    errors = ()

    def __init__(self, spec, options):
        self.errors = []

    def reset(self):
        self.errors = [*self.errors[:1], torch.ones(50)]


class Empty(Mean):
    def compute(self):
        return 0.0


class Tensors(Mean):
    def compute(self):
        return torch.tensor(super().compute())


@pytest.mark.parametrize(
    ("meter", "rule"),
    [
        (Empty, "compute must raise ValueError"),
        (Tensors, "compute must give a finite float, got Tensor"),
        (Forever, "update and reset must not depend on earlier images"),
        (Everywhere, "update must ignore pixels that are not valid"),
    ],
)
def test_a_mistake_in_a_metric_is_named(meter, rule):
    check_metric(MetricKind(Mean, ("distance",)), depth())
    with pytest.raises(BrokenRule, match=rule):
        check_metric(MetricKind(meter, ("distance",)), depth())
