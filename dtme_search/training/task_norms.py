"""Norms of task gradients in the last shared block, for methods that balance them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from dtme_search.models import MultiTaskViT


class TaskNorms:
    """Collects them over the parts of a batch.

    Args:
        model: The model of the run.
        tasks: Active tasks.
    """

    def __init__(self, model: MultiTaskViT, tasks: Sequence[str]) -> None:
        block = model.backbone.blocks[-1]
        self.parameters = [each for each in block.parameters() if each.requires_grad]
        self.rows: dict[str, list[Tensor]] = {name: [] for name in tasks}

    def add(self, losses: Mapping[str, Tensor]) -> None:
        """Add the gradients of a part, whose graph stays."""
        if not self.parameters:
            return
        for name, loss in losses.items():
            gradients = torch.autograd.grad(loss, self.parameters, retain_graph=True, allow_unused=True)
            flat = [
                torch.zeros_like(parameter) if gradient is None else gradient
                for parameter, gradient in zip(self.parameters, gradients, strict=True)
            ]
            before = self.rows[name] or [torch.zeros_like(each) for each in flat]
            self.rows[name] = [old + new for old, new in zip(before, flat, strict=True)]

    def read(self) -> dict[str, Tensor]:
        """Norm of the gradient of each task; empty if no parameter of the block trains."""
        return {
            name: torch.stack([each.norm() for each in row]).norm() for name, row in self.rows.items() if row
        }
