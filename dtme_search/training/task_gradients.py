"""Separate gradients for each of several tasks, stream by stream.

After a split the streams of a network are independent, but autograd does not know that: the gradient of one
task through a batched block runs over all streams. So each stream goes through the network alone, and each of
its tasks takes its gradient from that graph. Unexpanded this is one forward pass; fully split it is one pass
per task and needs less memory than a plain step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dtme_search.data import Batch
from dtme_search.models import MultiTaskViT
from dtme_search.training.forward import TaskLosses, add_losses
from dtme_search.training.team.job import Job, Share, own_parts

Gradients = list[Tensor | None]
"""One entry per parameter; ``None`` where the loss does not depend on it."""


@dataclass(frozen=True)
class TaskGradients:
    """Gradients of the unweighted losses of some tasks over one batch.

    Attributes:
        parameters: Parameters that train, in the order of the model.
        shared: Number of parameters at the beginning that all tasks share.
        rows: Task -> its gradients.
        losses: Task -> its loss.
    """

    parameters: list[nn.Parameter]
    shared: int
    rows: dict[str, Gradients]
    losses: dict[str, Tensor]

    def gram(self) -> Tensor:
        """Inner products of the shared parts of the rows: float64 on the CPU, shape (K, K)."""
        count = len(self.rows)
        total = torch.zeros(count, count, dtype=torch.float64, device=self.parameters[0].device)
        for index in range(self.shared):
            stacked = self.stacked(index)
            if stacked is not None:
                flat = stacked.flatten(1)
                total += (flat @ flat.T).double()
        return total.cpu()

    def stacked(self, index: int) -> Tensor | None:
        """Gradients of one parameter, shape (K, ...), 0 for tasks that do not reach it."""
        entries = [row[index] for row in self.rows.values()]
        if all(entry is None for entry in entries):
            return None
        zero = torch.zeros_like(self.parameters[index])
        return torch.stack([zero if entry is None else entry for entry in entries])


class Draws:
    """The state of torch's random generators, so that several passes can use the same draws."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.cpu = torch.get_rng_state()
        self.cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None

    def repeat(self) -> None:
        """Repeat the draws made since this was created."""
        torch.set_rng_state(self.cpu)
        if self.cuda is not None:
            torch.cuda.set_rng_state(self.cuda, self.device)


def task_gradients(losses: TaskLosses, batch: Batch, tasks: Sequence[str], parts: int = 1) -> TaskGradients:
    """Gradients of each task over a batch.

    They equal those of a pass with all streams up to rounding. Stochastic depth is the same for all streams,
    and every decoder sees the batch once.

    Args:
        losses: Losses of the run, with the model.
        batch: The batch.
        tasks: Active tasks; the others cost nothing.
        parts: Number of parts in which the batch goes through the network; the gradients are summed.
            Several devices divide them among them.
    """
    model, share = losses.model, losses.share
    if share is not None:
        share.ask(Job("rows", tuple(tasks), parts))
    parameters, shared = trained_parameters(model)
    rows: dict[str, Gradients] = {name: [None] * len(parameters) for name in tasks}
    sums: dict[str, Tensor] = {}
    for part, whole in own_parts(batch, parts, share):
        draws = Draws(losses.data.device)
        for stream in final_streams(model, tasks):
            draws.repeat()
            of_stream = losses(part, stream, whole)
            for index, name in enumerate(stream):
                gradients = torch.autograd.grad(
                    of_stream[name],
                    parameters,
                    retain_graph=index + 1 < len(stream),
                    allow_unused=True,
                )
                rows[name] = _added(rows[name], gradients)
            add_losses(sums, of_stream)
            del of_stream
    sums = {name: sums[name] for name in tasks}
    if share is not None:
        rows, sums = _totals(share, rows, sums)
    return TaskGradients(parameters, shared, rows, sums)


def _totals(
    share: Share, rows: dict[str, Gradients], sums: dict[str, Tensor]
) -> tuple[dict[str, Gradients], dict[str, Tensor]]:
    """Rows and losses of all devices; every one of them has entries for the same parameters."""
    found = [each for row in rows.values() for each in row if each is not None]
    totals = iter(share.total([*found, *sums.values()]))
    rows = {name: [None if each is None else next(totals) for each in row] for name, row in rows.items()}
    return rows, {name: next(totals) for name in sums}


def trained_parameters(model: MultiTaskViT) -> tuple[list[nn.Parameter], int]:
    """Parameters that train, those of the backbone first, and the number of the latter.

    Modulations and task tokens are inside the backbone but belong to groups of tasks, so they count like
    decoders.
    """
    of_backbone = [each for each in model.backbone.parameters() if each.requires_grad]
    known = set(of_backbone)
    others = [each for each in model.parameters() if each.requires_grad and each not in known]
    return of_backbone + others, len(of_backbone)


def final_streams(model: MultiTaskViT, tasks: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Tasks that go through the network together: those of a stream, or all if decoders mix tasks."""
    named = tuple(name for name in model.tasks if name in tasks)
    if model.plan is None or getattr(model.decoders, "mixes_tasks", True):
        return (named,)
    return model.plan.streams(model.info.num_layers - 1, named)


def _added(row: Gradients, gradients: Sequence[Tensor | None]) -> Gradients:
    return [
        new if old is None else old if new is None else old.add_(new)
        for old, new in zip(row, gradients, strict=True)
    ]
