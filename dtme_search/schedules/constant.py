"""Constant weights: plain multi-task training."""

from __future__ import annotations

from dataclasses import dataclass

from dtme_search.schedules.base import Memoryless, TaskWeights


@dataclass(frozen=True)
class Constant(Memoryless):
    """gamma = 1 for every auxiliary task at every step.

    Attributes:
        tasks: Weights and roles.
    """

    tasks: TaskWeights

    def weights(self, step: int) -> dict[str, float]:  # noqa: ARG002  # the protocol's name
        return self.tasks.scaled(1.0)
