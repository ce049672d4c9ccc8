"""Everything that figures, pages and reports show of a study, read once."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from dtme_search.config import RunConfig, StudyConfig
from dtme_search.reporting.legend import could_grow
from dtme_search.reporting.measures import MOST_COLUMNS, baselines_of_trials
from dtme_search.reporting.tables import table_of_runs
from dtme_search.search import PROPOSAL_ATTR, BaselineRow, LoadedStudy, RunRow, own_trials
from dtme_search.search.storage.tables import CONFLICTS, EVALUATIONS, GRADIENTS
from dtme_search.token_space import ExpansionPlan

_FEWEST_FOR_IMPORTANCE = 8
"""Number of complete trials below which an importance would be a guess [ours]."""

KINDS = (
    "front",
    "complete",
    "infeasible",
    "taken over",
    "pruned",
    "failed",
    "interrupted",
    "running",
    "waiting",
)
"""How a trial may have ended; the first match counts, see :attr:`StudyData.kinds`."""


@dataclass(frozen=True)
class StudyData:
    """A study as tables.

    Attributes:
        study: The study itself.
        runs: Facts of each trial as a run.
        trials: The result of ``trials_table``.
        rungs: delta_m of every evaluation: ``trial``, ``step``, ``fraction`` (of its steps),
            ``delta_m_percent``.
        conflicts: Rates in percent, mean over the trials that measured: ``layer``, ``task_a``, ``task_b``,
            ``range_percent``, ``null_percent``, ``trials``.
        gradients: Gradient statistics: the columns of ``GradientRow`` with ``trial`` and ``fraction``.
        baselines: Trial -> task -> single-task baseline that it is compared with.
        parameters: Searched values, a row per trial and a column per parameter; missing if not searched.
    """

    study: LoadedStudy
    runs: Mapping[int, RunRow]
    trials: pd.DataFrame
    rungs: pd.DataFrame
    conflicts: pd.DataFrame
    gradients: pd.DataFrame
    baselines: Mapping[int, Mapping[str, BaselineRow]]
    parameters: pd.DataFrame

    @cached_property
    def proposals(self) -> Mapping[int, str]:
        """Why the sampler proposed a trial, if it gives a reason."""
        trials = own_trials(self.study.optuna)
        return {t.number: t.user_attrs[PROPOSAL_ATTR] for t in trials if PROPOSAL_ATTR in t.user_attrs}

    @property
    def name(self) -> str:
        """Name of the study."""
        return self.study.name

    @property
    def config(self) -> StudyConfig:
        """Definition of the study."""
        return self.study.config

    @cached_property
    def kinds(self) -> pd.Series:
        """Kind of every trial, one of ``KINDS``."""
        trials = self.trials
        kinds = trials["state"].astype(object)
        complete = trials["state"] == "complete"
        kinds[complete & (trials["feasible"] == False)] = "infeasible"  # noqa: E712
        if "origin_trial" in trials:
            kinds[complete & trials["origin_trial"].notna() & (kinds == "complete")] = "taken over"
        kinds[trials["on_front"].astype(bool)] = "front"
        return kinds

    @cached_property
    def complete(self) -> pd.DataFrame:
        """Trials with a result of their own or taken over, feasible or not."""
        return self.trials[self.trials["state"] == "complete"]

    @cached_property
    def feasible(self) -> pd.DataFrame:
        """Complete trials within the limits."""
        return self.complete[self.complete["feasible"] != False]  # noqa: E712

    @cached_property
    def compared(self) -> list[int]:
        """Trials to show side by side: the best on the front, including the best that never grew."""
        front = self.trials[self.trials["on_front"].astype(bool)]
        ranked = front.sort_values("delta_m_percent", ascending=False)["trial"].tolist()
        never = self.unexpanded.sort_values("delta_m_percent", ascending=False)["trial"].tolist()[:1]
        best = [] if self.best is None else [int(self.best["trial"])]
        return list(dict.fromkeys([*best, *never, *ranked]))[:MOST_COLUMNS]

    @cached_property
    def could_grow(self) -> bool:
        """Whether growth is part of the study, so that its absence is meaningful."""
        return could_grow(self.study)

    @cached_property
    def unexpanded(self) -> pd.DataFrame:
        """Complete trials whose network never grew."""
        return self.complete[self.complete["layers"].astype(str).str.fullmatch(r"\.+")]

    @cached_property
    def best(self) -> pd.Series | None:
        """Row of the trial that ``export --best`` chooses; ``None`` if none is feasible.

        By the first objective; if that is delta_m and trials are confirmed, by their mean over new seeds.
        """
        if self.feasible.empty:
            return None
        name, direction = next(iter(self.config.objectives.items()))
        confirmed = self.feasible[self.feasible["delta_m_mean"].notna()]
        if (name, direction) == ("delta_m_percent", "maximize") and not confirmed.empty:
            return confirmed.sort_values("delta_m_mean", ascending=False, kind="stable").iloc[0]
        if name == "delta_m_percent" and "expected_delta_m" in self.feasible:
            name = "expected_delta_m"
        return self.feasible.sort_values(name, ascending=direction == "minimize", kind="stable").iloc[0]

    @property
    def tasks(self) -> tuple[str, ...]:
        """Primary tasks: those that make up delta_m."""
        return tuple(next(filter(None, self.baselines.values()), ())) or tuple(
            name.removeprefix("gain_").removesuffix("_percent")
            for name in self.trials.columns
            if name.startswith("gain_")
        )

    @cached_property
    def run_config(self) -> RunConfig | None:
        """Config of the first trial, for what all trials have in common; ``None`` without trials."""
        found = next((run.config for run in self.runs.values() if run.config), None)
        return RunConfig.model_validate_json(found) if found else None

    @cached_property
    def importances(self) -> pd.DataFrame:
        """Share of each parameter in the spread of each objective: a row per parameter, sorted by the first.

        PED-ANOVA (Optuna's default), which measures what separates the best tenth from all trials. Empty if
        there are only a few trials.
        """
        if len(self.complete) < _FEWEST_FOR_IMPORTANCE:
            return pd.DataFrame()
        columns = {}
        for index, name in enumerate(self.config.objectives):
            shares = self._importance(index)
            if shares:
                columns[name] = shares
        frame = pd.DataFrame(columns)
        return frame.sort_values(frame.columns[0], ascending=False) if columns else frame

    def _importance(self, index: int) -> dict[str, float]:
        # The evaluator looks for what leads to low values, and warns that it does.
        sign = -1.0 if list(self.config.objectives.values())[index] == "maximize" else 1.0

        def target(trial: FrozenTrial) -> float:
            return sign * float(trial.values[index])

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            try:
                return get_param_importances(
                    self.study.optuna, evaluator=PedAnovaImportanceEvaluator(), target=target
                )
            except (ValueError, RuntimeError):  # all trials are alike, so nothing separates them
                return {}


def read_study_data(study: LoadedStudy) -> StudyData:
    """Read a study; takes a second or two for 2,000 trials."""
    trials = own_trials(study.optuna)
    runs = {run.trial: run for run in study.records.runs(study.name)}
    parameters = pd.DataFrame([trial.params for trial in trials], index=[trial.number for trial in trials])
    return StudyData(
        study=study,
        runs=runs,
        trials=table_of_runs(study, runs),
        rungs=_rungs(study, runs),
        conflicts=_conflicts(study),
        gradients=_gradients(study, runs),
        baselines=baselines_of_trials(study, runs.values()),
        parameters=parameters,
    )


def plan_of_run(run: RunRow) -> ExpansionPlan | None:
    """Expansion plan of a complete trial, whose config contains it; otherwise ``None``."""
    if run.state != "complete" or run.operations is None or run.config is None:
        return None
    config = RunConfig.model_validate_json(run.config)
    expansion, tasks = config.expansion, tuple(config.tasks)
    layers = len(run.operations.split())
    if expansion.policy != "fixed":
        return ExpansionPlan.empty(tasks, layers)
    return ExpansionPlan.from_config(expansion, tasks, layers)


def _rungs(study: LoadedStudy, runs: Mapping[int, RunRow]) -> pd.DataFrame:
    place = EVALUATIONS.c
    query = (
        select(place.trial, place.step, func.avg(place.gain_percent).label("delta_m_percent"))
        .where(place.study == study.name, place.gain_percent.is_not(None))
        .group_by(place.trial, place.step)
        .order_by(place.trial, place.step)
    )
    rungs = _frame(study, query)
    totals = {number: run.total_steps for number, run in runs.items()}
    rungs["fraction"] = rungs["step"] / rungs["trial"].map(totals).astype(float)
    return rungs


def _conflicts(study: LoadedStudy) -> pd.DataFrame:
    place = CONFLICTS.c
    query = (
        select(
            place.layer,
            place.task_a,
            place.task_b,
            (100 * func.avg(place.range_rate)).label("range_percent"),
            (100 * func.avg(place.null_rate)).label("null_percent"),
            func.count().label("trials"),
        )
        .where(place.study == study.name)
        .group_by(place.layer, place.task_a, place.task_b)
        .order_by(place.layer, place.task_a, place.task_b)
    )
    return _frame(study, query)


def _gradients(study: LoadedStudy, runs: Mapping[int, RunRow]) -> pd.DataFrame:
    rows = _frame(study, select(GRADIENTS).where(GRADIENTS.c.study == study.name))
    totals = {number: run.total_steps for number, run in runs.items()}
    rows["fraction"] = rows["step"] / rows["trial"].map(totals).astype(float)
    return rows


def _frame(study: LoadedStudy, query: Any) -> pd.DataFrame:
    with Session(study.records.engine) as session:
        result = session.execute(query)
        return pd.DataFrame(result.fetchall(), columns=list(result.keys()))
