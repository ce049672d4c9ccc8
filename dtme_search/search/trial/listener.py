"""What a search reports to observers; the command line draws it, a notebook may ignore it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from dtme_search.search.trial.callback import Callback

if TYPE_CHECKING:
    from dtme_search.search.storage.rows import BaselineRow, ConfirmationRow
    from dtme_search.search.trial.outcome import Outcome
    from dtme_search.training import Progress


@dataclass(frozen=True)
class WorkerStatus:
    """What one worker is doing.

    Attributes:
        index: Its number on this machine.
        place: Where it runs.
        doing: What it is doing, in words; empty once it has ended.
        trial: Number of its trial.
        step: Steps done of the ``total_steps`` of the current run.
        total_steps: Length of the run; ``None`` while unknown.
        delta_m_percent: Latest evaluation of the trial.
        starts: How often the worker was started.
        since: Time and step of the first sign of life of the current run.
        seen: Time of the last one.
    """

    index: int
    place: str
    doing: str = "starting"
    trial: int | None = None
    step: int = 0
    total_steps: int | None = None
    delta_m_percent: float | None = None
    starts: int = 1
    since: tuple[float, int] | None = None
    seen: float = 0.0

    @property
    def seconds_left(self) -> float | None:
        """Time until the current run ends at its speed so far; ``None`` while unknown."""
        if self.since is None or self.total_steps is None or self.step <= self.since[1]:
            return None
        moment, step = self.since
        return (self.total_steps - self.step) * (self.seen - moment) / (self.step - step)

    def after(self, event: str, facts: Mapping[str, Any], now: float) -> WorkerStatus:
        """The status after an event.

        Args:
            event: Name of a method of ``Listener``.
            facts: Its arguments.
            now: Moment in seconds.
        """
        idle = WorkerStatus(self.index, self.place, starts=self.starts)
        match event:
            case "data_reading":
                return replace(idle, doing="reading data", step=facts["done"], total_steps=facts["total"])
            case "baseline_started":
                return replace(idle, doing=f"baseline {facts['task']}")
            case "trial_started":
                return replace(idle, doing="training", trial=facts["number"])
            case "progress":
                since = self.since or (now, facts["step"])
                doing = "training" if self.trial is not None else self.doing
                return replace(
                    self, doing=facts["note"] or doing, step=facts["step"], total_steps=facts["total_steps"],
                    since=since, seen=now,
                )  # fmt: skip
            case "trial_evaluated":
                return replace(self, delta_m_percent=facts["delta_m_percent"])
            case "waiting":
                return replace(self, doing=f"waits for {facts['what']}")
            case "baseline_ended" | "trial_completed" | "trial_stopped":
                return replace(idle, doing="asking")
            case _:
                return self


class Listener(Callback):
    """Base of all listeners: receives every event, does nothing.

    Events beyond those of ``Callback`` are for a display: short, and the same with several workers.
    """

    def data_reading(self, done: int, total: int) -> None:
        """``done`` of ``total`` samples are in memory."""

    def baseline_started(self, task: str, index: int, count: int) -> None:
        """Single-task baseline ``index`` of ``count`` (from 1) starts."""

    def baseline_ended(self, task: str, row: BaselineRow, *, trained: bool) -> None:
        """A baseline is known; ``trained`` is false if the database had it."""

    def trial_started(self, number: int, finished: int, total: int, params: Mapping[str, object]) -> None:
        """Trial ``number`` starts after ``finished`` of ``total`` trials."""

    def progress(self, progress: Progress) -> None:
        """The current run is alive."""

    def waiting(self, what: str) -> None:
        """The current trial waits for something that another worker is doing."""

    def scoring(self, done: int, total: int) -> None:
        """``done`` of ``total`` images are scored with the metrics that only a final evaluation uses."""

    def trial_evaluated(self, number: int, step: int, delta_m_percent: float) -> None:
        """A trial was evaluated on the hold-out."""

    def trial_completed(self, number: int, outcome: Outcome) -> None:
        """A trial has its result."""

    def short_of_memory(self, number: int, reason: str) -> None:
        """A trial ran out of memory and continues with its batches in parts."""

    def trial_recovered(self, number: int, how: str) -> None:
        """What became of a trial whose process died: ``told``, ``continued`` or ``given up``."""

    def trial_stopped(self, number: int, state: str, reason: str) -> None:
        """A trial ended without a result: ``pruned``, ``failed`` or ``interrupted``."""

    def repeat_started(self, trial: int, seed: int, index: int, count: int) -> None:
        """Repeat ``index`` of ``count`` (from 1) starts: the configuration of a trial with another seed."""

    def repeat_ended(self, row: ConfirmationRow) -> None:
        """A repeat has its result."""

    def repeat_failed(self, trial: int, seed: int, reason: str) -> None:
        """A repeat failed; the others continue."""

    def knowledge_found(self, study: str, num_fitting: int, num_trials: int) -> None:
        """``num_fitting`` of ``num_trials`` finished trials of another study fit the space of this one."""

    def knowledge_added(self, study: str, num_added: int, delta_m_shift: float | None) -> None:
        """The sampler knows the trials of another study, with delta_m shifted if the shift could be found."""

    def workers(self, statuses: Sequence[WorkerStatus]) -> None:
        """What each of several workers is doing; called several times a second."""

    def worker_died(self, index: int, how: str, log: str) -> None:
        """A worker died; another one takes its place. ``log`` is the file with its messages."""
