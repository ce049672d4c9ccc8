"""Where samples wait for training: as tensors on the device, or on disk behind a DataLoader.

Both give the same ``RawSamples`` for the same indices, so nothing after them can tell which one it is.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.utils.data

from dtme_search.config import DataConfig
from dtme_search.data.base import Dataset
from dtme_search.data.batches.randomness import Purpose, make_generator
from dtme_search.data.batches.tensors import RawSamples, read_sample, stack_samples
from dtme_search.data.reading.threads import map_in_threads
from dtme_search.errors import DataError
from dtme_search.tasks import TaskSpec

WORKERS_PER_GPU = "DTME_WORKERS_PER_GPU"
"""Variable of a worker's environment: how many share its GPU."""


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
        on_sample: Callable[[RawSamples], None] | None = None,
    ) -> TensorStorage:
        """Read ``ids`` with several threads; ``on_sample`` is called after each, in the calling thread.

        Raises:
            DataError: From the data set, for a broken sample.
        """

        def read_all() -> Iterator[RawSamples]:
            read = functools.partial(read_sample, dataset, specs=specs, image_size=image_size)
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

    def batches(self, indices: Iterable[Sequence[int]], tasks: Sequence[str]) -> Iterator[RawSamples]:
        """See ``Storage.batches``; the processes live as long as the iterator."""
        specs = {task: self.specs[task] for task in tasks}
        loader: torch.utils.data.DataLoader[RawSamples | DataError] = torch.utils.data.DataLoader(
            _BatchReader(self.dataset, self.ids, specs, self.image_size),
            batch_size=None,
            # With batch_size None an element of the sampler goes to the reader as it is: a list of indices.
            sampler=indices,
            num_workers=self.num_workers,
            collate_fn=_unchanged,
            pin_memory=self.device.type == "cuda",
            # Without a generator of its own the loader would advance the global one of the run.
            generator=make_generator("cpu", Purpose.LOADER),
        )
        for batch in loader:
            if isinstance(batch, DataError):
                raise batch
            yield batch.to(self.device)


@dataclass(frozen=True)
class _BatchReader(torch.utils.data.Dataset[RawSamples | DataError]):
    dataset: Dataset
    ids: tuple[str, ...]
    specs: Mapping[str, TaskSpec]
    image_size: tuple[int, int]

    def __getitem__(self, indices: Sequence[int]) -> RawSamples | DataError:
        try:
            samples = [
                read_sample(self.dataset, self.ids[index], self.specs, self.image_size) for index in indices
            ]
        except DataError as error:
            # Raised in a worker it would arrive wrapped in a traceback; as a value it stays one line.
            return error
        return stack_samples(samples, len(samples), self.specs, self.image_size, torch.device("cpu"))


def _unchanged(batch: Any) -> Any:
    return batch


def fits_on_device(num_bytes: int, config: DataConfig, device: torch.device) -> bool:
    """Whether ``data.storage`` puts data of this size on the device.

    ``auto`` does when it is at most ``storage_limit_gb`` and half of what the device has: on CUDA of the free
    memory, but no more than the share of this worker (``DTME_WORKERS_PER_GPU``, since workers that start
    together all see the same free memory); of all memory on the CPU.
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
