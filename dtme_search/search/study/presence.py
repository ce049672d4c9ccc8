"""Who is working on a study right now: one row per process, for others to read."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Engine

from dtme_search.search.storage.attendance import forget_worker, save_worker, workers
from dtme_search.search.storage.database import DATABASE_ERRORS
from dtme_search.search.storage.rows import WorkerRow
from dtme_search.search.trial.events import Doing, Hear
from dtme_search.search.trial.heartbeat import GRACE_SECONDS
from dtme_search.search.trial.process import Process

SECONDS_BETWEEN = 20.0
"""Seconds between two signs of life; a change of activity is reported sooner."""
_AT_LEAST = 1.0
_JOIN_SECONDS = 5.0


@dataclass(frozen=True)
class AtWork:
    """A process working on a study.

    Attributes:
        row: What it reported.
        silent: Seconds since then, by the clock of the database.
    """

    row: WorkerRow
    silent: float


def at_work(engine: Engine, study: str) -> list[AtWork]:
    """Processes working on a study, oldest first; known dead ones are left out."""
    found = [AtWork(row, silent) for row, silent in workers(engine, study)]
    return sorted((each for each in found if not _is_dead(each)), key=lambda each: each.row.started_at)


def forget_dead(engine: Engine, study: str) -> None:
    """Remove the rows of processes that ended without notice."""
    for row, silent in workers(engine, study):
        if _is_dead(AtWork(row, silent)):
            forget_worker(engine, study, row.worker)


@contextmanager
def present(engine: Engine, study: str, command: str, doing: str = "starting") -> Iterator[Hear]:
    """Show that this process is working on a study, and what it is doing, while the context is open.

    Yields a listener for the events of the search. A separate thread does the writing, and a database in
    trouble is no reason to stop, because only people look at these rows.
    """
    process = Process.here()
    row = WorkerRow(
        worker=hashlib.sha256(repr(process).encode()).hexdigest()[:16],
        host=process.host,
        pid=process.pid,
        machine=process.machine,
        begun=process.begun,
        command=command,
        started_at=datetime.now(UTC),
        doing=doing,
    )
    presence = _Presence(row, lambda each: save_worker(engine, study, each))
    with suppress(*DATABASE_ERRORS):
        forget_dead(engine, study)
        save_worker(engine, study, row)
    presence.start()
    try:
        yield presence.hear
    finally:
        presence.end()
        with suppress(*DATABASE_ERRORS):
            forget_worker(engine, study, row.worker)


class _Presence(threading.Thread):
    def __init__(self, row: WorkerRow, write: Callable[[WorkerRow], None]) -> None:
        super().__init__(daemon=True)
        self._row, self._write = row, write
        self._doing = Doing(row.doing)
        self._changed, self._ended = threading.Event(), threading.Event()

    def hear(self, event: str, facts: Mapping[str, Any]) -> None:
        before, self._doing = self._doing, self._doing.after(event, facts, time.monotonic())
        if before.what != self._doing.what:
            self._changed.set()

    def end(self) -> None:
        self._ended.set()
        self._changed.set()
        self.join(_JOIN_SECONDS)

    def run(self) -> None:
        while not self._ended.wait(_AT_LEAST):
            self._changed.wait(SECONDS_BETWEEN)
            self._changed.clear()
            if self._ended.is_set():
                return
            status = self._doing.status
            row = replace(
                self._row,
                doing=self._doing.what[:255],
                step=status.step if status.total_steps is not None else None,
                total_steps=status.total_steps,
            )
            with suppress(*DATABASE_ERRORS):
                self._write(row)


def _is_dead(each: AtWork) -> bool:
    row = each.row
    gone = Process(row.host, row.pid, row.machine, row.begun).is_gone
    return gone or each.silent > GRACE_SECONDS
