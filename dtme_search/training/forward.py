"""From a batch to one loss per task, for training, measuring and timing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from dtme_search.config import TrainConfig
from dtme_search.data import Batch, TaskData
from dtme_search.models import MultiTaskViT, Predictions, resize
from dtme_search.training.losses import Loss, find_loss, task_loss
from dtme_search.training.runtime import autocast
from dtme_search.training.task_norms import TaskNorms
from dtme_search.training.team.job import Job, Share, own_parts


@dataclass(frozen=True)
class TaskLosses:
    """Unweighted training loss of each task.

    Attributes:
        train: Precision and edge weight.
        model: The model of the run.
        data: Its data, with the task descriptions and the device.
        share: This device among those that divide each batch; ``None`` if it is alone.
    """

    train: TrainConfig
    model: MultiTaskViT
    data: TaskData
    share: Share | None = None

    def alone(self) -> TaskLosses:
        """The same without the other devices."""
        return self if self.share is None else replace(self, share=None)

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

    def backward(
        self,
        batch: Batch,
        weights: Mapping[str, float] | Mapping[str, Tensor],
        parts: int = 1,
        norms: TaskNorms | None = None,
    ) -> dict[str, Tensor]:
        """Add the gradients of the weighted sum of the losses; returns the losses.

        Args:
            batch: The batch.
            weights: Task -> weight; tasks that are not listed cost nothing.
            parts: Number of parts in which the batch goes through the network, one after the other. The loss
                is the same. The gradients differ slightly, because batch norm and stochastic depth see one
                part at a time. Several devices divide the parts among them; no gradient may be there before.
            norms: Gets the gradients of each task in the last shared block.
        """
        tasks = tuple(weights)
        if self.share is not None:
            numbers = tuple(float(weight) for weight in weights.values())
            self.share.ask(Job("gradients", tasks, parts, numbers, norms is not None))
        sums: dict[str, Tensor] = {}
        for part, whole in own_parts(batch, parts, self.share):
            losses = self(part, tasks, whole)
            back(losses, weights, norms)
            add_losses(sums, losses)
        return sums if self.share is None else self._totals(self.share, sums, norms)

    def _totals(self, share: Share, sums: dict[str, Tensor], norms: TaskNorms | None) -> dict[str, Tensor]:
        """Gradients and losses of all devices."""
        parameters = [each for each in self.model.parameters() if each.grad is not None]
        gradients = [each.grad for each in parameters if each.grad is not None]
        rows = [] if norms is None else [each for row in norms.rows.values() for each in row]
        totals = iter(share.total([*gradients, *rows, *sums.values()]))
        for parameter in parameters:
            parameter.grad = next(totals)
        if norms is not None:
            norms.rows = {name: [next(totals) for _ in row] for name, row in norms.rows.items()}
        return {name: next(totals) for name in sums}

    @torch.no_grad()
    def look(self, batch: Batch, tasks: Sequence[str], parts: int = 1) -> dict[str, Tensor]:
        """Losses of a batch, without gradients."""
        if self.share is not None:
            self.share.ask(Job("losses", tuple(tasks), parts))
        sums: dict[str, Tensor] = {}
        for part, whole in own_parts(batch, parts, self.share):
            add_losses(sums, self(part, tasks, whole))
        if self.share is None:
            return sums
        return dict(zip(sums, self.share.total(list(sums.values())), strict=True))


def back(
    losses: Mapping[str, Tensor],
    weights: Mapping[str, float] | Mapping[str, Tensor],
    norms: TaskNorms | None = None,
) -> None:
    """Backward pass of the weighted sum of the losses; ``norms`` gets the gradients of each before."""
    if norms is not None:
        norms.add(losses)
    torch.stack([weights[name] * loss for name, loss in losses.items()]).sum().backward()


def add_losses(sums: dict[str, Tensor], losses: Mapping[str, Tensor]) -> None:
    """Add the losses of a part to those before it."""
    for name, loss in losses.items():
        sums[name] = sums[name] + loss.detach() if name in sums else loss.detach()


def part_of(size: int, parts: int) -> int:
    """Images in one part of a batch, at least one."""
    return max(1, -(-size // parts))
