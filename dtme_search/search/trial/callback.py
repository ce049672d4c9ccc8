"""What a search reports to a callback: the events that experiment trackers need."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
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
    """A study being worked on.

    Attributes:
        config: The study; ``config.trials`` is its total.
        base: The config that its trials start from.
        tasks: Task -> its metric, unit and direction.
        folder: Folder of the study.
        id: The same in all its processes, also after it was renamed; another for a later study of its name.
        front: Asks the database for the numbers of the trials on the front.
    """

    config: StudyConfig
    base: RunConfig
    tasks: Mapping[str, TaskSpec]
    folder: Path
    id: str
    front: Callable[[], Set[int]]

    @property
    def name(self) -> str:
        """Name of the study."""
        return self.config.name


@dataclass(frozen=True, kw_only=True)
class TrialInfo:
    """A running trial.

    Attributes:
        study: Its study.
        number: Its number.
        first: Number of the trial that it continues after an interruption, else its own: a tracker that names
            its runs by it has one run for both.
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
        losses: Task -> mean training loss since the previous evaluation.
        gains_percent: Primary task -> signed gain over its baseline, in percent.
        delta_m_percent: Mean of the gains.
        param_overhead_percent: Parameters that growth added, in percent; ``None`` before the growth.
        step_cost_ratio: Mean cost of a step over the whole run, in unexpanded steps; ``None`` likewise.
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
        state: ``complete``, ``pruned``, ``failed`` or ``interrupted`` (it will resume).
        run: Its row of ``dtme_runs``: delta_m, overhead, step cost, seconds, reason or error, and the config
            as JSON, which contains the plan once the trial is complete.
        metrics: Task -> metric; empty unless it is complete.
        gains_percent: Primary task -> signed gain over its baseline; empty unless it is complete.
        plan: What was built; ``None`` if the network did not reach its growth.
        report: The conflicts behind it; ``None`` where none were measured.
    """

    state: str
    run: RunRow
    metrics: Mapping[str, float] = field(default_factory=dict)
    gains_percent: Mapping[str, float] = field(default_factory=dict)
    plan: ExpansionPlan | None = None
    report: ConflictReport | None = None


class Callback:
    """Base of all callbacks: receives the events of a search and does nothing. Override what you need.

    Each process that trains trials calls its own callbacks; with several workers each creates them from their
    import paths. A trial that takes over the result of equal work (``end.run.origin_trial``) has no
    evaluations of its own. An exception in a callback is logged as a warning, once per kind, and disturbs no
    trial.

    Example:
        >>> class Curve(Callback):
        ...     def on_evaluation(self, trial, evaluation):
        ...         print(trial.number, evaluation.step, evaluation.delta_m_percent)
        >>> optimize("demo", callbacks=[Curve()])     # doctest: +SKIP
    """

    def on_study_begin(self, study: StudyInfo) -> None:
        """This process starts to work on the study."""

    def on_baseline_end(self, baseline: BaselineRow, trained: bool) -> None:
        """A single-task baseline is known; ``trained`` is false if the database had it."""

    def on_trial_begin(self, trial: TrialInfo) -> None:
        """A trial starts, or resumes from its checkpoint."""

    def on_evaluation(self, trial: TrialInfo, evaluation: EvaluationInfo) -> None:
        """A trial was evaluated on the hold-out, or took the evaluation from shared training."""

    def on_trial_end(self, trial: TrialInfo, end: TrialEnd) -> None:
        """A trial has ended, in whatever way."""

    def on_study_end(self, study: StudyInfo, finished: int) -> None:
        """This process stops working on the study, of which ``finished`` trials are done."""
