"""What a tracker is told, as plain values: the numbers of each event by name."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from dtme_search.config import RunConfig, StudyConfig, dump_yaml
from dtme_search.search.storage.rows import RunRow
from dtme_search.search.trackers.masking import masked
from dtme_search.search.trial.callback import EvaluationInfo, StudyInfo, TrialEnd, TrialInfo
from dtme_search.token_space import ConflictReport

Value = str | float | int | bool
"""A setting or result that every tracker can hold."""


AXES = {"conflict_range": "layer", "conflict_null": "layer", "trial": "trial"}
"""Beginning of a name, up to a slash -> what its positions count; steps of the training for all others."""


def axis_of(name: str) -> str:
    """What the positions of a number count.

    Example:
        >>> axis_of("loss/depth"), axis_of("conflict_range/depth-edge")
        ('step', 'layer')
    """
    return AXES.get(name.partition("/")[0], "step")


@dataclass(frozen=True)
class TrackedRun:
    """A run in a tracker: a study, or one of its trials.

    Attributes:
        study: The study.
        trial: Number of the trial; ``None`` for the study itself. A trial that continues another after an
            interruption has the number of that one, so both are one run.
    """

    study: StudyInfo
    trial: int | None = None

    @property
    def key(self) -> str:
        """Identifies the run: the same in each process and after a restart, different for other studies."""
        return self.study.id if self.trial is None else f"{self.study.id}-{self.trial:04d}"

    @property
    def label(self) -> str:
        """``study`` or ``trial-0003``."""
        return "study" if self.trial is None else f"trial-{self.trial:04d}"

    @property
    def parent(self) -> TrackedRun | None:
        """The run of the study; ``None`` if this is it."""
        return None if self.trial is None else TrackedRun(self.study)


def of_study(study: StudyInfo) -> dict[str, Value]:
    """Settings of a study that tell studies apart."""
    config, base = study.config, study.base
    return {
        "dataset": base.data.name,
        "backbone": base.model.backbone,
        "tasks": ", ".join(study.tasks),
        "objectives": ", ".join(f"{name} ({direction})" for name, direction in config.objectives.items()),
        "sampler": config.sampler.name,
        "trials": config.trials,
        "steps": base.total_steps,
        "seed": config.seed,
    }


def as_yaml(config: StudyConfig | RunConfig) -> str:
    """A study or a config, secrets masked."""
    values = config.model_dump(mode="json", exclude_unset=isinstance(config, StudyConfig))
    return dump_yaml({name: masked(value, name) for name, value in values.items()})


def tasks_as_text(study: StudyInfo) -> str:
    """A line for each task: its metric, unit and direction."""
    lines = [
        f"{name}: {spec.metric} in {spec.unit}, {'higher' if spec.higher_is_better else 'lower'} is better"
        for name, spec in study.tasks.items()
    ]
    return "\n".join(lines)


def of_trial(trial: TrialInfo) -> dict[str, Value]:
    """The searched values of a trial, secrets masked."""
    values = {path: masked(value, path) for path, value in trial.params.items()}
    return {path: value if isinstance(value, Value) else str(value) for path, value in values.items()}


def of_evaluation(at: EvaluationInfo) -> dict[str, float]:
    """Numbers of one evaluation: metrics, losses and gains of all tasks, delta_m, overhead, step cost."""
    return _known(
        {
            **_by_task("metric", at.metrics),
            **_by_task("loss", at.losses),
            **_by_task("gain_percent", at.gains_percent),
            "delta_m_percent": at.delta_m_percent,
            "param_overhead_percent": at.param_overhead_percent,
            "step_cost_ratio": at.step_cost_ratio,
        }
    )


def of_result(end: TrialEnd) -> dict[str, float]:
    """The same numbers of a finished trial, for one that took over its result and was never evaluated."""
    return _known(
        {
            **_by_task("metric", end.metrics),
            **_by_task("gain_percent", end.gains_percent),
            **trial_in_study(end.run),
        }
    )


def trial_in_study(run: RunRow) -> dict[str, float]:
    """What a trial contributes to the curves of its study."""
    names = ("delta_m_percent", "param_overhead_percent", "step_cost_ratio")
    return _known({name: getattr(run, name) for name in names})


def of_conflicts(report: ConflictReport) -> Iterator[tuple[int, dict[str, float]]]:
    """0-based layer and its conflict rates by pair of tasks, in the range and in the null space."""
    names = report.tasks
    for layer in range(report.num_layers):
        yield (
            layer,
            _known(
                {
                    f"conflict_{space}/{a}-{b}": float(rates[layer, names.index(a), names.index(b)])
                    for space, rates in (("range", report.range_rates), ("null", report.null_rates))
                    for a, b in report.pairs
                }
            ),
        )


def summary(end: TrialEnd) -> dict[str, Value]:
    """How a trial ended, in facts."""
    run = end.run
    facts: dict[str, Value | None] = {
        "state": end.state,
        **trial_in_study(run),
        "operations": run.operations,
        "feasible": run.feasible,
        "seconds_total": run.seconds_total,
        "steps_trained": run.steps_trained,
        "steps_reused": run.steps_reused,
        "origin_trial": run.origin_trial,
        "device": run.device,
        "reason": run.reason,
        "error": run.error,
    }
    return {name: masked(value, name) for name, value in facts.items() if value is not None}  # type: ignore[misc]


def _by_task(what: str, values: Mapping[str, float]) -> dict[str, float | None]:
    return {f"{what}/{task}": value for task, value in values.items()}


def _known(values: Mapping[str, float | None]) -> dict[str, float]:
    """Without what is not known: no tracker draws it, and some refuse it."""
    return {name: value for name, value in values.items() if value is not None and math.isfinite(value)}
