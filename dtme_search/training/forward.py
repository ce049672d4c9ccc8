"""From a batch to one loss per task: what training, measuring and timing share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from dtme_search.config import TrainConfig
from dtme_search.data import Batch, TaskData
from dtme_search.models import MultiTaskViT
from dtme_search.training.losses import task_loss
from dtme_search.training.runtime import autocast


@dataclass(frozen=True)
class TaskLosses:
    """Unweighted training loss of each task.

    Attributes:
        train: Precision and edge weight.
        model: The model of the run.
        data: Its data; gives the task descriptions and the device.
    """

    train: TrainConfig
    model: MultiTaskViT
    data: TaskData

    def __call__(self, batch: Batch, tasks: Sequence[str]) -> dict[str, Tensor]:
        """Forward pass under autocast, then the loss of each of ``tasks``; the other tasks cost nothing."""
        with autocast(self.train, self.data.device):
            outputs = self.model(batch.images, tasks)
        return self.of(outputs, batch, tasks)

    def of(self, outputs: Mapping[str, Tensor], batch: Batch, tasks: Sequence[str]) -> dict[str, Tensor]:
        """Loss of each of ``tasks`` for outputs that are there already."""
        return {
            name: task_loss(
                self.data.specs[name],
                outputs[name],
                batch.targets[name],
                batch.valid[name],
                edge_positive_weight=self.train.edge_positive_weight,
            )
            for name in tasks
        }
