"""Workers of a study as tasks of a Dask cluster.

Each occupies one place on the cluster: a GPU that a Dask worker declares (``dask worker ... --resources
"GPU=1"``), or a whole Dask worker if none declares any. Messages of a worker come back as Dask events.
Instructions to it are in a Dask variable, which also carries the heartbeat of this process: workers that miss
it stop with a checkpoint.
"""

from __future__ import annotations

import io
import logging
import pickle
import signal
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import cloudpickle
from dask.distributed import Client, Future, Variable

from dtme_search.errors import TrainingError
from dtme_search.paths import expanded
from dtme_search.search import workspace
from dtme_search.search.storage.database import is_file
from dtme_search.search.study.preparation import Prepared
from dtme_search.search.workers import hosting, process
from dtme_search.search.workers.hosting import HostTask
from dtme_search.search.workers.launching import Ended, worker_order
from dtme_search.search.workers.process import in_words
from dtme_search.version import __version__

BEAT_EVERY = 2.0
"""Seconds between two signs of life, and between two checks of the cluster."""
SILENCE = 60.0
"""Seconds without a sign of life after which workers stop."""
ANSWER_WITHIN = 15.0
"""Seconds within which the cluster must answer."""
GPU = "GPU"
"""Name of the resource that a Dask worker declares for each of its GPUs."""
_TRAVELLING = (process, hosting, workspace)
"""Modules with the code that runs on a Dask worker."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DaskPlace:
    """A Dask worker that runs workers of a study.

    Attributes:
        address: Its address.
        host: Its machine.
        num_gpus: GPUs that it declares.
        num_threads: Its threads.
        is_ready: Whether it takes tasks.
    """

    address: str
    host: str
    num_gpus: int
    num_threads: int
    is_ready: bool = True

    @property
    def capacity(self) -> int:
        """Number of workers it takes at once: one per GPU, or one if it declares none."""
        return max(1, self.num_gpus)


def dask_places(workers: Mapping[str, Mapping[str, Any]]) -> tuple[DaskPlace, ...]:
    """The places of a cluster; if any Dask worker declares a GPU, only those that do.

    Args:
        workers: What the scheduler knows about each, by address.

    Example:
        >>> facts = {"host": "a", "nthreads": 4, "status": "running"}
        >>> two = {**facts, "resources": {"GPU": 2.0}}
        >>> dask_places({"tcp://a:1": two, "tcp://a:2": {**facts, "resources": {}}})
        (DaskPlace(address='tcp://a:1', host='a', num_gpus=2, num_threads=4, is_ready=True),)
    """
    places = [
        DaskPlace(
            address,
            facts["host"],
            int(facts["resources"].get(GPU, 0)),
            facts["nthreads"],
            facts["status"] == "running",
        )
        for address, facts in workers.items()
    ]
    return tuple(place for place in places if place.num_gpus) or tuple(places)


def places_of(client: Client) -> tuple[DaskPlace, ...]:
    """The places of the cluster that a client is connected to."""
    if client.scheduler is None:
        raise OSError("the connection is closed")
    # Not scheduler_info(), which may return a dictionary just stored by a background task of the client that
    # names no workers (distributed 2026.8).
    info = client.sync(client.scheduler.identity, n_workers=-1, callback_timeout=ANSWER_WITHIN)
    return dask_places(info["workers"])


class DaskLauncher:
    """Starts workers on a cluster. A context manager; a separate thread does all the communication.

    Args:
        client: Connected to the cluster.
        prepared: The study, checked and created.
        num_workers: How many run at once; those without a place wait for one.
    """

    def __init__(self, client: Client, prepared: Prepared, num_workers: int) -> None:
        self._client = client
        self._prepared = prepared
        self._num_workers = num_workers
        self._channel = f"dtme-search-{uuid.uuid4().hex}"
        self._variable = Variable(self._channel, client)
        self._workers: dict[str, DaskWorker] = {}
        self._beat = 0
        self._wake = threading.Event()
        self._over = False
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._keep, name=self._channel, daemon=True)

    @property
    def num_workers(self) -> int:
        return self._num_workers

    def start(self, index: int, hear: Callable[[str], None]) -> DaskWorker:
        if self._failure is not None:
            raise self._failure
        if not self._thread.is_alive():
            raise TrainingError(
                f"the Dask scheduler of study {self._prepared.config.name} is gone. Its workers "
                "checkpoint and stop. Start a scheduler, then run the same command again to resume."
            )
        root, order = self._prepared.base.data.root, worker_order(self._prepared, index)
        if root is not None:
            # A Dask worker runs in a different folder.
            order = replace(order, data_root=str(expanded(root).absolute()))
        task = HostTask(
            order=order,
            key=f"dtme-worker-{index}-{uuid.uuid4().hex}",
            channel=self._channel,
            num_gpus=0,
            num_threads=1,
            version=__version__,
            machine=hosting.machine() if is_file(order.url) else None,
            silence=SILENCE,
        )
        worker = DaskWorker(task, hear, self._wake.set)
        self._workers[task.key] = worker
        self._wake.set()
        return worker

    def __enter__(self) -> DaskLauncher:
        self._client.subscribe_topic(self._channel, self._on_event)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over = True
        self._wake.set()
        self._thread.join(timeout=ANSWER_WITHIN)
        if self._client.status != "closed":
            self._client.unsubscribe_topic(self._channel)
            self._variable.delete()

    def _on_event(self, event: tuple[float, Mapping[str, Any]]) -> None:
        facts = event[1]
        worker = self._workers.get(facts["key"])
        if worker is not None:
            worker.hears(facts)

    def _keep(self) -> None:
        try:
            while not self._over and self._client.status != "closed":
                try:
                    self._tick()
                except Exception as error:
                    _log.debug("Dask: %r", error)
                    # While the scheduler is away everything may fail, in ways that Dask does not document.
                    if self._client.status == "running" and not isinstance(error, OSError | TimeoutError):
                        self._failure = error
                        return
                self._wake.wait(BEAT_EVERY)
                self._wake.clear()
        finally:
            for worker in list(self._workers.values()):
                worker.lose("with the Dask scheduler")

    def _tick(self) -> None:
        """Check which workers have ended, give a sign of life, and place waiting ones where there is room."""
        places = places_of(self._client)
        there = {place.address for place in places}
        for worker in list(self._workers.values()):
            worker.look(there)
        living = [worker for worker in list(self._workers.values()) if worker.ended() is None]
        self._beat += 1
        # Before any is placed: a worker that does not find its name here concludes that it was replaced.
        signals = {worker.key: list(map(int, worker.signals)) for worker in living}
        self._variable.set({"beat": self._beat, "signals": signals}, timeout=ANSWER_WITHIN)
        taken = Counter(worker.address for worker in living)
        for worker in living:
            free = [place for place in places if place.is_ready and taken[place.address] < place.capacity]
            if worker.waits and free:
                place = min(free, key=lambda place: taken[place.address] / place.capacity)
                worker.submit(self._client, place)
                taken[place.address] += 1


class DaskWorker:
    """A worker that runs on a cluster, or waits for a place there.

    Args:
        task: Its instructions.
        hear: Called with each line that it sends.
        wake: Called when there is something to pass on.
    """

    def __init__(self, task: HostTask, hear: Callable[[str], None], wake: Callable[[], None]) -> None:
        self._task = task
        self._hear = hear
        self._wake = wake
        self._place: DaskPlace | None = None
        self._future: Future[Any] | None = None
        self._began: Mapping[str, Any] | None = None
        self._end: Ended | None = None
        self.signals: list[signal.Signals] = []
        """Signals sent to it, oldest first."""

    @property
    def place(self) -> str:
        if self._began is not None:
            gpu = self._began["gpu"]
            return f"{self._began['node']} GPU {gpu}" if gpu else self._began["node"]
        return "no place yet" if self._place is None else self._place.host

    @property
    def log(self) -> str:
        node = self._began["node"] if self._began is not None else "its machine"
        return f"{self._task.order.log} on {node}"

    def ended(self) -> Ended | None:
        return self._end

    def send(self, number: signal.Signals) -> None:
        self.signals = [*self.signals, number]
        if self.waits:
            self._end = Ended(0, in_words(0))
        self._wake()

    @property
    def key(self) -> str:
        """Its name in Dask."""
        return self._task.key

    @property
    def waits(self) -> bool:
        """Whether it has no place yet."""
        return self._place is None and self._end is None

    @property
    def address(self) -> str | None:
        """Dask worker that hosts it."""
        return None if self._place is None else self._place.address

    def submit(self, client: Client, place: DaskPlace) -> None:
        """Start at a place."""
        threads = max(1, place.num_threads // place.capacity)
        task = replace(self._task, num_gpus=place.num_gpus, num_threads=threads)
        self._future = client.submit(
            *by_value(partial(hosting.host, task)),
            key=self.key,
            pure=False,
            retries=0,
            workers=[place.address],
            allow_other_workers=False,
            resources={GPU: 1} if place.num_gpus else None,
        )
        self._place = place

    def look(self, addresses: set[str]) -> None:
        """Check whether it has ended.

        Args:
            addresses: Dask workers that exist now.
        """
        if self._future is None or self._end is not None:
            return
        if self._future.status == "finished":
            code, words = self._future.result(timeout=ANSWER_WITHIN)
            self._end = Ended(code, in_words(code), words)
        elif self._future.status == "error":
            self.lose(f"with an error of Dask: {self._future.exception(timeout=ANSWER_WITHIN)!r}")
        elif self._future.status != "pending" or self.address not in addresses:
            self.lose(f"with Dask worker {self.address}")

    def lose(self, how: str) -> None:
        """Give it up, unless it has ended; if it is still alive, it misses its name and stops."""
        if self._end is None:
            self._end = Ended(None, how)
            if self._future is not None:
                self._future.release()

    def hears(self, facts: Mapping[str, Any]) -> None:
        """Process an event."""
        if "line" in facts:
            self._hear(facts["line"])
        elif self._began is None:
            self._began = facts["began"]
        else:
            # The Dask worker died, came back with the same address, and got the task again.
            self.lose(f"with Dask worker {self.address}")


def by_value(function: Callable[[], Any]) -> tuple[Callable[[io.BytesIO], Any], io.BytesIO]:
    """What to submit to Dask for a call that needs neither our modules nor their imports.

    The scheduler unpickles functions and would import our modules, too. It leaves a file object alone and
    shows nothing of its contents; reading the file makes the call.
    """
    for module in _TRAVELLING:
        cloudpickle.register_pickle_by_value(module)
    try:
        return pickle.load, io.BytesIO(cloudpickle.dumps(_Call(function)))
    finally:
        for module in _TRAVELLING:
            cloudpickle.unregister_pickle_by_value(module)


@dataclass(frozen=True)
class _Call:
    function: Callable[[], Any]

    def __reduce__(self) -> tuple[Callable[[], Any], tuple[()]]:
        return self.function, ()
