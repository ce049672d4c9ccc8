"""How the weights of auxiliary tasks change over a run (MT2ST)."""

from __future__ import annotations

from collections.abc import Callable

from dtme_search.config import RunConfig
from dtme_search.errors import ConfigError
from dtme_search.schedules.adaptive import GradientWeights, Measure
from dtme_search.schedules.base import Schedule, ScheduleState, TaskWeights
from dtme_search.schedules.constant import Constant
from dtme_search.schedules.diminish import Diminish, decay_rate_of
from dtme_search.schedules.switch import Switch

__all__ = [
    "Constant",
    "Diminish",
    "GradientWeights",
    "Schedule",
    "ScheduleState",
    "Switch",
    "TaskWeights",
    "build_schedule",
]


def build_schedule(config: RunConfig) -> Schedule:
    """Create the schedule of a run; without auxiliary tasks every kind is constant.

    Fractions of training (``half_life``, ``switch_at``) are those of ``config.total_steps``.

    Raises:
        ConfigError: If ``decay_power`` is too large for ``half_life``.

    Example:
        >>> config = RunConfig.model_validate({
        ...     "tasks": {"semseg": {}, "depth": {"role": "auxiliary", "weight": 2.0}},
        ...     "schedule": {"kind": "switch", "switch_at": 0.5},
        ...     "train": {"num_steps": 10},
        ... })
        >>> schedule = build_schedule(config)
        >>> schedule.weights(4), schedule.weights(5)
        ({'semseg': 1.0, 'depth': 2.0}, {'semseg': 1.0, 'depth': 0.0})
    """
    tasks = TaskWeights(
        {name: task.weight for name, task in config.tasks.items()}, frozenset(config.auxiliary_tasks)
    )
    if not config.auxiliary_tasks:
        return Constant(tasks)
    schedule, steps = config.schedule, config.total_steps
    before = SCHEDULES[schedule.kind](config, tasks)
    planned = [schedule.switch_at if schedule.kind == "switch" else None, schedule.stop_at]
    ends = [round(fraction * steps) for fraction in planned if fraction is not None]
    if not ends and schedule.patience is None:
        return before
    return Switch(before, tasks, min(ends, default=None), schedule.patience)


def _diminish(config: RunConfig, tasks: TaskWeights) -> Schedule:
    schedule = config.schedule
    return Diminish(tasks, schedule.initial_weight, _decay_rate(config), schedule.decay_power)


def _adaptive(measure: Measure) -> Callable[[RunConfig, TaskWeights], Schedule]:
    def make(config: RunConfig, tasks: TaskWeights) -> Schedule:
        schedule = config.schedule
        total = float(len(tasks.auxiliary)) if schedule.total is None else schedule.total
        return GradientWeights(tasks, measure, total, schedule.every, schedule.epsilon)

    return make


SCHEDULES: dict[str, Callable[[RunConfig, TaskWeights], Schedule]] = {
    "constant": lambda _, tasks: Constant(tasks),
    "diminish": _diminish,
    "switch": lambda _, tasks: Constant(tasks),
    "inverse_gradient_norm": _adaptive("gradient_norm"),
    "fisher_trace": _adaptive("fisher_trace"),
}
"""``schedule.kind`` -> the schedule while auxiliary tasks train."""


def _decay_rate(config: RunConfig) -> float:
    schedule = config.schedule
    if schedule.decay_rate is not None:
        return schedule.decay_rate
    assert schedule.half_life is not None  # the config refuses a diminish schedule that has neither
    try:
        return decay_rate_of(schedule.half_life * config.total_steps, schedule.decay_power)
    except OverflowError:
        raise ConfigError(
            f"schedule: decay_power must be small enough for half_life at {config.total_steps} steps, "
            f"got {schedule.decay_power}. Use a value between 1 and 4."
        ) from None
