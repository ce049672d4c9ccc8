"""What a worker sends to the process that started it: one line of JSON on its stdout per event."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, fields
from datetime import datetime
from typing import Any, TextIO

from dtme_search.search.storage.rows import BaselineRow
from dtme_search.search.trial.events import EVALUATED
from dtme_search.search.trial.listener import Listener
from dtme_search.search.trial.outcome import Outcome
from dtme_search.training import Progress

_SECONDS_BETWEEN = 0.5
"""Seconds between two signs of life."""


class Reporter(Listener):
    """Writes the events it receives as lines.

    Args:
        stream: Where to write; the reader may be gone.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._last = 0.0

    def data_reading(self, done: int, total: int) -> None:
        self._sign("data_reading", done == total, done=done, total=total)

    def baseline_started(self, task: str, index: int, count: int) -> None:
        self._tell("baseline_started", task=task, index=index, count=count)

    def baseline_ended(self, task: str, row: BaselineRow, *, trained: bool) -> None:
        row_values = {**asdict(row), "created_at": row.created_at.isoformat()}
        self._tell("baseline_ended", task=task, row=row_values, trained=trained)

    def trial_started(self, number: int, finished: int, total: int, params: Mapping[str, object]) -> None:
        self._tell("trial_started", number=number, finished=finished, total=total, params=dict(params))

    def progress(self, progress: Progress) -> None:
        is_news = progress.step == progress.total_steps or progress.note.startswith(EVALUATED)
        self._sign("progress", is_news, **asdict(progress))

    def waiting(self, what: str) -> None:
        self._tell("waiting", what=what)

    def trial_evaluated(self, number: int, step: int, delta_m_percent: float) -> None:
        self._tell("trial_evaluated", number=number, step=step, delta_m_percent=delta_m_percent)

    def trial_completed(self, number: int, outcome: Outcome) -> None:
        self._tell("trial_completed", number=number, outcome=asdict(outcome))

    def short_of_memory(self, number: int, reason: str) -> None:
        self._tell("short_of_memory", number=number, reason=reason)

    def trial_recovered(self, number: int, how: str) -> None:
        self._tell("trial_recovered", number=number, how=how)

    def trial_stopped(self, number: int, state: str, reason: str) -> None:
        self._tell("trial_stopped", number=number, state=state, reason=reason)

    def _sign(self, event: str, always: bool, **facts: object) -> None:
        if always or time.monotonic() - self._last >= _SECONDS_BETWEEN:
            self._last = time.monotonic()
            self._tell(event, **facts)

    def _tell(self, event: str, **facts: object) -> None:
        try:
            self._stream.write(json.dumps({"event": event, **facts}) + "\n")
            self._stream.flush()
        except OSError:
            pass  # the reader has died; the worker notices by itself and stops with a checkpoint


def parse_report(line: str) -> tuple[str, dict[str, Any]] | None:
    """Event and arguments of a line; ``None`` for a line that some library printed."""
    try:
        facts = json.loads(line)
        return facts.pop("event"), facts
    except (ValueError, AttributeError, KeyError, TypeError):
        return None


def repeat_news(listener: Listener, event: str, facts: Mapping[str, Any]) -> None:
    """Pass the results that a worker sent on to a listener."""
    match event:
        case "baseline_ended" if facts["trained"]:
            row = {**facts["row"], "created_at": datetime.fromisoformat(facts["row"]["created_at"])}
            listener.baseline_ended(facts["task"], BaselineRow(**row), trained=True)
        case "trial_started" | "trial_evaluated" | "trial_stopped" | "short_of_memory" | "trial_recovered":
            getattr(listener, event)(**facts)
        case "trial_completed":
            outcome = {field.name: facts["outcome"][field.name] for field in fields(Outcome)}
            outcome["dead_tasks"] = tuple(outcome["dead_tasks"])
            listener.trial_completed(facts["number"], Outcome(**outcome))
