"""What a search tells whoever watches it; the command line draws it, a notebook may ignore it."""

from __future__ import annotations

from collections.abc import Mapping

from dtme_search.search.outcome import Outcome
from dtme_search.search.records import BaselineRow
from dtme_search.training import Progress


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

    def trial_evaluated(self, number: int, step: int, delta_m_percent: float) -> None:
        """A trial was evaluated on the hold-out."""

    def trial_completed(self, number: int, outcome: Outcome) -> None:
        """A trial has its result."""

    def trial_stopped(self, number: int, state: str, reason: str) -> None:
        """A trial ended without a result: ``pruned``, ``failed`` or ``interrupted``."""
