"""Weights that fade: the Diminish strategy of MT2ST."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dtme_search.schedules.base import Memoryless, TaskWeights


@dataclass(frozen=True)
class Diminish(Memoryless):
    """gamma(t) = gamma_0 exp(-eta t^nu) (arXiv 2406.18038v6, Sec. 3-4, Diminish).

    The paper allows one set of constants per task; here all auxiliary tasks share them [ours].

    Attributes:
        tasks: Weights and roles.
        initial_weight: gamma_0, above 0.
        decay_rate: eta, above 0, per step to the power nu.
        decay_power: nu, at least 1.
    """

    tasks: TaskWeights
    initial_weight: float
    decay_rate: float
    decay_power: float

    def gamma(self, step: int) -> float:
        """Factor of the auxiliary weights; exactly 0.0 only if float64 underflows."""
        try:
            return self.initial_weight * math.exp(-self.decay_rate * step**self.decay_power)
        except OverflowError:  # step**nu exceeds float64
            return 0.0

    def weights(self, step: int) -> dict[str, float]:
        return self.tasks.scaled(self.gamma(step))


def decay_rate_of(half_life_steps: float, decay_power: float) -> float:
    """eta with which gamma has halved after ``half_life_steps`` steps: ln 2 / half_life_steps^nu [ours].

    Example:
        >>> schedule = Diminish(TaskWeights({}, frozenset()), 1.0, decay_rate_of(200, 2.0), 2.0)
        >>> round(schedule.gamma(200), 12)
        0.5
    """
    return float(math.log(2.0) / half_life_steps**decay_power)
