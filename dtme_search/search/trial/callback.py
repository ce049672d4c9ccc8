"""What a search tells a callback: the events that trackers of experiments stand on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from dtme_search.config import RunConfig, StudyConfig
from dtme_search.search.storage.rows import BaselineRow, RunRow
from dtme_search.tasks import TaskSpec

if TYPE_CHECKING:
    from dtme_search.token_space import ConflictReport, ExpansionPlan


@dataclass(frozen=True, kw_only=True)
class StudyInfo:
    """A study that is worked on.

    Attributes:
        config: The study; ``config.trials`` is its total.
        base: The config that its trials start from.
        tasks: Task -> its metric, unit and direction.
        folder: Folder of the study.
    """

    config: StudyConfig
    base: RunConfig
    tasks: Mapping[str, TaskSpec]
    folder: Path

    @property
    def name(self) -> str:
        """Name of the study."""
        return self.config.name


@dataclass(frozen=True, kw_only=True)
class TrialInfo:
    """A trial that runs.

    Attributes:
        study: Its study.
        number: Its number.
        first: Number of the trial that it goes on from after an interruption, else its own: a tracker that
            names runs by it has one run for both.
        params: Searched path -> value.
        config: The config that it trains.
        baselines: Task -> the single-task baseline that it is compared with.
        folder: Folder of its files.
    """

    study: StudyInfo
    number: int
    first: int
    params: Mapping[str, object]
    config: RunConfig
    baselines: Mapping[str, BaselineRow]
    folder: Path


@dataclass(frozen=True, kw_only=True)
class EvaluationInfo:
    """A trial at one evaluation on the hold-out.

    Attributes:
        step: Optimiser steps done.
        metrics: Task, auxiliary ones included -> metric, in the unit of its ``TaskSpec``.
        losses: Task -> mean training loss since the evaluation before.
        gains_percent: Primary task -> signed gain over its baseline, in percent.
        delta_m_percent: Mean of the gains.
        param_overhead_percent: Parameters that growth added, in percent; ``None`` while it is to come.
        step_cost_ratio: Mean cost of a step of the whole run over an unexpanded one; ``None`` likewise.
        plan: What was built; ``None`` before.
        report: The conflicts behind it; ``None`` where none were measured.
    """

    step: int
    metrics: Mapping[str, float]
    losses: Mapping[str, float]
    gains_percent: Mapping[str, float]
    delta_m_percent: float
    param_overhead_percent: float | None = None
    step_cost_ratio: float | None = None
    plan: ExpansionPlan | None = None
    report: ConflictReport | None = None


@dataclass(frozen=True, kw_only=True)
class TrialEnd:
    """How a trial ended.

    Attributes:
        state: ``complete``, ``pruned``, ``failed`` or ``interrupted`` (it goes on later).
        run: Its row of ``dtme_runs``: delta_m, overhead, step cost, seconds, reason or error, and the config
            as JSON, with the plan in it once the trial is complete.
        metrics: Task -> metric; empty unless it is complete.
        gains_percent: Primary task -> signed gain over its baseline; empty unless it is complete.
        plan: What was built; ``None`` for a network that did not come to its growth.
        report: The conflicts behind it; ``None`` where none were measured.
    """

    state: str
    run: RunRow
    metrics: Mapping[str, float] = field(default_factory=dict)
    gains_percent: Mapping[str, float] = field(default_factory=dict)
    plan: ExpansionPlan | None = None
    report: ConflictReport | None = None


class Callback:
    """Base of all callbacks: hears of a search and does nothing. Override what you need.

    Each process that trains trials calls its own callbacks, with several workers made anew from their import
    paths. A trial that takes over the result of equal work (``end.run.origin_trial``) has no evaluations of
    its own. What a callback raises is logged as a warning, once for each kind, and disturbs no trial.

    Example:
        >>> class Curve(Callback):
        ...     def on_evaluation(self, trial, evaluation):
        ...         print(trial.number, evaluation.step, evaluation.delta_m_percent)
        >>> optimize("demo", callbacks=[Curve()])     # doctest: +SKIP
    """

    def on_study_begin(self, study: StudyInfo) -> None:
        """This process begins to work on the study."""

    def on_baseline_end(self, baseline: BaselineRow, trained: bool) -> None:
        """A single-task baseline is known; ``trained`` is false when the database had it."""

    def on_trial_begin(self, trial: TrialInfo) -> None:
        """A trial begins, or goes on from its checkpoint."""

    def on_evaluation(self, trial: TrialInfo, evaluation: EvaluationInfo) -> None:
        """A trial was evaluated on the hold-out, or took the evaluation over from shared training."""

    def on_trial_end(self, trial: TrialInfo, end: TrialEnd) -> None:
        """A trial that began has ended, however."""

    def on_study_end(self, study: StudyInfo, finished: int) -> None:
        """This process stops working on the study, which has ``finished`` of its trials."""
