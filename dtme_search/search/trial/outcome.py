"""What a finished run is worth: delta_m over the baselines, overhead, cost, and whether to trust it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from dtme_search.config import StudyConfig
from dtme_search.config.measures import RECORDED, is_result, tasks_of
from dtme_search.metrics import dead_tasks, delta_m, task_gains
from dtme_search.models import BackboneInfo, sizes_of
from dtme_search.operations import OPERATIONS
from dtme_search.search.storage.rows import BaselineRow, RunRow, StoredEvaluation
from dtme_search.tasks import TaskSpec
from dtme_search.token_space import ExpansionPlan
from dtme_search.training import RunResult


@dataclass(frozen=True)
class Comparison:
    """How metrics compare with baselines.

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
    priors = {name: row.prior_value for name, row in baselines.items()}
    dead = dead_tasks(metrics, values, priors, primary)
    return Comparison(delta_m(metrics, values, primary), task_gains(metrics, values, primary), dead)


@dataclass(frozen=True)
class Outcome:
    """The judged result of one trial.

    Attributes:
        delta_m_percent: Mean signed gain over the single-task baselines of the primary tasks.
        gains_percent: The same by task.
        metrics: Task -> metric on the hold-out.
        param_overhead_percent: Added parameters over those of the headless backbone.
        step_cost_ratio: Mean cost of a step in units of an unexpanded one with all tasks.
        dead_tasks: Primary tasks whose baseline or result does not clearly beat the no-image prior.
        further: Measures beside these that the study names.
        violations: Limit -> by how much it is exceeded; at most 0 if it is met.
    """

    delta_m_percent: float
    gains_percent: Mapping[str, float]
    metrics: Mapping[str, float]
    param_overhead_percent: float
    step_cost_ratio: float
    dead_tasks: tuple[str, ...]
    further: Mapping[str, float]
    violations: Mapping[str, float]

    @property
    def feasible(self) -> bool:
        """Whether every limit of the study is met."""
        return all(violation <= 0 for violation in self.violations.values())

    def values(self, study: StudyConfig) -> tuple[float, ...]:
        """Values of the study's objectives, in their order."""
        recorded = {name: getattr(self, name) for name in RECORDED}
        return tuple(float({**recorded, **self.further}[name]) for name in study.objectives)


def judge(
    result: RunResult,
    baselines: Mapping[str, BaselineRow],
    specs: Mapping[str, TaskSpec],
    backbone: BackboneInfo,
    study: StudyConfig,
    inference: Mapping[str, float] | None = None,
    *,
    plugins: Sequence[str] = (),
) -> Outcome:
    """Compare a run with the single-task baselines and the limits of its study.

    Args:
        result: What the run measured.
        baselines: Task -> single-task baseline.
        specs: The tasks.
        backbone: The network that grows.
        study: The study.
        inference: Measure -> what predictions cost, for those that the study names.
        plugins: Files that may provide operations, ``plugins`` of the run.

    Raises:
        BaselineError: If a baseline is missing, zero or not finite.
    """
    comparison = compare(result.metrics, baselines, specs)
    return _outcome(
        comparison.gains_percent,
        result.metrics,
        comparison.dead_tasks,
        {
            "delta_m_percent": comparison.delta_m_percent,
            "param_overhead_percent": overhead_percent(result.plan, backbone, plugins),
            "step_cost_ratio": result.step_cost_ratio,
        },
        further_results(study, comparison.gains_percent, result.metrics) | dict(inference or {}),
        study,
    )


def recorded_outcome(run: RunRow, last: Sequence[StoredEvaluation], study: StudyConfig) -> Outcome:
    """The outcome recorded for a complete run, judged by the limits of its study.

    Args:
        run: The facts of the run.
        last: Its evaluations at the last step.
        study: The study.
    """
    return _outcome(
        {row.task: row.gain_percent for row in last if row.gain_percent is not None},
        {row.task: row.value for row in last},
        tuple(filter(None, (run.dead_tasks or "").split(","))),
        {name: float(getattr(run, name)) for name in RECORDED},
        run.further_measures,
        study,
    )


def _outcome(
    gains: Mapping[str, float],
    metrics: Mapping[str, float],
    dead_tasks: tuple[str, ...],
    recorded: Mapping[str, float],
    further: Mapping[str, float],
    study: StudyConfig,
) -> Outcome:
    measured = {**recorded, **further}
    return Outcome(
        gains_percent=gains,
        metrics=dict(metrics),
        dead_tasks=dead_tasks,
        further=further,
        violations={name: measured[name] - limit for name, limit in study.limits.items()},
        **recorded,
    )


def further_results(
    study: StudyConfig, gains: Mapping[str, float], metrics: Mapping[str, float]
) -> dict[str, float]:
    """The results that a study names beside delta_m: of chosen tasks, of the worst one, a metric."""
    found = {}
    for name in study.measures:
        tasks = tasks_of(name)
        if name.startswith("metric."):
            found[name] = float(metrics[tasks[0]])
        elif tasks:
            found[name] = fmean(gains[task] for task in tasks)
        elif is_result(name) and name not in RECORDED:
            found[name] = min(gains.values())
    return found


def overhead_percent(plan: ExpansionPlan, backbone: BackboneInfo, plugins: Sequence[str]) -> float:
    """Parameters a plan adds, in percent of the headless backbone with its position embedding.

    Args:
        plan: The plan.
        backbone: The backbone.
        plugins: Files that may provide its operations.
    """
    own = (name for name, layers in plan.groups.items() if layers and name not in OPERATIONS)
    sizes = sizes_of(own, plan.options, backbone.embed_dim, backbone.linears, plugins)
    return plan.overhead_percent(backbone.embed_dim, backbone.num_parameters, backbone.linears, sizes)
