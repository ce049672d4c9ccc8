"""A listener that remembers what it hears and may act at a chosen moment."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from dtme_search.search import Listener


@dataclass
class Heard(Listener):
    """What a search told. ``act`` is called with the name of each event and the number it is about."""

    act: Callable[[str, int], None] = lambda _event, _number: None
    trained: list[str] = field(default_factory=list)
    known: list[str] = field(default_factory=list)
    started: list[tuple[int, int, int, dict[str, Any]]] = field(default_factory=list)
    completed: list[int] = field(default_factory=list)
    stopped: list[tuple[int, str, str]] = field(default_factory=list)
    scored: list[tuple[int, int]] = field(default_factory=list)
    recovered: dict[int, str] = field(default_factory=dict)
    short: list[str] = field(default_factory=list)
    died: list[str] = field(default_factory=list)
    places: set[str] = field(default_factory=set)

    def baseline_started(self, task, index, count):
        self.act("baseline_started", index)

    def baseline_ended(self, task, row, *, trained):
        (self.trained if trained else self.known).append(task)

    def trial_started(self, number, finished, total, params):
        self.started.append((number, finished, total, dict(params)))
        self.act("trial_started", number)

    def progress(self, progress):
        self.act("progress", progress.step)

    def scoring(self, done, total):
        self.scored.append((done, total))
        self.act("scoring", done)

    def trial_evaluated(self, number, step, delta_m_percent):
        self.act("trial_evaluated", step)

    def trial_completed(self, number, outcome):
        self.completed.append(number)
        self.act("trial_completed", number)

    def trial_recovered(self, number, how):
        self.recovered[number] = how

    def short_of_memory(self, number, reason):
        self.short.append(reason)

    def trial_stopped(self, number, state, reason):
        self.stopped.append((number, state, reason))

    def workers(self, statuses):
        self.places |= {status.place for status in statuses}
        self.act("workers", len(statuses))

    def worker_died(self, index, how, log):
        self.died.append(how)
        self.act("worker_died", index)


def once(event: str, number: int, action: Callable[[], None]) -> Callable[[str, int], None]:
    """An ``act`` that does something the first time that ``event`` comes with ``number``."""
    waiting = [action]

    def act(heard: str, about: int) -> None:
        if waiting and (heard, about) == (event, number):
            waiting.pop()()

    return act


def ctrl_c() -> None:
    """Press Ctrl-C."""
    signal.raise_signal(signal.SIGINT)


class HeardRepeats(Heard):
    """Also remembers repeats."""

    def __init__(self, act=lambda _event, _number: None):
        super().__init__(act)
        self.repeats: list[tuple[int, int]] = []
        self.ended: list[tuple[int, int]] = []
        self.failed: list[tuple[int, int, str]] = []

    def repeat_started(self, trial, seed, index, count):
        self.repeats.append((trial, seed))
        self.act("repeat_started", len(self.repeats))

    def repeat_ended(self, row):
        self.ended.append((row.trial, row.seed))

    def repeat_failed(self, trial, seed, reason):
        self.failed.append((trial, seed, reason))
