"""From the losses of several tasks to the one gradient that the optimiser sees (``train.combine``)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from dtme_search.combine import (
    CombineState,
    LossWeighting,
    Merged,
    Method,
    Seen,
    Setting,
    Weighted,
    build_method,
)
from dtme_search.config import RunConfig
from dtme_search.data import Batch, Purpose, make_generator
from dtme_search.training.forward import TaskLosses, back
from dtme_search.training.task_gradients import Draws, TaskGradients, task_gradients
from dtme_search.training.task_norms import TaskNorms


def method_of(config: RunConfig, device: torch.device) -> Method | None:
    """The method that ``train.combine`` names; ``None`` means a plain sum."""
    return build_method(
        Setting(
            options=config.train.combine,
            num_tasks=len(config.tasks),
            window=max(1, config.total_steps // config.train.num_evaluations),
            device=device,
            draw=lambda step: _generator(config.seed, step, torch.device("cpu")),
        ),
        config.plugins,
    )


def state_of(method: Method | None) -> dict[str, Tensor]:
    """What a method has to remember, for a checkpoint."""
    return method.state() if isinstance(method, LossWeighting) else {}


def restore(method: Method | None, state: CombineState) -> None:
    """Continue from the result of :func:`state_of`."""
    if isinstance(method, LossWeighting):
        method.restore(state)


class Combination:
    """Writes the combined gradients of a step into the parameters, following ``train.combine``.

    Args:
        config: The run.
        losses: Its losses, with the model and the device.
        method: From :func:`method_of`; its state belongs to the run.
    """

    def __init__(self, config: RunConfig, losses: TaskLosses, method: Method | None) -> None:
        self.losses = losses
        self.method = method
        self.seed = config.seed
        self.tasks = tuple(config.tasks)
        self.device = losses.data.device
        self._masks: dict[tuple[str, ...], Tensor] = {}
        self._seen: Seen | None = None
        self._active: tuple[str, ...] = ()
        self._draws: Draws | None = None

    @property
    def is_plain(self) -> bool:
        """Whether losses are simply summed."""
        return self.method is None

    def backward(
        self, step: int, batch: Batch, weights: Mapping[str, float], parts: int = 1
    ) -> dict[str, Tensor]:
        """Add the combined gradients of a batch to ``.grad``; returns the losses.

        Args:
            step: 0-based step.
            batch: The batch.
            weights: Active task -> task weight times the factor of the schedule, applied to the result of the
                method. A single task is trained plainly, whatever the method.
            parts: Number of parts in which the batch goes through the network.
        """
        self._seen = None
        if self.losses.share is not None:
            self.losses.share.begin(step)
        if self.method is None or len(weights) == 1:
            return self.losses.backward(batch, weights, parts)
        self._draws, self._active = Draws(self.device), tuple(weights)
        if isinstance(self.method, LossWeighting):
            return self._weigh_losses(self.method, step, batch, weights, parts)
        found = task_gradients(self.losses, batch, tuple(weights), parts)
        if isinstance(self.method, Weighted):
            self._weigh_rows(self.method, step, found, weights)
        else:
            self._merge_rows(self.method, step, found, weights)
        return found.losses

    def after_update(self, batch: Batch, parts: int = 1) -> None:
        """Let the method learn from the step whose update has just been applied."""
        if self._seen is None or not isinstance(self.method, LossWeighting):
            return
        seen, self._seen = self._seen, None
        if self.method.looks_again:
            seen = replace(seen, after_K=self._vector(self._look(batch, self._active, parts)))
        self.method.learn(seen)

    @contextmanager
    def rehearsal(self) -> Iterator[None]:
        """Inside, the device is alone; undo afterwards what the method learns."""
        before, losses = state_of(self.method), self.losses
        self.losses = losses.alone()
        try:
            yield
        finally:
            restore(self.method, before)
            self.losses = losses

    def _weigh_losses(
        self, method: LossWeighting, step: int, batch: Batch, weights: Mapping[str, float], parts: int
    ) -> dict[str, Tensor]:
        tasks = tuple(weights)
        active_K = self._mask(tasks)
        nothing_K = torch.zeros(len(self.tasks), device=self.device)
        known = self._look(batch, tasks, parts) if method.needs_losses and parts > 1 else None
        norms = TaskNorms(self.losses.model, tasks) if method.needs_norms else None

        def weigh(losses: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
            losses_K = nothing_K if losses is None else self._vector(losses)
            factors_K = method.weights(Seen(step, active_K, losses_K))
            factor = dict(zip(self.tasks, factors_K.unbind(), strict=True))
            return {name: weights[name] * factor[name] for name in tasks}

        if method.needs_losses and known is None:
            losses = self.losses(batch, tasks)  # of its only part
            back(losses, weigh(losses), norms)
            sums = {name: loss.detach() for name, loss in losses.items()}
        else:
            sums = self.losses.backward(batch, weigh(known), parts, norms)
        of_norms = None if norms is None else self._vector(norms.read())
        self._seen = Seen(step, active_K, self._vector(sums), of_norms)
        return sums

    def _weigh_rows(
        self, method: Weighted, step: int, found: TaskGradients, weights: Mapping[str, float]
    ) -> None:
        gram = found.gram()
        # A task without valid pixels has gradient 0, which some methods would choose as the best common
        # direction. A gradient that is not finite is left to the loss log, which names the task.
        kept = (gram.diagonal() > 0).nonzero()[:, 0]
        factors = torch.ones(len(gram), dtype=torch.float64)
        if len(kept) > 1 and gram.isfinite().all():
            generator = _generator(self.seed, step, torch.device("cpu"))
            factors[kept] = method.weights(gram[kept][:, kept], generator)
        factors *= torch.tensor(list(weights.values()), dtype=torch.float64)
        _sum_rows(found, range(found.shared), factors.tolist())
        _sum_rows(found, range(found.shared, len(found.parameters)), list(weights.values()))

    def _merge_rows(
        self, method: Merged, step: int, found: TaskGradients, weights: Mapping[str, float]
    ) -> None:
        generator = _generator(self.seed, step, self.device)
        scale = torch.tensor(list(weights.values()), device=self.device)
        for index in range(found.shared):
            stacked = found.stacked(index)
            if stacked is not None:
                weighted = stacked * scale.view(-1, *[1] * (stacked.dim() - 1))
                _add_gradient(found.parameters[index], method.merge(weighted, generator))
        _sum_rows(found, range(found.shared, len(found.parameters)), list(weights.values()))

    def _look(self, batch: Batch, tasks: tuple[str, ...], parts: int) -> dict[str, Tensor]:
        """Losses of the batch with the random draws of this step; running statistics do not change."""
        assert self._draws is not None
        here = Draws(self.device)
        self._draws.repeat()
        with kept_buffers(self.losses.model):
            sums = self.losses.look(batch, tasks, parts)
        here.repeat()
        return sums

    def _vector(self, values: Mapping[str, Tensor]) -> Tensor:
        """One entry per task of the run, 0 for inactive tasks; shape (K)."""
        zero = torch.zeros((), device=self.device)
        return torch.stack([values.get(name, zero).detach().float() for name in self.tasks])

    def _mask(self, tasks: tuple[str, ...]) -> Tensor:
        # Cached, because creating a tensor on a GPU makes the CPU wait for it.
        if tasks not in self._masks:
            self._masks[tasks] = torch.tensor([name in tasks for name in self.tasks], device=self.device)
        return self._masks[tasks]


def _generator(seed: int, step: int, device: torch.device) -> torch.Generator:
    return make_generator(device, seed, Purpose.COMBINE, step)


@contextmanager
def kept_buffers(model: nn.Module) -> Iterator[None]:
    """Restore running statistics."""
    before = [buffer.clone() for buffer in model.buffers()]
    try:
        yield
    finally:
        for buffer, old in zip(model.buffers(), before, strict=True):
            buffer.copy_(old)


def graphs_survive(config: RunConfig) -> Any:
    """Context in which the graph of a compiled block allows several backward passes."""
    if not config.train.compile or config.train.combine.kind == "sum":
        return nullcontext()
    # Before 2.15 torch reuses the memory of a compiled graph and refuses a second pass through it.
    import torch._functorch.config as functorch

    return functorch.patch(donated_buffer=False) if hasattr(functorch, "donated_buffer") else nullcontext()


def _sum_rows(found: TaskGradients, indices: range, factors: list[float]) -> None:
    for index in indices:
        total: Tensor | None = None
        for factor, row in zip(factors, found.rows.values(), strict=True):
            gradient = row[index]
            if gradient is not None:
                total = gradient * factor if total is None else total.add_(gradient, alpha=factor)
                row[index] = None  # free the rows as the sums grow, to keep the peak memory low
        if total is not None:
            _add_gradient(found.parameters[index], total)


def _add_gradient(parameter: nn.Parameter, gradient: Tensor) -> None:
    if gradient.stride() != parameter.stride():
        # Convolutions return other memory layouts, which torch warns about when a backward pass adds to them.
        gradient = torch.empty_like(parameter).copy_(gradient)
    parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
