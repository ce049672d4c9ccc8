"""Work that a study has already done: many proposals lead to the same training, which is paid for once."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import NamedTuple

from filelock import FileLock

from dtme_search.config import RunConfig
from dtme_search.schedules import build_schedule
from dtme_search.search.locks import held
from dtme_search.search.reuse.context import TrialContext
from dtme_search.search.reuse.trunks import TrialTrunk
from dtme_search.search.storage.rows import RunRow
from dtme_search.token_space import ConflictReport, ExpansionPlan
from dtme_search.training.growth import plan_for, waits
from dtme_search.training.identity import RunContext, weights_follow_results, work_fingerprint


class AlreadyDone(Exception):
    """This work is finished; ``origin`` is the run that did it."""

    def __init__(self, origin: RunRow) -> None:
        super().__init__(f"equal to trial {origin.trial}")
        self.origin = origin


class WorkClaim:
    """The only trial of a study that may do a piece of work, as long as ``until`` is open.

    Args:
        context: The trial.
        until: Closed when the trial has ended.
    """

    def __init__(self, context: TrialContext, until: ExitStack) -> None:
        self._context = context
        self._until = until
        self._fingerprint: str | None = None

    def take(
        self, plan: ExpansionPlan, meanwhile: Callable[[], bool] = lambda: False, step: int | None = None
    ) -> str:
        """Claim the work that a plan leads to, and return its fingerprint.

        ``meanwhile`` does other work while another worker has this one, and returns whether there was any.

        Raises:
            AlreadyDone: If a trial of the study has finished it, perhaps while this one waited.
            TrainingInterrupted: If the run was asked to stop while it waited.
        """
        context = self._context
        arithmetic = RunContext.of(context.config, context.data.device, context.devices)
        config = context.config.grown_at(step)
        fingerprint = work_fingerprint(config, plan, context.data.fingerprint, arithmetic)
        if context.study.reuse.equal_work and fingerprint != self._fingerprint:
            lock = FileLock(context.workspace.work_lock(fingerprint))
            self._until.enter_context(
                held(
                    lock,
                    context.should_stop,
                    lambda: context.on_wait("equal work"),
                    meanwhile,
                    context.waits.append,
                )
            )
            origin = context.records.finished_work(context.study.name, fingerprint)
            if origin is not None:
                raise AlreadyDone(origin)
        self._fingerprint = fingerprint
        return fingerprint


class Ahead(NamedTuple):
    """What a run will come to: its plan, the conflicts behind it, and the step of its growth."""

    plan: ExpansionPlan
    report: ConflictReport | None
    step: int | None


def plan_ahead(config: RunConfig, trunk: TrialTrunk, num_layers: int) -> Ahead | None:
    """The plan that a run will lead to and its conflicts, if both are known without training."""
    if not config.growth_steps:
        return Ahead(ExpansionPlan.empty(tuple(config.tasks), num_layers), None, None)
    if weights_follow_results(config):
        return None
    schedule, report = build_schedule(config), None
    for step in config.growth_steps:
        active = tuple(name for name, weight in schedule.weights(step).items() if weight > 0)
        if config.expansion.needs_conflicts:
            known = trunk.known_report(step, active)
            if known is None:
                return None
            report = known[0]
        if not waits(config, step, report):
            return Ahead(plan_for(config, report, active, num_layers), report, step)
    raise AssertionError("at its last start a run grows")
