"""Where data sets keep what is expensive to compute: one folder of the user, never the data folder."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import joblib

from dtme_search.errors import DataError


def cache_folder(cache_dir: Path | None = None) -> Path:
    """Name the cache folder: ``cache_dir``, else ``DTME_CACHE``, else ``~/.cache/dtme-search``."""
    return cache_dir or Path(os.environ.get("DTME_CACHE") or "~/.cache/dtme-search").expanduser()


def open_cache(cache_dir: Path | None = None) -> joblib.Memory:
    """Open the cache in ``cache_folder(cache_dir)``.

    Raises:
        DataError: If the folder cannot be created or written to.
    """
    folder = cache_folder(cache_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise DataError(
            f"{folder}: the cache folder must be writable, got '{error.strerror}'. "
            "Set DTME_CACHE to another folder."
        ) from error
    return joblib.Memory(folder, verbose=0)
