"""What a schedule is built from, and how one from a user is watched."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from dtme_search.config import NoOptions, Section
from dtme_search.guards import Guard
from dtme_search.schedules.base import Schedule, ScheduleState, TaskWeights

_MEASURES = (None, "gradient_norm", "fisher_trace")
_METHODS = ("weights", "observe", "wants", "refresh", "state", "restore")


@dataclass(frozen=True)
class ScheduleSetting:
    """What a schedule may be built from.

    Attributes:
        tasks: Weights and roles; some task is auxiliary.
        total_steps: Steps of the run.
        options: Its own options, checked; for a built-in schedule the section ``schedule``.
    """

    tasks: TaskWeights
    total_steps: int
    options: Any


@dataclass(frozen=True)
class ScheduleKind:
    """Entry of the registry.

    Attributes:
        build: Makes the schedule at the start of a run.
        options: Section that checks ``schedule.options.<name>``.
    """

    build: Callable[[ScheduleSetting], Schedule]
    options: type[Section] = NoOptions


def guarded_schedule(kind: ScheduleKind, part: str) -> ScheduleKind:
    """The same kind; its schedules tell which rule of :class:`Schedule` they break."""
    guard = Guard(part)

    def build(setting: ScheduleSetting) -> Schedule:
        with guard.calling("build"):
            made = kind.build(setting)
        guard.has(made, _METHODS)
        guard.hold(hasattr(made, "plateau_step"), "plateau_step", "be there, if only as None")
        return GuardedSchedule(made, setting.tasks, guard)

    return replace(kind, build=build)


class GuardedSchedule:
    """A schedule from a user.

    Args:
        schedule: The schedule.
        tasks: What it was built for.
        guard: Names it.
    """

    def __init__(self, schedule: Schedule, tasks: TaskWeights, guard: Guard) -> None:
        self._schedule, self._tasks, self._guard = schedule, tasks, guard

    @property
    def plateau_step(self) -> int | None:
        with self._guard.calling("plateau_step"):
            step = self._schedule.plateau_step
        self._guard.hold(
            step is None or isinstance(step, int), "plateau_step", f"be a step or None, got {step!r}"
        )
        return step

    def weights(self, step: int) -> dict[str, float]:
        with self._guard.calling("weights"):
            given = self._schedule.weights(step)
        hold, expected = self._guard.hold, self._tasks.weights
        names = list(given) if isinstance(given, Mapping) else given
        rule = f"give every task of the run in its order, {list(expected)}, got {names!r}"
        hold(names == list(expected), "weights", rule)
        for task, weight in given.items():
            is_weight = isinstance(weight, (int, float)) and math.isfinite(weight) and weight >= 0
            hold(is_weight, "weights", f"give numbers of 0 or more, got {weight!r} for {task} at step {step}")
            keeps = task in self._tasks.auxiliary or weight == expected[task]
            got = f"{weight!r} for {task} at step {step}"
            hold(keeps, "weights", f"leave primary tasks their weight {expected[task]}, got {got}")
        return dict(given)

    def observe(self, step: int, improved: bool) -> None:
        with self._guard.calling("observe"):
            self._schedule.observe(step, improved)

    def wants(self, step: int) -> str | None:
        with self._guard.calling("wants"):
            wanted = self._schedule.wants(step)
        rule = f"give None, 'gradient_norm' or 'fisher_trace', got {wanted!r} at step {step}"
        self._guard.hold(wanted in _MEASURES, "wants", rule)
        return wanted

    def refresh(self, sizes: Mapping[str, float]) -> None:
        with self._guard.calling("refresh"):
            self._schedule.refresh(sizes)

    def state(self) -> dict[str, int | float | None]:
        with self._guard.calling("state"):
            state = self._schedule.state()
        is_plain = isinstance(state, Mapping) and all(
            isinstance(name, str) and (value is None or isinstance(value, (int, float)))
            for name, value in state.items()
        )
        self._guard.hold(is_plain, "state", f"give names with numbers or None, got {state!r}")
        return dict(state)

    def restore(self, state: ScheduleState) -> None:
        with self._guard.calling("restore", ValueError):
            self._schedule.restore(state)
