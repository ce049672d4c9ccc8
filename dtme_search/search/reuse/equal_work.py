"""Work that a study has done already: many proposals come to the same training, which is paid for once."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from filelock import FileLock

from dtme_search.config import RunConfig
from dtme_search.data import TaskData
from dtme_search.schedules import build_schedule
from dtme_search.search.locks import held
from dtme_search.search.reuse.trunks import TrialTrunk
from dtme_search.search.storage.records import Records, RunRow
from dtme_search.search.workspace import Workspace
from dtme_search.token_space import ConflictReport, ExpansionPlan, needs_conflicts
from dtme_search.training.growth import plan_for
from dtme_search.training.identity import RunContext, weights_follow_results, work_fingerprint


class AlreadyDone(Exception):
    """This work is finished; ``origin`` is the run that did it."""

    def __init__(self, origin: RunRow) -> None:
        super().__init__(f"equal to trial {origin.trial}")
        self.origin = origin


@dataclass
class WorkClaim:
    """The one trial of a study that may do a piece of work, as long as ``until`` is open.

    Attributes:
        study: Name of the study.
        config: What the trial runs.
        data: Its data, on the device where it trains.
        records: Own SQL tables.
        workspace: Folders; the lock of the work lies there.
        until: Closed when the trial has ended.
        enabled: Whether finished work is looked for at all.
        should_stop: Asked while another worker does the same work.
        on_wait: Told when that happens.
    """

    study: str
    config: RunConfig
    data: TaskData
    records: Records
    workspace: Workspace
    until: ExitStack
    enabled: bool = True
    should_stop: Callable[[], bool] = lambda: False
    on_wait: Callable[[str], None] = lambda _: None
    fingerprint: str | None = None

    def take(self, plan: ExpansionPlan) -> str:
        """Claim the work that a plan comes to, and give its fingerprint.

        Raises:
            AlreadyDone: If a trial of the study finished it, perhaps while this one waited for it.
            TrainingInterrupted: If the run was asked to stop while it waited.
        """
        context = RunContext.of(self.config, self.data.device)
        fingerprint = work_fingerprint(self.config, plan, self.data.fingerprint, context)
        if self.enabled and fingerprint != self.fingerprint:
            lock = FileLock(self.workspace.work_lock(fingerprint))
            self.until.enter_context(held(lock, self.should_stop, lambda: self.on_wait("equal work")))
            origin = self.records.finished_work(self.study, fingerprint)
            if origin is not None:
                raise AlreadyDone(origin)
        self.fingerprint = fingerprint
        return fingerprint


def plan_ahead(
    config: RunConfig, trunk: TrialTrunk, num_layers: int
) -> tuple[ExpansionPlan, ConflictReport | None] | None:
    """The plan that a run will come to and its conflicts, where both are known without training."""
    step = config.expansion_step
    if step is None:
        return ExpansionPlan.empty(tuple(config.tasks), num_layers), None
    if weights_follow_results(config):
        return None
    active = tuple(name for name, weight in build_schedule(config).weights(step).items() if weight > 0)
    report = None
    if needs_conflicts(config.expansion):
        known = trunk.known_report(step, active)
        if known is None:
            return None
        report = known[0]
    return plan_for(config, report, active, num_layers), report
