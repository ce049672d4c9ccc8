"""Weights that stop: the Switch strategy of MT2ST."""

from __future__ import annotations

from dataclasses import dataclass, field

from dtme_search.schedules.base import ScheduleState, TaskWeights, check_state


@dataclass
class Switch:
    """gamma = 1 before the switch, then exactly 0 (arXiv 2406.18038v6, Sec. 3-4, Switch).

    With ``patience`` the switch comes early when the primary metrics stop improving: the paper names a
    feedback mechanism without its details, which are [ours]: after ``patience`` evaluations in a row without
    improvement, gamma is 0 from the next step on and stays 0. The counter is the only thing that changes.

    Attributes:
        tasks: Weights and roles.
        switch_step: First step without auxiliary tasks, unless a plateau comes first.
        patience: Evaluations without improvement that make a plateau; ``None`` never looks.
    """

    tasks: TaskWeights
    switch_step: int
    patience: int | None = None
    _stale_evaluations: int = field(default=0, init=False)
    _plateau_step: int | None = field(default=None, init=False)

    def weights(self, step: int) -> dict[str, float]:
        planned = step >= self.switch_step
        early = self._plateau_step is not None and step >= self._plateau_step
        return self.tasks.scaled(0.0 if planned or early else 1.0)

    def observe(self, step: int, improved: bool) -> None:
        if self.patience is None or self._plateau_step is not None:
            return
        self._stale_evaluations = 0 if improved else self._stale_evaluations + 1
        if self._stale_evaluations >= self.patience:
            self._plateau_step = step

    def state(self) -> dict[str, int | float | None]:
        return {"stale_evaluations": self._stale_evaluations, "plateau_step": self._plateau_step}

    def restore(self, state: ScheduleState) -> None:
        check_state(self, state, expected=("stale_evaluations", "plateau_step"))
        stale, plateau = state["stale_evaluations"], state["plateau_step"]
        self._stale_evaluations = int(stale or 0)
        self._plateau_step = None if plateau is None else int(plateau)
