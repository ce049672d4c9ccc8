"""Metrics beside their single-task baselines: gains, delta_m, and which tasks learnt nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dtme_search.metrics import beats_prior, delta_m, task_gains
from dtme_search.search.records import BaselineRow
from dtme_search.tasks import TaskSpec


@dataclass(frozen=True)
class Comparison:
    """How metrics stand against baselines.

    Attributes:
        delta_m_percent: Mean signed gain over the tasks that have a baseline.
        gains_percent: The same by task.
        dead_tasks: Tasks whose baseline or metric does not clearly beat the no-image prior.
    """

    delta_m_percent: float
    gains_percent: Mapping[str, float]
    dead_tasks: tuple[str, ...]


def compare(
    metrics: Mapping[str, float], baselines: Mapping[str, BaselineRow], specs: Mapping[str, TaskSpec]
) -> Comparison:
    """Compare the metrics of a model with the baselines of its primary tasks.

    Raises:
        BaselineError: If a baseline is zero or not finite.
    """
    primary = [specs[name] for name in baselines]
    values = {name: row.value for name, row in baselines.items()}
    dead = tuple(
        spec.name
        for spec in primary
        if not beats_prior(baselines[spec.name].value, baselines[spec.name].prior_value, spec)
        or not beats_prior(metrics[spec.name], baselines[spec.name].prior_value, spec)
    )
    return Comparison(delta_m(metrics, values, primary), task_gains(metrics, values, primary), dead)
