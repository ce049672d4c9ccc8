"""One trial from its parameters to its values."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

from dtme_search.config import RunConfig, StudyConfig
from dtme_search.models import describe_backbone
from dtme_search.search.data_shelf import DataShelf
from dtme_search.search.reuse.context import TrialContext
from dtme_search.search.reuse.equal_work import AlreadyDone, WorkClaim, plan_ahead
from dtme_search.search.reuse.trunks import TrialTrunk
from dtme_search.search.space.search_space import SearchSpace
from dtme_search.search.storage.records import Records
from dtme_search.search.storage.rows import BaselineRow, RungRow
from dtme_search.search.storage.trials import FINISHED, own_trials
from dtme_search.search.trial.callback import EvaluationInfo, StudyInfo, TrialEnd, TrialInfo
from dtme_search.search.trial.claim import ClaimedTrial, Ending
from dtme_search.search.trial.diary import Diary, DrawFiles
from dtme_search.search.trial.inference import InferenceMeter
from dtme_search.search.trial.kept import keep_weights
from dtme_search.search.trial.listener import Listener
from dtme_search.search.trial.outcome import (
    Comparison,
    Outcome,
    compare,
    further_results,
    judge,
    overhead_percent,
)
from dtme_search.search.trial.pruning import judge_rung, stop
from dtme_search.search.trial.result import Result
from dtme_search.search.trial.retries import goes_on_later, hand_back
from dtme_search.search.workspace import Workspace
from dtme_search.token_space import ConflictReport, ExpansionPlan
from dtme_search.training import Callbacks, Evaluation, RunResult, Trainer, run_within_memory


@dataclass(frozen=True, kw_only=True)
class Objective:
    """Trains what a trial proposes and returns the values of the study's objectives.

    Attributes:
        study: The study.
        info: The same for callbacks.
        space: Turns a trial into a config.
        baselines: Returns the single-task baselines that a config is compared with, by task.
        shelf: Data.
        records: Own SQL tables.
        workspace: Folders.
        meter: Knows what predictions cost.
        num_trials: Trials the study should reach, for display.
        listener: Receives progress.
        draw: Draws the pictures of a finished trial, or ``None``.
    """

    study: StudyConfig
    info: StudyInfo
    space: SearchSpace
    baselines: Callable[[RunConfig], Mapping[str, BaselineRow]]
    shelf: DataShelf
    records: Records
    workspace: Workspace
    meter: InferenceMeter
    num_trials: int
    listener: Listener = field(default_factory=Listener)
    draw: DrawFiles | None = None

    def run(self, claimed: ClaimedTrial, meanwhile: Callable[[], bool] = lambda: False) -> Ending:
        """Run one trial; an error in it becomes part of how it ended.

        Args:
            claimed: The trial.
            meanwhile: Runs another trial while this one would wait for another worker; returns whether it
                did.
        """
        try:
            return Ending(TrialState.COMPLETE, self._values(claimed, meanwhile))
        except optuna.TrialPruned:
            return Ending(TrialState.PRUNED)
        except (Exception, KeyboardInterrupt) as error:
            return Ending(TrialState.FAIL, error=error)

    def _values(self, claimed: ClaimedTrial, meanwhile: Callable[[], bool]) -> tuple[float, ...]:
        trial = claimed.trial
        with self._told(trial), claimed.begun(self.space) as config, ExitStack() as claims:
            finished = len(own_trials(trial.study, FINISHED))
            self.listener.trial_started(trial.number, finished, self.num_trials, trial.params)
            context = TrialContext(
                study=self.study,
                number=trial.number,
                first=claimed.first,
                config=config,
                data=self.shelf.get(config),
                records=self.records,
                workspace=self.workspace,
                expansion_steps=self.space.expansion_steps(config),
                baselines=self.baselines(config),
                base_baselines=self.baselines(self.space.base) if self.space.searches_architecture else {},
                should_stop=claimed.should_stop,
                on_wait=self.listener.waiting,
                meanwhile=meanwhile,
                devices=self.shelf.team.size,
            )
            diary = Diary(context, trial, self.draw)
            with self._called(diary), diary:
                result, outcome = self._result(context, diary, claims)
                result.save(self.workspace.result(claimed.first))
                result.write_down(trial, self.records)
        self.listener.trial_completed(trial.number, outcome)
        metrics, gains, (plan, report) = outcome.metrics, outcome.gains_percent, diary.grown
        end = TrialEnd(
            state="complete", run=result.row, metrics=metrics, gains_percent=gains, plan=plan, report=report
        )
        self.listener.on_trial_end(self._info_of(diary), end)
        return result.values

    def _info_of(self, diary: Diary) -> TrialInfo:
        context = diary.context
        return TrialInfo(
            study=self.info,
            number=context.number,
            first=context.first,
            params=diary.trial.params,
            config=context.config,
            baselines=context.baselines,
            folder=diary.folder,
        )

    @contextmanager
    def _called(self, diary: Diary) -> Iterator[None]:
        """Tell callbacks that a trial starts, and how it ends without a result."""
        self.listener.on_trial_begin(self._info_of(diary))
        try:
            yield
        except BaseException:
            plan, report = diary.grown
            state = "interrupted" if diary.row.state == "running" else diary.row.state  # it had just started
            end = TrialEnd(state=state, run=diary.row, plan=plan, report=report)
            self.listener.on_trial_end(self._info_of(diary), end)
            raise

    def _result(self, context: TrialContext, diary: Diary, claims: ExitStack) -> tuple[Result, Outcome]:
        """Train and judge, or take over the result of equal work."""
        try:
            run = self._train(context, diary, claims)
        except AlreadyDone as found:
            return diary.taken_over(found.origin)
        backbone = describe_backbone(context.config.model, context.data.image_size, context.config.plugins)
        inference = self.meter(context.config, run.plan, context.data.specs)
        outcome = judge(
            run,
            context.baselines,
            context.data.specs,
            backbone,
            self.study,
            inference,
            plugins=context.config.plugins,
        )
        return diary.completed(run, outcome), outcome

    @contextmanager
    def _told(self, trial: optuna.Trial) -> Iterator[None]:
        """Tell the listener how a trial ends without a result; store the reason of a failure."""
        try:
            yield
        except optuna.TrialPruned as pruned:
            self.listener.trial_stopped(trial.number, "pruned", str(pruned))
            raise
        except BaseException as error:
            reason = str(error)
            if isinstance(error, UpdateFinishedTrialError):
                reason = "presumed dead by another worker, which continues it"
            if goes_on_later(error):
                # Before Optuna ends the trial: if the process dies in between, the reason must not be lost.
                hand_back(trial.study, trial.number)
                self.listener.trial_stopped(trial.number, "interrupted", reason)
            elif isinstance(error, Exception):
                reason = f"{type(error).__name__}: {reason}"
                trial.set_user_attr("error", reason[:2000])
                self.listener.trial_stopped(trial.number, "failed", reason)
            raise

    def _train(self, context: TrialContext, diary: Diary, claims: ExitStack) -> RunResult:
        """Train, unless the same work is finished, which may be known now or only at the expansion step."""
        config, data = context.config, context.data
        trunk, work, team = TrialTrunk(context), WorkClaim(context, claims), self.shelf.team
        # Before anything is held or built: a trial that runs in between gets the device and all locks for
        # itself.
        while trunk.is_busy() and context.meanwhile():
            pass
        num_layers = describe_backbone(config.model, data.image_size, config.plugins).num_layers
        ahead = plan_ahead(config, trunk, num_layers)
        if ahead is not None:
            diary.expanded(ahead.plan, ahead.report, ahead.step)
            diary.resolved(work.take(ahead.plan, context.meanwhile, ahead.step))

        def on_expand(plan: ExpansionPlan, report: ConflictReport | None, step: int | None) -> None:
            if ahead is None or plan != ahead.plan:  # a run in parts measures its own conflicts
                diary.reached(step or 0)
                diary.expanded(plan, report, step)
            diary.resolved(work.take(plan, step=step))

        def make(parts: int) -> Trainer:
            callbacks = Callbacks(
                on_progress=self.listener.progress,
                on_expand=lambda plan, report: on_expand(plan, report, trainer.state.grown_at),
                on_evaluate=lambda evaluation: self._evaluated(diary, trainer, evaluation),
                on_gradients=diary.compared,
                on_reuse=diary.forked,
                should_stop=context.should_stop,
            )
            trainer = Trainer.of_config(
                config, data, folder=diary.folder, callbacks=callbacks, trunk=trunk, parts=parts, team=team
            )
            return trainer

        def on_short(reason: str) -> None:
            diary.short_of_memory(reason)
            self.listener.short_of_memory(context.number, reason)

        trainer, run = run_within_memory(make, on_short)
        file = self.workspace.weights(context.first)
        diary.kept = keep_weights(self.study, file, diary.row.fingerprint, trainer)
        return run

    def _evaluated(self, diary: Diary, trainer: Trainer, evaluation: Evaluation) -> None:
        """Record an evaluation, and end the trial if the study's pruner says so."""
        trial, num_evaluations = diary.trial, trainer.config.train.num_evaluations
        comparison = compare(evaluation.metrics, diary.context.baselines, trainer.data.specs)
        rung = _rung(trial.number, trainer, evaluation.step, comparison.delta_m_percent)
        rung = self._with_further(rung, trainer, evaluation, comparison)
        diary.evaluated(evaluation, comparison, trainer.state.parts)
        diary.judged(rung)
        self.listener.trial_evaluated(trial.number, evaluation.step, comparison.delta_m_percent)
        self.listener.on_evaluation(self._info_of(diary), _for_callbacks(diary, evaluation, comparison, rung))
        reason = judge_rung(trial, self.study, rung, num_evaluations, self.records)
        if reason is not None:
            stop(trial, reason, rung, self.study.limits)

    def _with_further(
        self, rung: RungRow, trainer: Trainer, evaluation: Evaluation, comparison: Comparison
    ) -> RungRow:
        """The measures that the study names beside those that every evaluation has."""
        found = further_results(self.study, comparison.gains_percent, evaluation.metrics)
        if rung.param_overhead_percent is not None:  # what the network grows to is known
            config, specs = trainer.config, trainer.data.specs
            plan = trainer.state.plan or ExpansionPlan.empty(
                tuple(config.tasks), trainer.model.info.num_layers
            )
            found |= self.meter(config, plan, specs)
        return replace(rung, measures=json.dumps(found)) if found else rung


