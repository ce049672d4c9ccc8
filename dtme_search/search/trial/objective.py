"""The story of one trial, from proposal to values."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import optuna
from filelock import FileLock, Timeout
from optuna.exceptions import UpdateFinishedTrialError

from dtme_search.config import RunConfig, StudyConfig
from dtme_search.data import TaskData
from dtme_search.models import describe_backbone
from dtme_search.search.data_shelf import DataShelf
from dtme_search.search.locks import wait_for
from dtme_search.search.reuse.equal_work import AlreadyDone, WorkClaim, plan_ahead
from dtme_search.search.reuse.trunks import TrialTrunk, TrunkStore
from dtme_search.search.space.search_space import SearchSpace
from dtme_search.search.storage.records import BaselineRow, Records, RungRow
from dtme_search.search.storage.study_lock import AskingLock
from dtme_search.search.storage.trials import FINISHED, own_trials
from dtme_search.search.trial.diary import Diary, DrawFiles
from dtme_search.search.trial.heartbeat import Heartbeat
from dtme_search.search.trial.listener import Listener
from dtme_search.search.trial.outcome import compare, judge, overhead_percent
from dtme_search.search.trial.pruning import ParetoPruner, stop
from dtme_search.search.trial.retries import first_number, goes_on_later, hand_back
from dtme_search.search.workspace import Workspace
from dtme_search.token_space import ConflictReport, ExpansionPlan
from dtme_search.training import Callbacks, Evaluation, RunResult, Trainer, run_within_memory


@dataclass
class Objective:
    """Trains what a trial proposes and gives the values of the study's objectives.

    Attributes:
        study: The study.
        space: Turns a trial into a config.
        baselines: Gives the single-task baselines that a config is compared with, by task.
        shelf: Data.
        records: Own SQL tables.
        workspace: Folders.
        asking: Lock to hold while asking for a trial; released when it has a lock of its own and parameters.
        listener: Who hears of it.
        draw: Draws the pictures of a finished trial, or ``None``.
        should_stop: Asked between steps; a stopped trial goes on later.
        num_trials: Trials the study should reach, for display.
    """

    study: StudyConfig
    space: SearchSpace
    baselines: Callable[[RunConfig], Mapping[str, BaselineRow]]
    shelf: DataShelf
    records: Records
    workspace: Workspace
    asking: AskingLock
    num_trials: int
    listener: Listener = field(default_factory=Listener)
    draw: DrawFiles | None = None
    should_stop: Callable[[], bool] = lambda: False

    def __post_init__(self) -> None:
        self._running: FileLock | None = None
        self._heart: Heartbeat | None = None

    def __call__(self, trial: optuna.Trial) -> tuple[float, ...]:
        """Run one trial.

        Raises:
            optuna.TrialPruned: If the study's pruner stops it, or stopped equal work; the message says why.
            TrainingInterrupted: If ``should_stop`` said so.
            Exception: What ``retries.goes_on_later`` knows, and what makes the trial a failure.
        """
        with self._told(trial), ExitStack() as claims:
            first = first_number(trial)
            self.workspace.claim_trial(first, trial.number)
            # Not earlier: one with a sign of life that is not known to run here is taken to run elsewhere.
            self._heart = claims.enter_context(Heartbeat(trial.study, trial))
            try:
                self._hold(self.workspace.trial_lock(first))
                config = self.space.suggest(trial)
            finally:
                # Not earlier: a trial without parameters that nobody asks for belongs to a dead process.
                self.asking.release()
            self._tell_start(trial)
            against = self.baselines(config)
            data, folder = self.shelf.get(config), self.workspace.trial(first)
            artifacts = self.workspace.artifacts
            with Diary(trial, self.study, config, data, self.records, folder, artifacts, self.draw) as diary:
                try:
                    diary.compared(against)
                    run = self._train(trial, config, against, diary, claims)
                    backbone = describe_backbone(config.model, data.image_size)
                    outcome = judge(run, against, data.specs, backbone, self.study)
                    result = diary.completed(run, outcome)
                except AlreadyDone as found:
                    result, outcome = diary.taken_over(found.origin)
                result.save(self.workspace.result(first))
                result.write_down(trial, self.records)
        self.listener.trial_completed(trial.number, outcome)
        return result.values

    def let_go(self) -> None:
        """Release the lock of the trial in hand; to be called when Optuna knows how the trial ended."""
        if self._running is not None:
            self._running.release()

    def _should_stop(self) -> bool:
        return self.should_stop() or (self._heart is not None and self._heart.is_lost)

    def _hold(self, path: Path) -> None:
        self._running = FileLock(path)
        try:
            self._running.acquire(timeout=0)
        except Timeout:
            # Others took its former process for dead, which lives: it will notice, and leave a checkpoint.
            self.asking.release()
            wait_for(self._running, self._should_stop)

    def _tell_start(self, trial: optuna.Trial) -> None:
        finished = len(own_trials(trial.study, FINISHED))
        self.listener.trial_started(trial.number, finished, self.num_trials, trial.params)

    @contextmanager
    def _told(self, trial: optuna.Trial) -> Iterator[None]:
        """Tell the listener how a trial ends without a result; keep the reason of a failure."""
        try:
            yield
        except optuna.TrialPruned as pruned:
            self.listener.trial_stopped(trial.number, "pruned", str(pruned))
            raise
        except BaseException as error:
            reason = str(error)
            if isinstance(error, UpdateFinishedTrialError):
                reason = "taken for dead by another worker, which goes on with it"
            if goes_on_later(error):
                # Before Optuna ends the trial: a process that dies in between must not lose it.
                hand_back(trial.study, trial.number)
                self.listener.trial_stopped(trial.number, "interrupted", reason)
            elif isinstance(error, Exception):
                reason = f"{type(error).__name__}: {reason}"
                trial.set_user_attr("error", reason[:2000])
                self.listener.trial_stopped(trial.number, "failed", reason)
            raise

    def _train(
        self,
        trial: optuna.Trial,
        config: RunConfig,
        against: Mapping[str, BaselineRow],
        diary: Diary,
        claims: ExitStack,
    ) -> RunResult:
        """Train, unless the same work is finished: that may be known now, or at the expansion step."""
        data, trunk = diary.data, self._trunk(trial, config, diary.data)
        work = self._work(config, data, claims)
        num_layers = describe_backbone(config.model, data.image_size).num_layers
        ahead = plan_ahead(config, trunk, num_layers)
        if ahead is not None:
            diary.expanded(*ahead)
            diary.resolved(work.take(ahead[0]))

        def on_expand(plan: ExpansionPlan, report: ConflictReport | None) -> None:
            if ahead is None or plan != ahead[0]:  # a run in parts measures for itself
                diary.reached(config.expansion_step or 0)
                diary.expanded(plan, report)
            diary.resolved(work.take(plan))

        def on_evaluate(trainer: Trainer, evaluation: Evaluation) -> None:
            comparison = compare(evaluation.metrics, against, data.specs)
            rung = self._rung(trial.number, trainer, evaluation.step, comparison.delta_m_percent)
            diary.evaluated(evaluation, comparison)
            diary.judged(rung)
            self.listener.trial_evaluated(trial.number, evaluation.step, comparison.delta_m_percent)
            self._prune(trial, config, rung)

        def make(parts: int) -> Trainer:
            callbacks = Callbacks(
                on_progress=self.listener.progress,
                on_expand=on_expand,
                on_evaluate=lambda evaluation: on_evaluate(trainer, evaluation),
                on_reuse=diary.forked,
                should_stop=self._should_stop,
            )
            trainer = Trainer.of_config(
                config, data, folder=diary.folder, callbacks=callbacks, trunk=trunk, parts=parts
            )
            return trainer

        def on_short(reason: str) -> None:
            diary.short_of_memory(reason)
            self.listener.short_of_memory(trial.number, reason)

        return run_within_memory(make, on_short)[1]

    def _trunk(self, trial: optuna.Trial, config: RunConfig, data: TaskData) -> TrialTrunk:
        return TrialTrunk(
            TrunkStore.of_study(self.workspace, self.study.reuse),
            config,
            data,
            self.space.expansion_steps(config),
            self.study.name,
            trial.number,
            self.records,
            self._should_stop,
            self.listener.waiting,
        )

    def _work(self, config: RunConfig, data: TaskData, until: ExitStack) -> WorkClaim:
        return WorkClaim(
            self.study.name,
            config,
            data.fingerprint,
            self.records,
            self.workspace,
            until,
            self.study.reuse.equal_work,
            self._should_stop,
            self.listener.waiting,
        )

    def _rung(self, number: int, trainer: Trainer, step: int, gain: float) -> RungRow:
        """What the trial is worth at this evaluation. Its cost is exact from the growth on."""
        config, data, plan = trainer.config, trainer.data, trainer.state.plan
        waits = plan is None and config.expansion_step is not None
        backbone = describe_backbone(config.model, data.image_size)
        return RungRow(
            trial=number,
            rung=round(step * config.train.num_evaluations / config.total_steps) - 1,
            step=step,
            delta_m_percent=gain,
            param_overhead_percent=None if waits else overhead_percent(plan, backbone) if plan else 0.0,
            step_cost_ratio=None if waits else trainer.state.cost.mean(config.total_steps),
        )

    def _prune(self, trial: optuna.Trial, config: RunConfig, rung: RungRow) -> None:
        """End the trial if the study's pruner says so.

        With several objectives nothing is reported to Optuna: its TPE fails on intermediate values there.
        """
        pruner, reason = self.study.pruner.name, None
        if pruner == "pareto":
            ranking = ParetoPruner.of_study(self.study, config.train.num_evaluations)
            if ranking.judges(rung):
                here, at_the_end = (
                    self.records.competitors(self.study.name, number)
                    for number in (rung.rung, config.train.num_evaluations - 1)
                )
                reason = ranking.reason(trial.number, here, at_the_end)
        elif pruner != "none":
            known = trial.study.get_trials(deepcopy=False)[trial.number].intermediate_values
            if rung.rung not in known:  # a continued trial may evaluate a rung again
                trial.report(rung.delta_m_percent, rung.rung)
            if trial.should_prune():
                reason = f"{pruner}: delta_m {rung.delta_m_percent:+.2f} % at step {rung.step}"
        if reason is not None:
            stop(trial, reason, rung, self.study.limits)
