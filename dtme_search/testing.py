"""For authors of losses and metrics: one line that names the rule their part breaks.

from dtme_search.testing import check_loss, check_metric
check_loss(HUBER, depth())
"""

from __future__ import annotations

import torch
from torch import Tensor

from dtme_search.metrics import MetricKind
from dtme_search.tasks import TaskSpec
from dtme_search.training.losses import LossKind, LossSetting

_SIZE = (6, 8)


class BrokenRule(AssertionError):
    """A part breaks a rule of its family: which part, which method, which rule."""


def check_loss(kind: LossKind, spec: TaskSpec) -> None:
    """Check a loss, with its default options, on generated data of a task.

    Raises:
        BrokenRule: Names the first rule that is broken.
    """
    prediction, target, _ = _made_up(spec, 3)
    prediction.requires_grad_()
    before = prediction.detach().clone(), target.clone()
    found = kind.per_pixel(prediction, target, LossSetting(spec, 0.9, kind.options()))
    where = "loss: per_pixel"
    _hold(
        tuple(found.shape) == (3, *spec.label_size(_SIZE)),
        where,
        f"must give (B, H, W), got {tuple(found.shape)}",
    )
    _hold(found.dtype == torch.float32, where, f"must give float32, got {found.dtype}")
    _hold(bool(found.isfinite().all()), where, "must give finite numbers")
    _hold(found.requires_grad, where, "must be differentiable with respect to the prediction")
    found.sum().backward()
    gradient = prediction.grad
    _hold(gradient is not None and bool(gradient.isfinite().all()), where, "must have finite gradients")
    same = torch.equal(before[0], prediction) and torch.equal(before[1], target)
    _hold(same, where, "must not change prediction and target")


def check_metric(kind: MetricKind, spec: TaskSpec) -> None:
    """Check a metric, with its default options, on generated data of a task.

    Raises:
        BrokenRule: Names the first rule that is broken.
    """
    meter = kind.build(spec, kind.options())
    prediction, target, valid = _made_up(spec, 4)
    try:
        meter.compute()
    except ValueError:
        pass
    else:
        raise BrokenRule("metric: compute must raise ValueError if there was no valid pixel.")
    meter.update(prediction, target, valid)
    whole = meter.compute()
    _hold(isinstance(whole, float), "metric: compute", f"must give a float, got {type(whole).__name__}")
    meter.reset()
    for half in (slice(0, 1), slice(1, 4)):
        meter.update(prediction[half], target[half], valid[half])
    parts = meter.compute()
    rule = "must not depend on earlier images after reset, nor on how images are cut into batches"
    _hold(abs(parts - whole) <= 1e-6 * max(1.0, abs(whole)), "metric: update and reset", rule)
    meter.reset()
    meter.update(torch.where(valid, prediction, 1e6), target, valid)
    rule = "must ignore pixels that are not valid"
    _hold(abs(meter.compute() - whole) <= 1e-6 * max(1.0, abs(whole)), "metric: update", rule)


def _hold(holds: bool, where: str, rule: str) -> None:
    if not holds:
        raise BrokenRule(f"{where} {rule}.")


def _made_up(spec: TaskSpec, num_images: int) -> tuple[Tensor, Tensor, Tensor]:
    """Prediction, target and valid of a task, with some pixels not valid."""
    draw = torch.Generator().manual_seed(0)
    size = spec.label_size(_SIZE)
    prediction = torch.rand(num_images, spec.channels, *size, generator=draw) + 0.5
    valid = torch.rand(num_images, 1, *size, generator=draw) > 0.3
    target = torch.rand(num_images, spec.channels, *size, generator=draw) + 0.5
    if spec.kind == "classes":
        target = torch.randint(spec.channels, (num_images, *size), generator=draw)
    elif spec.kind == "mask":
        target = (target > 1.0).float()
    elif spec.kind == "normals":
        target = torch.nn.functional.normalize(target - 1.0, dim=1)
    return prediction, target, valid
