"""Workers as processes on this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import joblib

from dtme_search.search.study.preparation import Prepared
from dtme_search.search.workers.launching import Ended, worker_order
from dtme_search.search.workers.places import Place
from dtme_search.search.workers.process import WorkerOrder, in_words, last_words, start_worker


@dataclass(frozen=True)
class LocalProcesses:
    """Processes on this machine.

    Attributes:
        places: One for each worker.
    """

    places: Sequence[Place]

    def check(self, url: str) -> None:
        """Nothing to check."""

    def launcher(self, prepared: Prepared, most: int) -> AbstractContextManager[LocalLauncher]:
        """Starts workers."""
        return nullcontext(LocalLauncher(prepared, self.places[:most]))


@dataclass(frozen=True)
class LocalLauncher:
    """Starts each worker as a separate process, with its GPU and its share of the threads.

    Attributes:
        prepared: The study, checked and created.
        places: One for each worker.
    """

    prepared: Prepared
    places: Sequence[Place]

    @property
    def num_workers(self) -> int:
        return len(self.places)

    def start(self, index: int, hear: Callable[[str], None]) -> LocalWorker:
        place = self.places[index]
        environment = place.environment(len(self.places), joblib.cpu_count(), os.environ)
        order = worker_order(self.prepared, index)
        if order.callbacks:  # lets the worker find their modules as this process does
            environment["PYTHONPATH"] = os.pathsep.join(path or os.getcwd() for path in sys.path)
        process = start_worker(order, environment)
        threading.Thread(target=_read, args=(process, hear), daemon=True).start()
        return LocalWorker(place.name, order, process)


@dataclass(frozen=True)
class LocalWorker:
    """A worker that is a child of this process.

    Attributes:
        place: Its device.
        order: What it must know.
        process: The child.
    """

    place: str
    order: WorkerOrder
    process: subprocess.Popen[str]

    @property
    def log(self) -> str:
        return str(self.order.log)

    def ended(self) -> Ended | None:
        code = self.process.poll()
        return None if code is None else Ended(code, in_words(code), last_words(self.order.log))

    def send(self, number: signal.Signals) -> None:
        if self.process.poll() is None:
            self.process.send_signal(number)


def _read(process: subprocess.Popen[str], hear: Callable[[str], None]) -> None:
    assert process.stdout is not None
    with process.stdout as lines:
        for line in lines:
            hear(line)
