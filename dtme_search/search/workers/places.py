"""Where the workers on a machine run: which GPU each one sees, how many threads each one has."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import joblib
import torch

from dtme_search.data import WORKERS_PER_GPU
from dtme_search.errors import ConfigError
from dtme_search.search.workers.process import THREADS

MOST_ON_CPU = 4
"""Default number of workers without a GPU: more would cost more memory than they gain."""
_MOST_THREADS = 4096


@dataclass(frozen=True)
class Place:
    """Where one worker runs.

    Attributes:
        device: Name of the device for torch in this process; ``None`` for the best available.
        visible: Value of ``CUDA_VISIBLE_DEVICES`` in a process of its own; empty for the CPU.
        sharers: Workers on the same GPU, including this one.
        further: Names of the other devices of its trials for torch in this process, if they have several.
    """

    device: str | None
    visible: str = ""
    sharers: int = 1
    further: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Its name in tables."""
        return f"GPU {self.visible}" if self.visible else "CPU"

    def environment(self, num_workers: int, num_cores: int, inherited: Mapping[str, str]) -> dict[str, str]:
        """Environment of a worker; must be complete before its Python starts, because torch reads it once.

        Args:
            num_workers: Workers on this machine, among which its threads are divided.
            num_cores: Cores of this machine.
            inherited: Environment of the parent; a number of threads set there by the user is kept.
        """
        threads = str(self.threads(num_workers, num_cores, inherited))
        return {
            **dict.fromkeys(THREADS, threads),
            **inherited,
            # What OpenMP would not understand it would ignore, and take every core.
            "OMP_NUM_THREADS": threads,
            **self.gpu,
        }

    def threads(
        self, num_workers: int, num_cores: int | None = None, inherited: Mapping[str, str] = os.environ
    ) -> int:
        """Threads of a worker; arguments as of :meth:`environment`."""
        # A list gives the threads of nested regions; the first is that of the outermost.
        set_by_user = inherited.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
        cores = num_cores or joblib.cpu_count()
        is_number = set_by_user.isascii() and set_by_user.isdigit() and 0 < int(set_by_user) <= _MOST_THREADS
        return int(set_by_user) if is_number else max(1, cores // num_workers)

    @property
    def gpu(self) -> dict[str, str]:
        """The part of the environment that says which GPU a worker sees and how much of it is its own."""
        return {"CUDA_VISIBLE_DEVICES": self.visible, WORKERS_PER_GPU: str(self.sharers)}


def places_for(
    workers: int | None,
    devices: Sequence[str] | None = None,
    per_device: int = 1,
    device: str | None = None,
    *,
    per_trial: int = 1,
    gpus: Sequence[str] | None = None,
    num_cores: int | None = None,
) -> tuple[Place, ...]:
    """One place for each worker: a GPU, or several that share each trial, or the CPU.

    Args:
        workers: How many; ``None`` for as many as the devices take: ``per_device`` for each GPU, or one for
            each core of a machine without a GPU, but at most ``MOST_ON_CPU``.
        devices: Positions among ``gpus``, or ``cpu``; all GPUs by default.
        per_device: Workers that may share a GPU.
        per_trial: GPUs of each worker; on the CPU processes.
        device: Device of a single worker; ``cpu`` also works for several, if ``workers`` says so.
        gpus: As named in ``CUDA_VISIBLE_DEVICES``; by default those this process sees.
        num_cores: Cores; by default those this process may use.

    Raises:
        ConfigError: If a device does not exist, or takes fewer workers than requested.

    Example:
        >>> [place.visible for place in places_for(3, per_device=2, gpus=["4", "5"])]
        ['4', '5', '4']
    """
    if device is not None and devices is not None:
        raise ConfigError("--device and --devices cannot be combined; give one.")
    if device not in (None, "cpu"):
        if (workers or 1) > 1:
            raise ConfigError(f"--device is for one worker, got {device} for {workers}. Use --devices.")
        return (Place(device),)
    gpus = visible_gpus() if gpus is None else gpus
    chosen = _chosen(["cpu"] if device else devices, gpus)
    if not chosen:
        if workers is None:
            most = max(1, min(num_cores or joblib.cpu_count(), MOST_ON_CPU) // per_trial)
            workers = 1 if device else most
        return (Place("cpu" if device or devices else None),) * workers
    groups = [chosen[at : at + per_trial] for at in range(0, len(chosen) - per_trial + 1, per_trial)]
    if not groups:
        raise ConfigError(
            f"--devices-per-trial must be at most the number of GPUs to use, {len(chosen)}, got {per_trial}. "
            "Lower it."
        )
    most = len(groups) * per_device
    if workers is not None and workers > most:
        raise ConfigError(
            f"--workers must be at most {most} ({len(chosen)} GPUs with {per_device} trials each), "
            f"got {workers}. Raise --trials-per-device, or use --devices cpu."
        )
    turns = [groups[number % len(groups)] for number in range(most if workers is None else workers)]
    return tuple(
        Place(
            f"cuda:{group[0]}",
            ",".join(gpus[number] for number in group),
            turns.count(group),
            tuple(f"cuda:{number}" for number in group[1:]),
        )
        for group in turns
    )


def visible_gpus() -> tuple[str, ...]:
    """GPUs that this process may use, as ``CUDA_VISIBLE_DEVICES`` names them; none is touched.

    Raises:
        ConfigError: If torch cannot read the names.
    """
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    try:
        count = torch.cuda.device_count()
    except ValueError:
        raise ConfigError(
            f"CUDA_VISIBLE_DEVICES must list GPUs by number or UUID, got '{named}'. Give for example 0,1."
        ) from None
    names = [name.strip() for name in named.split(",")] if named else [str(n) for n in range(count)]
    return tuple(names[:count])


def _chosen(devices: Sequence[str] | None, gpus: Sequence[str]) -> list[int]:
    """Positions of GPUs; empty for the CPU."""
    if devices is None:
        return list(range(len(gpus)))
    if list(devices) == ["cpu"]:
        return []
    for name in devices:
        if not name.isdecimal() or int(name) >= len(gpus):
            known = f"0 to {len(gpus) - 1}" if gpus else "there is no GPU"
            raise ConfigError(
                f"--devices must be cpu, or numbers of visible GPUs ({known}), got '{name}'. "
                "Give for example 0,1."
            )
    if len(set(devices)) < len(devices):
        raise ConfigError(
            f"--devices must name each GPU once, got {','.join(devices)}. "
            "Workers share one with --trials-per-device."
        )
    return [int(name) for name in devices]
