"""Several workers of one study on this machine, each a fresh process with its own GPU and threads.

Fresh, because a process sees the GPUs that its environment names when it imports torch, and because the
death of one must not take the others along. A worker is ``dtme-search worker``: it loads the study and
shares nothing but its database and folder with the others.
"""

from __future__ import annotations

import logging
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import joblib

from dtme_search.errors import TrainingError
from dtme_search.search.lifecycle import num_finished
from dtme_search.search.listener import Listener
from dtme_search.search.loading import LoadedStudy
from dtme_search.search.places import Place
from dtme_search.search.preparation import Prepared
from dtme_search.search.reports import WorkerStatus, parse_report, repeat_news
from dtme_search.search.stopping import StopSwitch
from dtme_search.search.workspace import private_folder

MOST_DEATHS = 10
"""Deaths of workers, with no trial finished between them, after which it is no use to start another."""
_TICK = 0.25
_LOOK_EVERY = 2.0
"""Seconds between two looks into the database."""
PATIENCE = 15.0
"""Seconds that workers have to end when this process is about to; what they had in hand goes on later."""
_USER_MISTAKE = 2

_log = logging.getLogger(__name__)


@dataclass
class _Worker:
    process: subprocess.Popen[str]
    status: WorkerStatus
    log: Path
    ended: bool = False


class Workers:
    """Starts the workers of a study, watches them, and replaces those that die.

    Args:
        prepared: The study, checked and created.
        places: One for each worker.
        listener: Hears the results of all workers, and what each one does.
        switch: Tells to stop: the workers then do so with a checkpoint.
        publish: Called with the study when trials have finished.
    """

    def __init__(
        self,
        prepared: Prepared,
        places: Sequence[Place],
        listener: Listener,
        switch: StopSwitch,
        publish: Callable[[LoadedStudy], None] | None = None,
    ) -> None:
        self._prepared = prepared
        self._places = places
        self._listener = listener
        self._switch = switch
        self._publish = publish
        self._lines: queue.SimpleQueue[tuple[_Worker, str]] = queue.SimpleQueue()
        self._workers: list[_Worker] = []
        self._finished = num_finished(prepared.optuna)
        self._deaths = 0
        self._looked = time.monotonic()

    def run(self) -> None:
        """Return when every worker has ended, because the study has its total or was stopped.

        Raises:
            DtmeSearchError: What a worker found that only the user can mend, or that they keep dying.
            KeyboardInterrupt: After a second signal, when all workers have ended.
        """
        if self._is_complete or self._switch():
            return
        told = False
        try:
            for index in range(len(self._places)):
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
        prepared, place = self._prepared, self._places[index]
        log = private_folder(prepared.workspace.root / "workers") / f"{index}.log"
        command = [sys.executable, "-P", "-m", "dtme_search", "worker", "--study", prepared.config.name]
        command += ["--workdir", str(prepared.workspace.root.parent.absolute())]
        command += ["--launcher", str(os.getpid())]
        if not place.visible:
            command += ["--device", "cpu"]
        environment = place.environment(len(self._places), joblib.cpu_count(), os.environ)
        # Not an argument: everybody on the machine sees those, and a URL may hold a password.
        environment["DTME_STORAGE"] = prepared.url
        with log.open("ab") as errors:
            process = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                # Ctrl-C reaches this process alone, which tells the workers once.
                start_new_session=True,
            )
        worker = _Worker(process, WorkerStatus(index, place.name, starts=starts), log)
        threading.Thread(target=self._read, args=(worker,), daemon=True).start()
        return worker

    def _read(self, worker: _Worker) -> None:
        assert worker.process.stdout is not None
        with worker.process.stdout as lines:
            for line in lines:
                self._lines.put((worker, line))

    def _hear(self) -> None:
        """Take in what workers told, for at most one tick."""
        until = time.monotonic() + _TICK
        while True:
            try:
                worker, line = self._lines.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                break
            report = parse_report(line)
            if report is None:
                _log.debug("worker %d: %s", worker.status.index, line.rstrip())
                continue
            worker.status = worker.status.after(*report, time.monotonic())
            repeat_news(self._listener, *report)
        self._listener.workers([worker.status for worker in self._workers])

    def _look(self, *, now: bool = False) -> None:
        """See what finished, and hand over what the sampler should know."""
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
            if self._is_complete and not worker.ended and worker.status.doing == "starting":
                worker.process.terminate()

    def _replace_dead(self) -> None:
        for place, worker in enumerate(self._workers):
            code = worker.process.poll()
            if code is None or worker.ended:
                continue
            worker.ended = True
            worker.status = replace(worker.status, doing="", trial=None, total_steps=None)
            if code == 0 or self._switch() or self._is_complete:
                continue
            if code == _USER_MISTAKE:
                raise TrainingError(_last_words(worker.log))
            self._prepared.recover(self._listener)
            self._look(now=True)
            self._deaths += 1
            how = _in_words(code)
            if self._deaths > MOST_DEATHS:
                raise TrainingError(
                    f"study {self._prepared.config.name}: {self._deaths} workers in a row ended before a "
                    f"trial did, the last one {how}. {worker.log} says more."
                )
            self._listener.worker_died(worker.status.index, how, worker.log)
            if not self._is_complete:
                self._workers[place] = self._start(place, worker.status.starts + 1)

    def _signal(self, number: signal.Signals) -> None:
        for worker in self._workers:
            if worker.process.poll() is None:
                worker.process.send_signal(number)

    def _end(self) -> None:
        """Let no worker outlive this process."""
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until and any(worker.process.poll() is None for worker in self._workers):
            time.sleep(_TICK)
        for worker in self._workers:
            if worker.process.poll() is None:
                worker.process.kill()
            worker.process.wait()


def _last_words(log: Path) -> str:
    """The one line of a worker that gave up."""
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1].removeprefix("dtme-search: ") if lines else f"a worker gave up; {log} is empty."


def _in_words(code: int) -> str:
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return f"with exit code {code}"
