"""Which engine runs the workers of a study: processes on this machine, or a Dask cluster."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Literal, Protocol

from dtme_search.errors import ConfigError
from dtme_search.search.study.preparation import Prepared
from dtme_search.search.workers.launching import Launcher
from dtme_search.search.workers.local import LocalProcesses
from dtme_search.search.workers.places import places_for

EngineName = Literal["local", "dask"]


class Engine(Protocol):
    """Runs the workers of a study."""

    def check(self, url: str) -> None:
        """Raise a ``DtmeSearchError`` if it cannot run a study with this database."""

    def launcher(self, prepared: Prepared, most: int) -> AbstractContextManager[Launcher]:
        """What starts the workers of a study, while they run; never more than ``most``."""


def engine_for(
    name: EngineName,
    scheduler: str | None,
    workers: int | None,
    devices: Sequence[str] | None,
    per_device: int,
    device: str | None,
    *,
    per_trial: int = 1,
) -> Engine:
    """The engine for the given arguments, which are those of :func:`dtme_search.search.optimize`.

    Raises:
        ConfigError: If they exclude each other, or the packages of the engine are missing.
    """
    if name == "local":
        if scheduler is not None:
            raise ConfigError(f"--scheduler needs --engine dask, got {scheduler} without it.")
        return LocalProcesses(places_for(workers, devices, per_device, device, per_trial=per_trial))
    if per_trial > 1:
        raise ConfigError(
            f"--devices-per-trial needs --engine local, got {per_trial} with dask. Start `dtme-search worker "
            f"--devices-per-trial {per_trial}` on the machines instead."
        )
    if device not in (None, "cpu"):
        raise ConfigError(f"--device is for one worker of --engine local, got {device}. Use --devices.")
    try:
        # Heavy, and an extra: imported only when used.
        from dtme_search.search.workers.dask_engine import JoinedCluster, OwnCluster
    except ImportError as error:
        raise ConfigError(
            f"--engine dask needs packages that are missing ({error}). pip install 'dtme-search[dask]'"
        ) from None
    if scheduler is None:
        return OwnCluster(places_for(workers, devices, per_device, device))
    given = {
        "--device": device,
        "--devices": devices,
        "--trials-per-device": None if per_device == 1 else per_device,
    }
    for option, value in given.items():
        if value is not None:
            raise ConfigError(
                f"{option} must not be given with --scheduler, got {value}: each Dask worker declares its "
                'GPUs, as in dask worker --resources "GPU=1".'
            )
    return JoinedCluster(scheduler, workers)
