"""How the weights of auxiliary tasks change over a run (MT2ST)."""

from __future__ import annotations

from dtme_search.config import RunConfig
from dtme_search.errors import ConfigError
from dtme_search.schedules.base import Schedule, ScheduleState, TaskWeights
from dtme_search.schedules.constant import Constant
from dtme_search.schedules.diminish import Diminish, decay_rate_of
from dtme_search.schedules.switch import Switch

__all__ = ["Constant", "Diminish", "Schedule", "ScheduleState", "Switch", "TaskWeights", "build_schedule"]


def build_schedule(config: RunConfig) -> Schedule:
    """Make the schedule of a run; without auxiliary tasks every kind is constant.

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
    schedule = config.schedule
    if not config.auxiliary_tasks or schedule.kind == "constant":
        return Constant(tasks)
    if schedule.kind == "switch":
        return Switch(tasks, round(schedule.switch_at * config.total_steps), schedule.patience)
    return Diminish(tasks, schedule.initial_weight, _decay_rate(config), schedule.decay_power)


def _decay_rate(config: RunConfig) -> float:
    schedule = config.schedule
    if schedule.decay_rate is not None:
        return schedule.decay_rate
    assert schedule.half_life is not None  # the config refuses a diminish schedule without either
    try:
        return decay_rate_of(schedule.half_life * config.total_steps, schedule.decay_power)
    except OverflowError:
        raise ConfigError(
            f"schedule: decay_power must be small enough for half_life at {config.total_steps} steps, "
            f"got {schedule.decay_power}. Use a value between 1 and 4."
        ) from None
