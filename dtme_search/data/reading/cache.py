"""Where expensive results of data sets are kept: one folder per user, never the data folder."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import joblib

from dtme_search.errors import DataError
from dtme_search.paths import expanded

_LIMIT_GB = 20.0
_IN_USE_SECONDS = 3600.0


def cache_folder(cache_dir: Path | None = None) -> Path:
    """The cache folder: ``cache_dir``, else ``DTME_CACHE``, else ``~/.cache/dtme-search``."""
    return cache_dir or expanded(os.environ.get("DTME_CACHE") or "~/.cache/dtme-search")


def cache_limit_gb() -> float:
    """Size limit of the cache: ``DTME_CACHE_GB``, else 20 GB [ours].

    Raises:
        DataError: If that is not a number above 0.
    """
    given = os.environ.get("DTME_CACHE_GB") or str(_LIMIT_GB)
    try:
        limit = float(given)
    except ValueError:
        limit = 0.0
    if not limit > 0:
        raise DataError(f"DTME_CACHE_GB must be a number of gigabytes above 0, got '{given}'. Change it.")
    return limit


def cached_files(cache_dir: Path | None = None) -> list[Path]:
    """All files of the cache; each of them can be made again."""
    return sorted(path for path in cache_folder(cache_dir).glob("*/**/*") if path.is_file())


def trim_cache(cache_dir: Path | None = None) -> float:
    """Delete the least recently used files until the rest fits; returns the gigabytes freed.

    Files used within the last hour stay even above the limit, because somebody may be about to read them.
    Runs at most once an hour, so that looking at many files does not slow down every start.
    """
    folder, now, gone = cache_folder(cache_dir), time.time(), 0
    stamp = folder / ".trimmed"
    if not folder.is_dir() or (stamp.exists() and now - stamp.stat().st_mtime < _IN_USE_SECONDS):
        return 0.0
    with contextlib.suppress(OSError):
        stamp.touch()
    facts = {}
    for path in cached_files(cache_dir):
        with contextlib.suppress(FileNotFoundError):
            facts[path] = path.stat()
    excess = sum(each.st_size for each in facts.values()) - cache_limit_gb() * 2**30
    used = {path: max(each.st_atime, each.st_mtime) for path, each in facts.items()}
    for path in sorted(used, key=lambda each: used[each]):
        if excess - gone <= 0 or now - used[path] < _IN_USE_SECONDS:
            break
        with contextlib.suppress(OSError):
            path.unlink()
            gone += facts[path].st_size
    return gone / 2**30


def open_cache(cache_dir: Path | None = None) -> joblib.Memory:
    """Open the cache in ``cache_folder(cache_dir)``.

    Raises:
        DataError: If the folder cannot be created or written to, or lies in a home that is not known.
    """
    folder = cache_folder(cache_dir)
    if folder.parts[:1] and folder.parts[0].startswith("~"):
        raise DataError(f"{folder}: no such home folder. Set DTME_CACHE to a folder of your own.")
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
    import joblib

    # Compressed for its checksum: what a disk gives back otherwise than it was written is made anew.
    return joblib.Memory(folder, verbose=0, compress=1)


def _check_owner(folder: Path) -> None:
    """Refuse a cache that others can write to: its content is unpickled, so it could run their code.

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
