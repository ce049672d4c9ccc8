"""Gain over the single-task baselines (delta_m), and whether a metric beats its no-image prior."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from dtme_search.errors import BaselineError
from dtme_search.tasks import TaskSpec

CLEAR_MARGIN = 0.10
"""Relative improvement over the no-image prior that counts as clear [ours]."""
CLEAR_FROM_ZERO = 0.01
"""What counts as clear if the prior of a higher-is-better metric is 0 [ours]."""


def task_gains(
    metrics: Mapping[str, float], baselines: Mapping[str, float], tasks: Sequence[TaskSpec]
) -> dict[str, float]:
    """Signed relative gain of every task over its single-task baseline, in percent; positive is better.

    100 s (M - B) / B with s = -1 for lower-is-better (the terms of delta_m, arXiv 2507.07485v2, Table 1).

    Args:
        metrics: Value M of each task's metric, by task name, in the unit of its ``TaskSpec``.
        baselines: Value B of the same metric of the single-task run of the same recipe.
        tasks: Tasks that count; other names in the mappings are not read.

    Raises:
        BaselineError: If a baseline is missing, zero or not finite; names the task.
        ValueError: If a metric is missing or not finite.

    Example:
        >>> from dtme_search.tasks import depth
        >>> round(task_gains({"depth": 0.6370}, {"depth": 0.6611}, [depth()])["depth"], 3)
        3.645
    """
    return {task.name: _gain(task, metrics, baselines) for task in tasks}


def delta_m(metrics: Mapping[str, float], baselines: Mapping[str, float], tasks: Sequence[TaskSpec]) -> float:
    """Mean of ``task_gains``: delta_m of the multi-task literature, in percent; positive is better.

    Args:
        metrics: Value of each task's metric, by task name.
        baselines: Value of the same metric of each single-task run.
        tasks: Tasks that count, at least one; their order does not matter.

    Raises:
        BaselineError: If a baseline is missing, zero or not finite; names the task.
        ValueError: If a metric is missing or not finite, or ``tasks`` is empty.

    Example:
        >>> from dtme_search.tasks import depth, normals
        >>> baselines = {"depth": 1.0, "normals": 20.0}
        >>> round(delta_m({"depth": 0.9, "normals": 21.0}, baselines, [depth(), normals()]), 9)
        2.5
    """
    if not tasks:
        raise ValueError("delta_m: tasks must name at least one task, got none. Pass the primary tasks.")
    gains = task_gains(metrics, baselines, tasks)
    # fsum rounds once, so that the order of the tasks cannot affect the last digit.
    return math.fsum(gains.values()) / len(gains)


def beats_prior(value: float, prior: float, spec: TaskSpec, margin: float = CLEAR_MARGIN) -> bool:
    """Whether a metric is clearly better than what is possible without looking at the image.

    The no-image prior is the metric of the per-pixel mean or majority of the training labels. Clearly better
    means a relative improvement of at least ``margin`` in the metric's good direction [ours]: ``value >= (1 +
    margin) * prior``, or ``value <= (1 - margin) * prior`` for lower-is-better. If the prior of a
    higher-is-better metric is 0, a value of at least 0.01 counts. A prior of 0 of a lower-is-better metric is
    perfect and cannot be beaten.

    Args:
        value: Metric of a baseline or a result. A value that is not finite beats nothing.
        prior: The same metric of the no-image prior.
        spec: Task, for the direction.
        margin: Required relative improvement, at least 0.

    Raises:
        ValueError: If ``prior`` is not finite or ``margin`` is below 0.

    Example:
        >>> from dtme_search.tasks import depth
        >>> beats_prior(0.85, 1.0, depth()), beats_prior(0.95, 1.0, depth())
        (True, False)
    """
    if not math.isfinite(prior):
        raise ValueError(
            f"beats_prior: prior of task '{spec.name}' must be finite, got {prior}. Measure it again."
        )
    if not margin >= 0.0:
        raise ValueError(f"beats_prior: margin must be at least 0, got {margin}.")
    if not math.isfinite(value):
        return False
    if prior == 0.0:
        return spec.higher_is_better and value >= CLEAR_FROM_ZERO
    improvement = value - prior if spec.higher_is_better else prior - value
    return improvement >= margin * abs(prior)


def dead_tasks(
    metrics: Mapping[str, float],
    baselines: Mapping[str, float],
    priors: Mapping[str, float],
    tasks: Sequence[TaskSpec],
) -> tuple[str, ...]:
    """Tasks whose metric or baseline does not clearly beat the no-image prior, see :func:`beats_prior`.

    Args:
        metrics: Task -> metric of a result.
        baselines: Task -> the same of its single-task baseline.
        priors: Task -> the same of its no-image prior.
        tasks: Tasks to judge.

    Raises:
        ValueError: If a prior is not finite.

    Example:
        >>> from dtme_search.tasks import depth, normals
        >>> priors = {"depth": 1.0, "normals": 30.0}
        >>> dead_tasks({"depth": 0.8, "normals": 20.0}, {"depth": 0.95, "normals": 21.0}, priors,
        ...            [depth(), normals()])
        ('depth',)
    """
    return tuple(
        task.name
        for task in tasks
        if not all(beats_prior(of[task.name], priors[task.name], task) for of in (baselines, metrics))
    )


def _gain(task: TaskSpec, metrics: Mapping[str, float], baselines: Mapping[str, float]) -> float:
    name = task.name
    if name not in baselines:
        raise BaselineError(
            f"delta_m: no baseline for task '{name}'. Train it with: dtme-search baseline --task {name}"
        )
    baseline = baselines[name]
    if not math.isfinite(baseline) or baseline == 0.0:
        raise BaselineError(
            f"delta_m: baseline of task '{name}' must be finite and not zero, got {baseline}. "
            "Train it longer, or leave the task out of delta_m."
        )
    if name not in metrics or not math.isfinite(metrics[name]):
        raise ValueError(
            f"delta_m: metric of task '{name}' must be given and finite, got {metrics.get(name)}. "
            "A run without it has no delta_m."
        )
    direction = 1.0 if task.higher_is_better else -1.0
    return 100.0 * direction * (metrics[name] - baseline) / baseline
