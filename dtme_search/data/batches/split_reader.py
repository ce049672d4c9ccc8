"""Read the splits of a run: to the device at once, or by a loader, after a first look for broken files."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from dtme_search.config import DataConfig, fingerprint
from dtme_search.data.base import Dataset, Split
from dtme_search.data.batches.storage import LoaderStorage, Storage, TensorStorage
from dtme_search.data.batches.tensors import RawSamples
from dtme_search.data.check import verify_readable
from dtme_search.data.reading.cache import cache_folder
from dtme_search.data.spans import LabelSpans, Span, span_of
from dtme_search.data.splits import Splits
from dtme_search.tasks import TaskSpec

_VERIFIED_IMAGES = 20_000


def even_choice(num_images: int, most: int) -> range:
    """Every image, or every second, third, ... one, so that at most ``most`` remain.

    Example:
        >>> list(even_choice(5, 8)), list(even_choice(5, 2))
        ([0, 1, 2, 3, 4], [0, 3])
    """
    return range(0, num_images, max(1, -(-num_images // most)))


@dataclass(frozen=True)
class SplitReader:
    """How the splits of a run are read: all at once to the device, or by a loader as they are needed.

    Attributes:
        source: The data set.
        specs: Tasks of the run.
        stored: These, and the task that judges crops.
        config: The data section of the run.
        splits: Ids per split.
        now: Splits that are read or verified now.
        on_progress: Called with the number of images read and in total.
    """

    source: Dataset
    specs: Mapping[str, TaskSpec]
    stored: Mapping[str, TaskSpec]
    config: DataConfig
    splits: Splits
    now: tuple[Split, ...]
    on_progress: Callable[[int, int], None] | None

    @property
    def _ids_now(self) -> list[str]:
        return [sample_id for split in self.now for sample_id in self.splits.ids(split)]

    def to_device(self, device: torch.device) -> Callable[[Split], Storage]:
        """Read the splits of ``now`` to the device; the others follow at first use."""
        total, done, spans = len(self._ids_now), itertools.count(1), LabelSpans()

        def report(split: Split, sample: RawSamples) -> None:
            spans.add(split, {task: _span(sample, task) for task in self.specs})
            if self.on_progress is not None:
                self.on_progress(next(done), total)

        @functools.cache
        def open_split(split: Split) -> Storage:
            return TensorStorage.read(
                self.source,
                self.splits.ids(split),
                self.stored,
                self.config.image_size,
                device,
                on_sample=functools.partial(report, split) if split in self.now else None,
                resize=self.config.resize,
            )

        for split in self.now:
            open_split(split)
        spans.check(self.specs)
        return open_split

    def behind_a_loader(self, device: torch.device, identity: str) -> Callable[[Split], Storage]:
        """Open the splits for a loader, after the first look at their files."""
        self._verify_once(identity)

        @functools.cache
        def open_split(split: Split) -> Storage:
            return LoaderStorage(
                self.source,
                self.splits.ids(split),
                self.stored,
                self.config.image_size,
                device,
                num_workers=self.config.loader_workers,
                resize=self.config.resize,
            )

        return open_split

    def _verify_once(self, identity: str) -> None:
        """Decode files of ``now`` before the first training on this data, to find broken ones now."""
        ids = self._ids_now
        chosen = [ids[index] for index in even_choice(len(ids), _VERIFIED_IMAGES)]
        stamp = cache_folder() / "verified" / fingerprint(identity, chosen, sorted(self.stored))
        if stamp.exists():
            return
        split_of = {sample_id: split for split in self.now for sample_id in self.splits.ids(split)}
        spans = LabelSpans()
        verify_readable(
            self.source,
            chosen,
            tuple(self.stored),
            self.on_progress,
            lambda sample_id, found: spans.add(split_of[sample_id], found),
        )
        spans.check(self.specs)
        stamp.parent.mkdir(parents=True, exist_ok=True)
        stamp.touch()


def _span(sample: RawSamples, task: str) -> Span | None:
    """For one sample in its final form, because a label may lose its last pixel when it is reduced."""
    return span_of(sample.labels[task][0].permute(1, 2, 0).numpy(), sample.valid[task][0, 0].numpy())
