"""What a search tells whoever watches it; the command line draws it, a notebook may ignore it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from dtme_search.search.outcome import Outcome
from dtme_search.search.records import BaselineRow, ConfirmationRow
from dtme_search.training import Progress

if TYPE_CHECKING:
    from dtme_search.search.reports import WorkerStatus


class Listener:
    """Base of all listeners: hears everything, does nothing."""

    def data_reading(self, done: int, total: int) -> None:
        """``done`` of ``total`` samples are in memory."""

    def baseline_started(self, task: str, index: int, count: int) -> None:
        """Single-task baseline ``index`` of ``count`` (from 1) begins."""

    def baseline_ended(self, task: str, row: BaselineRow, *, trained: bool) -> None:
        """A baseline is known; ``trained`` is false when the database had it."""

    def trial_started(self, number: int, finished: int, total: int, params: Mapping[str, object]) -> None:
        """Trial ``number`` begins after ``finished`` of ``total`` trials."""

    def progress(self, progress: Progress) -> None:
        """The run in hand is alive."""

    def waiting(self, what: str) -> None:
        """The trial in hand waits for something that another worker does."""

    def scoring(self, done: int, total: int) -> None:
        """``done`` of ``total`` images are scored with the metrics that only a final evaluation pays for."""

    def trial_evaluated(self, number: int, step: int, delta_m_percent: float) -> None:
        """A trial was evaluated on the hold-out."""

    def trial_completed(self, number: int, outcome: Outcome) -> None:
        """A trial has its result."""

    def short_of_memory(self, number: int, reason: str) -> None:
        """A trial ran out of memory and goes on with its batches in parts."""

    def trial_recovered(self, number: int, how: str) -> None:
        """What became of a trial whose process died: ``told``, ``continued`` or ``given up``."""

    def trial_stopped(self, number: int, state: str, reason: str) -> None:
        """A trial ended without a result: ``pruned``, ``failed`` or ``interrupted``."""

    def repeat_started(self, trial: int, seed: int, index: int, count: int) -> None:
        """Repeat ``index`` of ``count`` (from 1) begins: the configuration of a trial with another seed."""

    def repeat_ended(self, row: ConfirmationRow) -> None:
        """A repeat has its result."""

    def repeat_failed(self, trial: int, seed: int, reason: str) -> None:
        """A repeat came to nothing; the others go on."""

    def knowledge_found(self, study: str, num_fitting: int, num_trials: int) -> None:
        """``num_fitting`` of ``num_trials`` finished trials of another study fit the space of this one."""

    def knowledge_added(self, study: str, num_added: int, delta_m_shift: float | None) -> None:
        """Trials of another study are known to the sampler, their delta_m shifted if that could be told."""

    def workers(self, statuses: Sequence[WorkerStatus]) -> None:
        """What each of several workers does; called several times a second."""

    def worker_died(self, index: int, how: str, log: str) -> None:
        """A worker ended before its time; another one takes its place. ``log`` is where its messages are."""
