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
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        _check_owner(folder)
        if not os.access(folder, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise DataError(
            f"{folder}: the cache folder must be writable, got '{error.strerror}'. "
            "Set DTME_CACHE to another folder."
        ) from error
    return joblib.Memory(folder, verbose=0)


def _check_owner(folder: Path) -> None:
    """Refuse a cache that others can write to: what is read from it is unpickled, so it could run their code.

    Raises:
        DataError: If it belongs to another user, or its mode cannot be changed.
    """
    facts = folder.stat()
    if not hasattr(os, "getuid"):
        return
    if facts.st_uid not in (os.getuid(), 0):
        raise DataError(
            f"{folder}: the cache folder must be your own, got one of user {facts.st_uid}, who could have "
            "code run here. Set DTME_CACHE to another folder."
        )
    if facts.st_uid == os.getuid() and facts.st_mode & 0o022:
        folder.chmod(0o700)
