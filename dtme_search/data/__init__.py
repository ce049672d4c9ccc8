"""Data sets, their splits, and batches on the device.

Whatever needs torch is imported at first use: the processes of ``prepare`` never need it, and it would take
most of their memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dtme_search.data.base import Batch, Dataset, Sample, SourceSplit, Split
from dtme_search.data.check import CheckReport, check_dataset, verify_readable
from dtme_search.data.reading.pictures import read_image
from dtme_search.data.registry import build_dataset, resolve_root
from dtme_search.data.splits import Splits, split_ids
from dtme_search.lazy import lazily

if TYPE_CHECKING:
    from dtme_search.data.batches.augment import image_statistics, normalize_images, restore_colours
    from dtme_search.data.batches.own_size import OwnLabels
    from dtme_search.data.batches.pipeline import TaskData, build_data
    from dtme_search.data.batches.randomness import Purpose, make_generator
    from dtme_search.data.batches.storage import WORKERS_PER_GPU

__all__ = [
    "WORKERS_PER_GPU",
    "Batch",
    "CheckReport",
    "Dataset",
    "OwnLabels",
    "Purpose",
    "Sample",
    "SourceSplit",
    "Split",
    "Splits",
    "TaskData",
    "build_data",
    "build_dataset",
    "check_dataset",
    "image_statistics",
    "make_generator",
    "normalize_images",
    "read_image",
    "resolve_root",
    "restore_colours",
    "split_ids",
    "verify_readable",
]

_get = lazily(
    __name__,
    {
        "batches.augment": ("image_statistics", "normalize_images", "restore_colours"),
        "batches.own_size": ("OwnLabels",),
        "batches.pipeline": ("TaskData", "build_data"),
        "batches.randomness": ("Purpose", "make_generator"),
        "batches.storage": ("WORKERS_PER_GPU",),
    },
)

if not TYPE_CHECKING:  # type checkers would take any name
    __getattr__ = _get
