"""Auxiliary tasks that stop: at a step (the Switch strategy of MT2ST), or when they no longer help."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from dtme_search.schedules.base import Schedule, ScheduleState, TaskWeights, check_state

_OWN = ("stale_evaluations", "plateau_step")


@dataclass
class Switch:
    """The weights of another schedule up to the switch, then exactly 0 (arXiv 2406.18038v6, Sec. 3-4).

    With ``patience`` the switch comes early if the primary metrics stop improving. The paper mentions a
    feedback mechanism without details, so these are [ours]: after ``patience`` evaluations in a row without
    improvement, gamma is 0 from the next step on and stays 0.

    Attributes:
        before: The schedule up to the switch: constant weights in the paper, any schedule here [ours].
        tasks: Weights and roles.
        switch_step: First step without auxiliary tasks, unless a plateau comes first; ``None`` plans none.
        patience: Evaluations without improvement that count as a plateau; ``None`` ignores evaluations.
    """

    before: Schedule
    tasks: TaskWeights
    switch_step: int | None
    patience: int | None = None
    _stale_evaluations: int = field(default=0, init=False)
    _plateau_step: int | None = field(default=None, init=False)

    @property
    def plateau_step(self) -> int | None:
        return self._plateau_step

    def weights(self, step: int) -> dict[str, float]:
        return self.tasks.scaled(0.0) if self._is_over(step) else self.before.weights(step)

    def observe(self, step: int, improved: bool) -> None:
        self.before.observe(step, improved)
        if self.patience is None or self._plateau_step is not None:
            return
        self._stale_evaluations = 0 if improved else self._stale_evaluations + 1
        if self._stale_evaluations >= self.patience:
            self._plateau_step = step

    def wants(self, step: int) -> str | None:
        return None if self._is_over(step) else self.before.wants(step)

    def refresh(self, sizes: Mapping[str, float]) -> None:
        self.before.refresh(sizes)

    def state(self) -> dict[str, int | float | None]:
        own = {"stale_evaluations": self._stale_evaluations, "plateau_step": self._plateau_step}
        return {**self.before.state(), **own}

    def restore(self, state: ScheduleState) -> None:
        check_state(self, state, expected=(*self.before.state(), *_OWN))
        self.before.restore({name: value for name, value in state.items() if name not in _OWN})
        stale, plateau = state["stale_evaluations"], state["plateau_step"]
        self._stale_evaluations = int(stale or 0)
        self._plateau_step = None if plateau is None else int(plateau)

    def _is_over(self, step: int) -> bool:
        return any(end is not None and step >= end for end in (self.switch_step, self._plateau_step))
