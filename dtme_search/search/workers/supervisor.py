"""Supervises the workers of a study: receives their messages, replaces dead ones, stops them if needed."""

from __future__ import annotations

import logging
import queue
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

from dtme_search.errors import TrainingError
from dtme_search.search.stopping import StopSwitch
from dtme_search.search.storage.database import DATABASE_ERRORS
from dtme_search.search.study.lifecycle import num_finished
from dtme_search.search.study.loading import LoadedStudy
from dtme_search.search.study.preparation import Prepared
from dtme_search.search.trial.listener import Listener, WorkerStatus
from dtme_search.search.workers.launching import Ended, Launcher, Started
from dtme_search.search.workers.wire import parse_report, repeat_news

MOST_DEATHS = 10
"""Deaths of workers, with no trial finished in between, after which no further one is started."""
_TICK = 0.25
_LOOK_EVERY = 2.0
"""Seconds between two looks at the database."""
PATIENCE = 15.0
"""Seconds that workers get to end when this process is about to; unfinished trials resume later."""
_USER_MISTAKE = 2

_log = logging.getLogger(__name__)


@dataclass
class _Worker:
    started: Started
    status: WorkerStatus
    lines: queue.SimpleQueue[str]
    is_told: bool = False
    ended: bool = False


class Workers:
    """Starts the workers of a study, watches them, and replaces those that die.

    Args:
        prepared: The study, checked and created.
        launcher: Starts them.
        listener: Receives the results of all workers, and what each one is doing.
        switch: Says when to stop; workers then stop with a checkpoint.
        publish: Called with the study when trials have finished.
    """

    def __init__(
        self,
        prepared: Prepared,
        launcher: Launcher,
        listener: Listener,
        switch: StopSwitch,
        publish: Callable[[LoadedStudy], None] | None = None,
    ) -> None:
        self._prepared = prepared
        self._launcher = launcher
        self._listener = listener
        self._switch = switch
        self._publish = publish
        self._workers: list[_Worker] = []
        self._finished = num_finished(prepared.optuna)
        self._deaths = 0
        self._looked = time.monotonic()

    def run(self) -> None:
        """Return when every worker has ended, because the study has its total or was stopped.

        Raises:
            DtmeSearchError: If a worker found something that only the user can fix, or they keep dying.
            KeyboardInterrupt: After a second signal, once all workers have ended.
        """
        told = False
        try:
            for index in range(self._launcher.num_workers):
                self._workers.append(self._start(index, 1))
            while not all(worker.ended for worker in self._workers):
                if self._switch() and not told:
                    self._signal(signal.SIGTERM)
                    told = True
                self._hear()
                self._look()
                self._stop_late_starters()
                self._replace_dead()
        except KeyboardInterrupt:
            if not told:
                self._signal(signal.SIGTERM)
            self._signal(signal.SIGINT)  # the second one: workers hand their trials back at once
            self._end()
            raise
        except BaseException:
            self._signal(signal.SIGTERM)
            self._end()
            raise
        self._hear()
        self._look(now=True)

    @property
    def _is_complete(self) -> bool:
        return self._finished >= self._prepared.config.trials

    def _start(self, index: int, starts: int) -> _Worker:
        lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        started = self._launcher.start(index, lines.put)
        return _Worker(started, WorkerStatus(index, started.place, starts=starts), lines)

    def _hear(self) -> None:
        """Process the messages of the workers during one tick."""
        time.sleep(_TICK)
        for worker in self._workers:
            while not worker.lines.empty():
                line = worker.lines.get()
                report = parse_report(line)
                if report is None:
                    _log.debug("worker %d: %s", worker.status.index, line.rstrip())
                    continue
                worker.status = worker.status.after(*report, time.monotonic())
                repeat_news(self._listener, *report)
            worker.status = replace(worker.status, place=worker.started.place)
        self._listener.workers([worker.status for worker in self._workers])

    def _look(self, *, now: bool = False) -> None:
        """Check what has finished, and pass on what the sampler should know."""
        if not now and time.monotonic() - self._looked < _LOOK_EVERY:
            return
        study = self._prepared.optuna
        if self._prepared.knowledge is not None:
            with self._prepared.asking():
                self._prepared.warm_start(self._listener)(study)
        finished = num_finished(study)
        if finished > self._finished:
            self._finished, self._deaths = finished, 0
            if self._publish is not None:
                self._publish(self._prepared.loaded())
        self._looked = time.monotonic()

    def _stop_late_starters(self) -> None:
        """Do not wait for a worker that would import torch only to find that nothing is left."""
        for worker in self._workers:
            if self._is_complete and worker.status.doing == "starting" and not worker.is_told:
                worker.started.send(signal.SIGTERM)
                worker.is_told = True

    def _replace_dead(self) -> None:
        for index, worker in enumerate(self._workers):
            end = None if worker.ended else worker.started.ended()
            if end is None:
                continue
            worker.ended = True
            worker.status = replace(worker.status, doing="", trial=None, total_steps=None)
            if end.code == 0 or self._switch() or self._is_complete:
                continue
            if end.code == _USER_MISTAKE:
                raise TrainingError(end.last_words)
            self._prepared.recover(self._listener)
            self._look(now=True)
            self._count_death(end, worker.started.log)
            self._listener.worker_died(index, end.how, worker.started.log)
            if not self._is_complete:
                self._workers[index] = self._start(index, worker.status.starts + 1)

    def _count_death(self, end: Ended, log: str) -> None:
        self._deaths += 1
        # A lost machine takes many workers with it, and their replacements may fail there once more.
        if self._deaths > max(MOST_DEATHS, 2 * self._launcher.num_workers):
            raise TrainingError(
                f"study {self._prepared.config.name}: {self._deaths} workers in a row ended before a "
                f"trial did, the last one {end.how}. See {log}."
            )

    def _signal(self, number: signal.Signals) -> None:
        for worker in self._workers:
            worker.started.send(number)

    def _end(self) -> None:
        """Let no worker outlive this process."""
        if not self._wait(PATIENCE):
            self._signal(signal.SIGKILL)
            self._wait(PATIENCE)
            with suppress(*DATABASE_ERRORS):  # the next start does it instead
                self._prepared.recover(self._listener)

    def _wait(self, seconds: float) -> bool:
        """Whether all workers have ended by a deadline."""
        until = time.monotonic() + seconds
        while any(worker.started.ended() is None for worker in self._workers):
            if time.monotonic() >= until:
                return False
            time.sleep(_TICK)
        return True
