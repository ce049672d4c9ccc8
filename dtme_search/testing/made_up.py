"""Predictions and targets to check losses and metrics on."""

from __future__ import annotations

import torch
from torch import Tensor

from dtme_search.tasks import TaskSpec

_SIZE = (6, 8)


def made_up(spec: TaskSpec, num_images: int) -> tuple[Tensor, Tensor, Tensor]:
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
