"""Where samples are kept for training: as tensors on the device, or on disk behind a DataLoader.

Both give the same ``RawSamples`` for the same indices, so the code after them cannot distinguish them.
"""

from __future__ import annotations

import functools
import itertools
import logging
import os
import resource
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.utils.data

from dtme_search.config import DataConfig
from dtme_search.data.base import Dataset
from dtme_search.data.batches.randomness import Purpose, make_generator
from dtme_search.data.batches.resizing import Resizing
from dtme_search.data.batches.tensors import RawSamples, bytes_per_sample, read_sample, stack_samples
from dtme_search.data.reading.threads import map_in_threads
from dtme_search.errors import DataError
from dtme_search.tasks import TaskSpec

WORKERS_PER_GPU = "DTME_WORKERS_PER_GPU"
"""Environment variable of a worker: how many workers share its GPU."""

_log = logging.getLogger(__name__)

_SILENT_SECONDS = 300
"""Seconds for one batch after which the processes of a loader are given up."""
_HANDLES = 256
"""Number of files that a process of a loader should be able to open."""
_SHARED_MEMORY = "/dev/shm"
_WAY_OUT = (
    "This process reads alone, which is slower. Raise ulimit -n or the shared memory (docker: --shm-size), "
    "or set data.loader_workers to 0"
)


class Storage(Protocol):
    """The samples of one split."""

    def batches(self, indices: Iterable[Sequence[int]], tasks: Sequence[str]) -> Iterator[RawSamples]:
        """One batch on the device per element of ``indices``, in order, with the labels of ``tasks``.

        Raises:
            DataError: If a file turns out missing or broken.
        """
        ...


@dataclass(frozen=True)
class TensorStorage:
    """Every sample of a split held on the device."""

    samples: RawSamples

    @classmethod
    def read(
        cls,
        dataset: Dataset,
        ids: Sequence[str],
        specs: Mapping[str, TaskSpec],
        image_size: tuple[int, int],
        device: torch.device,
        *,
        on_sample: Callable[[RawSamples], None] | None = None,
        resize: Resizing = "area",
    ) -> TensorStorage:
        """Read ``ids`` with several threads; ``on_sample`` is called after each, in the calling thread.

        Raises:
            DataError: From the data set, for a broken sample.
        """

        def read_all() -> Iterator[RawSamples]:
            read = functools.partial(read_sample, dataset, specs=specs, image_size=image_size, resize=resize)
            for sample in map_in_threads(read, ids):
                yield sample
                if on_sample is not None:
                    on_sample(sample)

        return cls(stack_samples(read_all(), len(ids), specs, image_size, device))

    def batches(self, indices: Iterable[Sequence[int]], tasks: Sequence[str]) -> Iterator[RawSamples]:
        """See ``Storage.batches``."""
        for chosen in indices:
            yield self.samples.select(chosen, tasks)


