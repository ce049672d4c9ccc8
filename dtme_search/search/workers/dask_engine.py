"""Dask clusters: an existing one, or one created on this machine for a study."""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
from dask.distributed import Client, Nanny, Scheduler, SpecCluster

from dtme_search.errors import ConfigError, StorageError
from dtme_search.search.storage.database import is_file, mask_url
from dtme_search.search.study.preparation import Prepared
from dtme_search.search.workers import hosting
from dtme_search.search.workers.dask_workers import ANSWER_WITHIN, GPU, DaskLauncher, by_value, places_of
from dtme_search.search.workers.launching import Launcher
from dtme_search.search.workers.places import Place
from dtme_search.version import __version__


@dataclass(frozen=True)
class JoinedCluster:
    """An existing cluster.

    Attributes:
        address: Of its scheduler, or the path of its scheduler file.
        workers: How many to run; ``None`` for as many as there are places.
    """

    address: str
    workers: int | None = None

    def check(self, url: str) -> None:
        """Check that the cluster can run a study with this database.

        Raises:
            ConfigError: If it cannot be reached, has no worker, or has other software.
            StorageError: If it cannot reach the database.
        """
        with _connected(self.address) as client:
            self._count(client)
            _check_dask_workers(client.run(*by_value(hosting.look_around), on_error="return"), url)

    @contextmanager
    def launcher(self, prepared: Prepared, most: int) -> Iterator[Launcher]:
        """Starts workers there; on exit, the remaining ones are told to stop."""
        with (
            _connected(self.address) as client,
            DaskLauncher(client, prepared, min(self._count(client), most)) as starts,
        ):
            yield starts

    def _count(self, client: Client) -> int:
        there = sum(place.capacity for place in places_of(client))
        if self.workers is None and there == 0:
            raise ConfigError(
                f"--scheduler {self.address}: no Dask worker has joined it. Start some (`dask worker "
                f"{self.address}`), or set with --workers how many to wait for."
            )
        return self.workers or there


@dataclass(frozen=True)
class OwnCluster:
    """A cluster on this machine for the duration of a study.

    Attributes:
        places: One for each worker, which gets its own Dask worker.
    """

    places: Sequence[Place]

    def check(self, url: str) -> None:
        """Nothing to check: everything that reaches this machine's files reaches the database."""

    @contextmanager
    def launcher(self, prepared: Prepared, most: int) -> Iterator[Launcher]:
        """Starts workers on the cluster, which ends with them."""
        places = self.places[:most]
        scheduler = {"host": "127.0.0.1", "dashboard": False, "dashboard_address": "127.0.0.1:0"}
        workers = {
            index: {"cls": Nanny, "options": _nanny(place, len(places))} for index, place in enumerate(places)
        }
        with (
            _quiet(),
            SpecCluster(workers, {"cls": Scheduler, "options": scheduler}) as cluster,
            Client(cluster, set_as_default=False) as client,
            DaskLauncher(client, prepared, len(places)) as starts,
        ):
            yield starts


def _nanny(place: Place, num_workers: int) -> dict[str, Any]:
    """Options of the process that restarts a Dask worker when it dies."""
    environment = place.environment(num_workers, joblib.cpu_count(), os.environ)
    return {
        "host": "127.0.0.1",
        "dashboard_address": "127.0.0.1:0",
        "env": place.gpu,
        "resources": {GPU: 1} if place.visible else {},
        "nthreads": int(environment["OMP_NUM_THREADS"]),
        "memory_limit": 0,
        "silence_logs": logging.CRITICAL,
        # Ctrl-C reaches all processes of a terminal; this one must survive to pass it on.
        "preload": ["import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"],
    }


@contextmanager
def _connected(address: str) -> Iterator[Client]:
    with _quiet():
        try:
            client = Client(_address(address), timeout=ANSWER_WITHIN, set_as_default=False)
        except (OSError, TimeoutError, ValueError, LookupError) as error:
            raise ConfigError(
                f"--scheduler {address}: no Dask scheduler answers there ({error}). "
                "Give an address such as tcp://host:8786, or the scheduler file."
            ) from None
        with client:
            yield client


def _check_dask_workers(found: Mapping[str, Any], url: str) -> None:
    here = hosting.machine()
    unpinned: Counter[str] = Counter()
    for address, facts in found.items():
        if isinstance(facts, BaseException):
            raise ConfigError(
                f"Dask worker {address}: cannot run our code: {facts!r}. It must have the same Python and "
                "packages as this machine."
            )
        if facts["version"] != __version__:
            raise ConfigError(
                f"Dask worker {address}: dtme-search must be version {__version__}, got "
                f"{facts['version'] or 'none'}. Install the same one on all machines of the cluster."
            )
        if is_file(url) and facts["machine"] != here:
            raise StorageError(
                f"{mask_url(url)}: a SQLite file serves one machine, got Dask worker {address} on "
                f"{facts['node']}. Give --storage a PostgreSQL URL."
            )
        unpinned[facts["machine"]] += facts["unpinned"]
    for machine, count in unpinned.items():
        if count > 1:
            raise ConfigError(
                f"{machine.split()[0]}: each Dask worker must have its own CUDA_VISIBLE_DEVICES, got {count} "
                'without. Start them as CUDA_VISIBLE_DEVICES=0 dask worker --resources "GPU=1", then 1, ...'
            )


def _address(given: str) -> str:
    """Address of a scheduler, without waiting for a missing scheduler file, as Dask would."""
    return str(json.loads(Path(given).read_text())["address"]) if given.endswith(".json") else given


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence Dask's log of dying workers and lost connections; our own messages report them."""
    logger = logging.getLogger("distributed")
    propagate, levels = logger.propagate, {handler: handler.level for handler in logger.handlers}
    logger.propagate = False
    for handler in levels:
        handler.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.propagate = propagate
        for handler, level in levels.items():
            handler.setLevel(level)
