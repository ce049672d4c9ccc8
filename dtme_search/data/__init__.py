"""Data sets, their splits, and batches on the device."""

from dtme_search.data.augment import restore_colours
from dtme_search.data.base import Batch, Dataset, Sample, SourceSplit, Split
from dtme_search.data.check import CheckReport, check_dataset, verify_readable
from dtme_search.data.pipeline import TaskData, build_data
from dtme_search.data.randomness import Purpose, make_generator
from dtme_search.data.registry import build_dataset, resolve_root
from dtme_search.data.splits import Splits, split_ids

__all__ = [
    "Batch",
    "CheckReport",
    "Dataset",
    "Purpose",
    "Sample",
    "SourceSplit",
    "Split",
    "Splits",
    "TaskData",
    "build_data",
    "build_dataset",
    "check_dataset",
    "make_generator",
    "resolve_root",
    "restore_colours",
    "split_ids",
    "verify_readable",
]
