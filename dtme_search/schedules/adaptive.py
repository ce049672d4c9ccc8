"""Weights that follow the gradients of the auxiliary tasks: Eq. 13 and Eq. 14 of MT2ST."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from dtme_search.schedules.base import ScheduleState, TaskWeights, check_state

Measure = Literal["gradient_norm", "fisher_trace"]
"""What is measured: |grad of L_k|, or the mean squared gradient norm of single images."""


@dataclass
class GradientWeights:
    """gamma_k from the size of the gradient of task k on the shared parameters (arXiv 2406.18038v6).

    - ``gradient_norm`` (Eq. 13): gamma_k = |grad L_0| / (|grad L_k| + eps). The norm of the primary gradient
      cancels, because the gammas are scaled to a sum. Tasks with large gradients are turned down.
    - ``fisher_trace`` (Eq. 14): gamma_k = lambda Tr F_k / sum over j of Tr F_j. Tasks with large gradients
      are turned up.

    The paper refreshes at every step and gives no values for lambda and eps. Here weights are held for
    ``every`` steps, and lambda is the number of auxiliary tasks unless given [ours]. A task without a
    gradient (no valid pixels) keeps its weight, and the others share the rest [ours].

    Attributes:
        tasks: Weights and roles.
        measure: Which equation.
        total: lambda, the sum of all gamma.
        every: Steps between two refreshes.
        epsilon: eps, for ``gradient_norm``.
    """

    tasks: TaskWeights
    measure: Measure
    total: float
    every: int
    epsilon: float = 0.0
    _gammas: dict[str, float] = field(init=False)

    def __post_init__(self) -> None:
        names = [task for task in self.tasks.weights if task in self.tasks.auxiliary]
        self._gammas = dict.fromkeys(names, self.total / len(names))

    def weights(self, step: int) -> dict[str, float]:  # noqa: ARG002
        return {task: weight * self._gammas.get(task, 1.0) for task, weight in self.tasks.weights.items()}

    def observe(self, step: int, improved: bool) -> None:
        """Does nothing: evaluations have no effect."""

    def wants(self, step: int) -> str | None:
        return self.measure if step % self.every == 0 else None

    def refresh(self, sizes: Mapping[str, float]) -> None:
        seen = {task: size for task, size in sizes.items() if size > 0}
        if not seen:
            return
        shares = {
            task: 1.0 / (size + self.epsilon) if self.measure == "gradient_norm" else size
            for task, size in seen.items()
        }
        rest = self.total - sum(gamma for task, gamma in self._gammas.items() if task not in seen)
        whole = sum(shares.values())
        self._gammas.update({task: rest * share / whole for task, share in shares.items()})

    @property
    def plateau_step(self) -> int | None:
        return None

    def state(self) -> dict[str, int | float | None]:
        return {f"weight/{task}": gamma for task, gamma in self._gammas.items()}

    def restore(self, state: ScheduleState) -> None:
        check_state(self, state, expected=tuple(self.state()))
        self._gammas = {task: float(state[f"weight/{task}"] or 0.0) for task in self._gammas}
