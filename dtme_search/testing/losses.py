"""Rules of losses."""

from __future__ import annotations

import torch

from dtme_search.config import Section
from dtme_search.guards import Guard
from dtme_search.tasks import TaskSpec
from dtme_search.testing.made_up import made_up
from dtme_search.testing.words import words_of
from dtme_search.training.losses import LossKind, LossSetting, guarded_loss


def check_loss(kind: LossKind, spec: TaskSpec, options: Section | None = None, *, name: str = "") -> None:
    """Check a loss on generated data of a task.

    Args:
        kind: The loss.
        spec: A task of a kind that it suits.
        options: Its options; by default their defaults.
        name: For messages.

    Raises:
        BrokenRule: Names the first rule that is broken.
    """
    guard = Guard(words_of("losses", name))
    prediction, target, _ = made_up(spec, 3)
    prediction.requires_grad_()
    before = prediction.detach().clone(), target.clone()
    setting = LossSetting(spec, 0.9, kind.options() if options is None else options)
    found = guarded_loss(kind, guard.part).per_pixel(prediction, target, setting)
    method = "per_pixel"
    guard.hold(found.requires_grad, method, "be differentiable with respect to the prediction")
    found.sum().backward()
    gradient = prediction.grad
    guard.hold(gradient is not None and bool(gradient.isfinite().all()), method, "have finite gradients")
    same = torch.equal(before[0], prediction) and torch.equal(before[1], target)
    guard.hold(same, method, "not change prediction and target")
