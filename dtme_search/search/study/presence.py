"""Who works on a study at this moment: a row for each process, which others read."""

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
"""Between two signs of life; what a process does is told sooner when that changes."""
_AT_LEAST = 1.0
_JOIN_SECONDS = 5.0


@dataclass(frozen=True)
class AtWork:
    """A process that works on a study.

    Attributes:
        row: What it told.
        silent: Seconds since then, by the clock of the database.
    """

    row: WorkerRow
    silent: float


def at_work(engine: Engine, study: str) -> list[AtWork]:
    """Processes that work on a study, the first to begin first; none that is known to be dead."""
    found = [AtWork(row, silent) for row, silent in workers(engine, study)]
    return sorted((each for each in found if not _is_dead(each)), key=lambda each: each.row.started_at)


def forget_dead(engine: Engine, study: str) -> None:
    """Remove the rows of processes that ended without a word."""
    for row, silent in workers(engine, study):
        if _is_dead(AtWork(row, silent)):
            forget_worker(engine, study, row.worker)


@contextmanager
def present(engine: Engine, study: str, command: str, doing: str = "starting") -> Iterator[Hear]:
    """Show that this process works on a study, and what it does, as long as the context is open.

    Gives what wants to hear the events of the search. Everything is written by a thread, and a database in
    trouble is no reason to stop: it is looked at by people only.
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
