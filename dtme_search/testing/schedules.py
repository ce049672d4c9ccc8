"""Rules of schedules."""

from __future__ import annotations

import json
from typing import Any

from dtme_search.guards import Guard
from dtme_search.schedules import Schedule, ScheduleKind, ScheduleSetting, TaskWeights, guarded_schedule
from dtme_search.testing.words import words_of

_STEPS, _BETWEEN = 60, 10
"""Steps of a made-up run, and between two of its evaluations."""
_TASKS = TaskWeights({"semseg": 1.5, "depth": 2.0, "normals": 1.0, "edge": 0.5}, frozenset({"depth", "edge"}))


def check_schedule(kind: ScheduleKind, options: Any = None, *, name: str = "") -> None:
    """Check a schedule on a made-up run with two primary and two auxiliary tasks.

    Args:
        kind: The schedule.
        options: Its options; by default their defaults.
        name: For messages.

    Raises:
        BrokenRule: Names the first rule that is broken.
    """
    guard = Guard(words_of("schedules", name))
    guarded = guarded_schedule(kind, guard.part)
    setting = ScheduleSetting(_TASKS, _STEPS, kind.options() if options is None else options)
    straight = _weights(guarded.build(setting))
    again = _weights(guarded.build(setting))
    guard.hold(again == straight, "build", "give schedules with the same weights in the same run")
    for stop in (1, _BETWEEN, 2 * _BETWEEN + 3, 5 * _BETWEEN):
        first, second = guarded.build(setting), guarded.build(setting)
        _weights(first, end=stop)
        state = first.state()
        second.restore(json.loads(json.dumps(state)))
        guard.hold(second.state() == state, "restore", "take over what state gave")
        rest = _weights(second, start=stop)
        rule = f"let a run that is resumed after {stop} steps go on with the same weights"
        guard.hold(rest == straight[stop:], "state and restore", rule)
    try:
        guarded.build(setting).restore({"nothing of the kind": 0.5})
    except ValueError:
        return
    raise guard.broken("restore", "raise ValueError for the state of another schedule")


def _weights(schedule: Schedule, start: int = 0, end: int = _STEPS) -> list[dict[str, float]]:
    """Weights of each step; every other evaluation finds the primary metrics improved."""
    history = []
    for step in range(start, end):
        if schedule.wants(step) is not None:
            schedule.refresh({"depth": 1.0 + step, "edge": 2.0})
        history.append(schedule.weights(step))
        if (step + 1) % _BETWEEN == 0:
            schedule.observe(step + 1, (step + 1) % (2 * _BETWEEN) == 0)
    return history
