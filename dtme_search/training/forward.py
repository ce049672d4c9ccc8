"""From a batch to one loss per task, for training, measuring and timing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from dtme_search.config import TrainConfig
from dtme_search.data import Batch, TaskData
from dtme_search.models import MultiTaskViT, Predictions, resize
from dtme_search.training.losses import Loss, find_loss, task_loss
from dtme_search.training.runtime import autocast


@dataclass(frozen=True)
class TaskLosses:
    """Unweighted training loss of each task.

    Attributes:
        train: Precision and edge weight.
        model: The model of the run.
        data: Its data, with the task descriptions and the device.
    """

    train: TrainConfig
    model: MultiTaskViT
    data: TaskData

    @cached_property
    def _kinds(self) -> dict[str, Loss]:
        return {name: find_loss(spec) for name, spec in self.data.specs.items()}

    def __call__(self, batch: Batch, tasks: Sequence[str], whole: Batch | None = None) -> dict[str, Tensor]:
        """Forward pass under autocast, then :meth:`of`; tasks that are not listed cost nothing."""
        with autocast(self.train, self.data.device):
            predictions = self.model.forward_with_auxiliary(batch.images, tasks)
        return self.of(predictions, batch, tasks, whole)

    def of(
        self,
        predictions: Predictions,
        batch: Batch,
        tasks: Sequence[str],
        whole: Batch | None = None,
    ) -> dict[str, Tensor]:
        """Loss of each of ``tasks`` for existing predictions, auxiliary outputs included; for a part of a
        ``whole`` batch, its share of the loss of the whole."""
        losses = {}
        for name in tasks:
            output = predictions.outputs[name]
            height, width = output.shape[-2:]
            further = [resize(one.float(), (height, width)) for one in predictions.auxiliary.get(name, ())]
            each = [self._loss(name, one, batch, whole) for one in (output, *further)]
            losses[name] = torch.stack(each).sum() if further else each[0]
        return losses

    def _loss(self, name: str, output: Tensor, batch: Batch, whole: Batch | None) -> Tensor:
        return task_loss(
            self.data.specs[name],
            output,
            batch.targets[name],
            batch.valid[name],
            edge_positive_weight=self.train.edge_positive_weight,
            whole=None if whole is None else (whole.targets[name], whole.valid[name]),
            loss=self._kinds[name],
        )

    def backward(self, batch: Batch, weights: Mapping[str, float], parts: int = 1) -> dict[str, Tensor]:
        """Add the gradients of the weighted sum of the losses; returns the losses.

        Args:
            batch: The batch.
            weights: Task -> weight; tasks that are not listed cost nothing.
            parts: Number of parts in which the batch goes through the network, one after the other. The loss
                is the same. The gradients differ slightly, because batch norm and stochastic depth see one
                part at a time.
        """
        tasks = tuple(weights)
        sums: dict[str, Tensor] = {}
        for part in [batch] if parts == 1 else batch.split(parts):
            losses = self(part, tasks, None if part is batch else batch)
            torch.stack([weights[name] * losses[name] for name in tasks]).sum().backward()
            for name, loss in losses.items():
                sums[name] = sums[name] + loss.detach() if name in sums else loss.detach()
        return sums


def part_of(size: int, parts: int) -> int:
    """Images in one part of a batch, at least one."""
    return max(1, -(-size // parts))