def _for_callbacks(
    diary: Diary, evaluation: Evaluation, comparison: Comparison, rung: RungRow
) -> EvaluationInfo:
    plan, report = diary.grown
    return EvaluationInfo(
        step=evaluation.step,
        metrics=evaluation.metrics,
        losses=evaluation.losses,
        gains_percent=comparison.gains_percent,
        delta_m_percent=comparison.delta_m_percent,
        param_overhead_percent=rung.param_overhead_percent,
        step_cost_ratio=rung.step_cost_ratio,
        plan=plan,
        report=report,
    )


def _rung(number: int, trainer: Trainer, step: int, gain: float) -> RungRow:
    """What the trial is worth at this evaluation. Its cost is exact from the growth on."""
    config, data, plan = trainer.config, trainer.data, trainer.state.plan
    waits = plan is None and config.expansion_step is not None
    backbone = describe_backbone(config.model, data.image_size, config.plugins)
    overhead = overhead_percent(plan, backbone, config.plugins) if plan else 0.0
    return RungRow(
        trial=number,
        rung=round(step * config.train.num_evaluations / config.total_steps) - 1,
        step=step,
        delta_m_percent=gain,
        param_overhead_percent=None if waits else overhead,
        step_cost_ratio=None if waits else trainer.state.cost.mean(config.total_steps),
    )