@dataclass(frozen=True)
class LoaderStorage:
    """Samples read from disk for every batch by ``num_workers`` processes (0: by this one)."""

    dataset: Dataset
    ids: tuple[str, ...]
    specs: Mapping[str, TaskSpec]
    image_size: tuple[int, int]
    device: torch.device
    num_workers: int
    resize: Resizing = "area"

    def batches(self, indices: Iterable[Sequence[int]], tasks: Sequence[str]) -> Iterator[RawSamples]:
        """See ``Storage.batches``; the processes live as long as the iterator.

        If they die or fall silent (a container has 64 MB of shared memory, a shell allows few open files),
        this process reads on from the current batch: slower, with the same numbers.
        """
        reader = _BatchReader(
            self.dataset, self.ids, {task: self.specs[task] for task in tasks}, self.image_size, self.resize
        )
        order, ahead = itertools.tee(indices)
        gave_up = False
        read: Iterator[RawSamples | DataError] | None = None
        for chosen in order:
            if read is None and not gave_up:
                if self.num_workers and (
                    short := what_is_short(self._bytes_ahead(len(chosen), reader.specs))
                ):
                    _log.warning("%s. %s", short, _WAY_OUT)
                    gave_up = True
                else:
                    read = self._by_processes(reader, ahead)
            try:
                batch = reader[chosen] if read is None else next(read)
            except (RuntimeError, OSError) as error:
                if read is None or not self.num_workers:
                    raise
                reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
                _log.warning("the processes of the loader have ended (%s). %s", reason, _WAY_OUT)
                gave_up, read = True, None  # frees their file handles and memory before anything is opened
                batch = reader[chosen]
            if isinstance(batch, DataError):
                raise batch
            yield batch.to(self.device)

    def _bytes_ahead(self, num_samples: int, specs: Mapping[str, TaskSpec]) -> int:
        """Memory of the batches that wait in shared memory: two per process, and one on its way."""
        return (2 * self.num_workers + 1) * num_samples * bytes_per_sample(specs, self.image_size)

    def _by_processes(
        self, reader: _BatchReader, indices: Iterable[Sequence[int]]
    ) -> Iterator[RawSamples | DataError]:
        loader: torch.utils.data.DataLoader[RawSamples | DataError] = torch.utils.data.DataLoader(
            reader,
            batch_size=None,
            # With batch_size None an element of the sampler goes to the reader unchanged: a list of indices.
            sampler=indices,
            num_workers=self.num_workers,
            collate_fn=_unchanged,
            pin_memory=self.device.type == "cuda",
            timeout=_SILENT_SECONDS if self.num_workers else 0,
            # Without its own generator the loader would advance the global one of the run.
            generator=make_generator("cpu", Purpose.LOADER),
        )
        running = iter(loader)
        try:
            yield from running
        except (RuntimeError, OSError):
            # Otherwise a traceback reports their end once more when the iterator is garbage collected.
            with suppress(RuntimeError, OSError, AttributeError):
                running._shutdown_workers()  # type: ignore[attr-defined]
            raise


def what_is_short(num_bytes: int) -> str | None:
    """What the processes of a loader lack here, in a sentence; ``None`` if nothing.

    A process that lacks it does not end with an error: its batch is lost, and everybody waits for ever.

    Args:
        num_bytes: Size of the batches that will wait in shared memory.
    """
    handles, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if handles < _HANDLES and (most == resource.RLIM_INFINITY or most >= _HANDLES):
        resource.setrlimit(resource.RLIMIT_NOFILE, (_HANDLES, most))
    elif handles < _HANDLES:
        return f"a process may open {handles} files, the loader needs {_HANDLES}"
    if os.path.isdir(_SHARED_MEMORY):
        disk = os.statvfs(_SHARED_MEMORY)
        free = disk.f_bavail * disk.f_frsize
        if free < num_bytes:
            return f"{_SHARED_MEMORY} has {free / 1e6:.1f} MB free, the loader needs {num_bytes / 1e6:.1f} MB"
    return None


@dataclass(frozen=True)
class _BatchReader(torch.utils.data.Dataset[RawSamples | DataError]):
    dataset: Dataset
    ids: tuple[str, ...]
    specs: Mapping[str, TaskSpec]
    image_size: tuple[int, int]
    resize: Resizing

    def __getitem__(self, indices: Sequence[int]) -> RawSamples | DataError:
        try:
            samples = [
                read_sample(self.dataset, self.ids[index], self.specs, self.image_size, self.resize)
                for index in indices
            ]
        except DataError as error:
            # Raised in a worker it would arrive wrapped in a traceback; returned as a value it stays one
            # line.
            return error
        return stack_samples(samples, len(samples), self.specs, self.image_size, torch.device("cpu"))


def _unchanged(batch: Any) -> Any:
    return batch


def fits_on_device(num_bytes: int, config: DataConfig, device: torch.device) -> bool:
    """Whether ``data.storage`` puts data of this size on the device.

    ``auto`` does if the data need at most ``storage_limit_gb`` and half of the device's memory: on CUDA of
    the free memory, but no more than the share of this worker (``DTME_WORKERS_PER_GPU``, because workers that
    start together all see the same free memory); on the CPU of all memory.
    """
    if config.storage != "auto":
        return config.storage == "device"
    return num_bytes <= min(config.storage_limit_gb * 1e9, 0.5 * _memory_bytes(device))


def _memory_bytes(device: torch.device) -> float:
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return min(float(free), total / int(os.environ.get(WORKERS_PER_GPU, "1")))
    if device.type == "cpu" and hasattr(os, "sysconf"):
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    return float("inf")
