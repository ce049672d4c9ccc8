"""Which classes occur in which sample, found out once by reading the labels and then cached."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dtme_search.data.reading.cache import open_cache
from dtme_search.data.reading.threads import map_in_threads
from dtme_search.errors import DataError

Bools = npt.NDArray[np.bool_]
LabelReader = Callable[[str], tuple[npt.NDArray[Any], Bools]]
"""Sample id -> classes (H, W) and where they count (H, W)."""


def class_presence(
    fingerprint: str, ids: Sequence[str], num_classes: int, read: LabelReader, cache_dir: Path | None = None
) -> Bools:
    """Presence of each class in each sample, bool (N, C).

    Cached per data set and list of ids: the first search on a data set reads every training label once, later
    ones read one small file. Without a writable cache it is found out every time.

    Args:
        fingerprint: Identity of the data set; different content must have a different one.
        ids: Samples, the rows of the result.
        num_classes: Classes, its columns.
        read: Reads the label of one sample; called from several threads.
        cache_dir: As for ``open_cache``.

    Raises:
        DataError: From ``read``, for a missing or broken file.
    """
    try:
        found = open_cache(cache_dir).cache(_find_classes, ignore=["read"])
    except DataError:
        found = _find_classes
    presence: Bools = found(fingerprint, tuple(ids), num_classes, read)
    return presence


# The cache distinguishes calls by the first two arguments.
def _find_classes(fingerprint: str, ids: tuple[str, ...], num_classes: int, read: LabelReader) -> Bools:  # noqa: ARG001
    def occurring(sample_id: str) -> Bools:
        label, valid = read(sample_id)
        return np.bincount(label[valid].ravel(), minlength=num_classes)[:num_classes] > 0

    return np.array(list(map_in_threads(occurring, ids)), dtype=np.bool_).reshape(len(ids), num_classes)
