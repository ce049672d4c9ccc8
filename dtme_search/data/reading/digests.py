"""Digests of file contents, computed once and cached until the file system reports a change."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from dtme_search.data.reading.cache import cache_folder, open_cache
from dtme_search.data.reading.folders import FilesById, content_digest
from dtme_search.data.reading.threads import map_in_threads
from dtme_search.errors import DataError

_SETTLED_SECONDS = 2.0
"""Age in seconds from which a change time is trusted: some file systems count in steps of two seconds."""
_SAVED_AFTER = 2000
"""Number of digests after which they are saved, so that an interrupted start does not begin again."""


def content_digests(root: Path, paths: Sequence[Path], cache_dir: Path | None = None) -> list[str | None]:
    """SHA-256 of each file, ``None`` if it does not exist.

    A digest is taken from the cache if inode, size and the times of modification and change, in nanoseconds,
    are those of the file that was hashed. Without a writable cache every file is read.

    Args:
        root: Folder of the data; names the file of the cache.
        paths: Files, usually below it.
        cache_dir: As for ``open_cache``.

    Raises:
        DataError: If a file cannot be read.
    """
    kept = _load(_place(root, cache_dir))
    keys = [_key(path) for path in paths]
    unknown = {
        key: path for key, path in zip(keys, paths, strict=True) if key is not None and key not in kept
    }
    found: dict[str, str] = {}
    for number, (key, digest) in enumerate(
        zip(unknown, map_in_threads(content_digest, unknown.values()), strict=True), start=1
    ):
        found[key] = digest
        if number % _SAVED_AFTER == 0:
            _save(root, cache_dir, found)
    if found:
        _save(root, cache_dir, found)
    known = kept | found
    return [None if key is None else known[key] for key in keys]


def contents(
    root: Path, files: Mapping[str, FilesById], ids: Sequence[str], cache_dir: Path | None = None
) -> list[tuple[str, str, str | None]]:
    """Folder, name and digest of every file of some samples, to distinguish a data set from a changed one.

    The location of the folder and file times do not count, so a copy is the same data set.

    Args:
        root: Folder of the data set.
        files: Per folder below it, the files by id.
        ids: The samples.
        cache_dir: As for ``content_digests``.
    """
    named = [
        (folder, listed[sample_id])
        for sample_id in ids
        for folder, listed in files.items()
        if sample_id in listed
    ]
    digests = content_digests(root, [root / folder / name for folder, name in named], cache_dir)
    return [(folder, name, digest) for (folder, name), digest in zip(named, digests, strict=True)]


def forget_digests(cache_dir: Path | None = None) -> None:
    """Make sure that every file is hashed again."""
    for place in (cache_folder(cache_dir) / "digests").glob("*.json"):
        place.unlink(missing_ok=True)


def _place(root: Path, cache_dir: Path | None) -> Path:
    name = hashlib.sha256(str(root.absolute()).encode(errors="surrogateescape")).hexdigest()[:16]
    return cache_folder(cache_dir) / "digests" / f"{name}.json"


def _key(path: Path) -> str | None:
    try:
        facts = path.stat()
    except OSError:
        return None
    return f"{facts.st_ino}:{facts.st_size}:{facts.st_mtime_ns}:{facts.st_ctime_ns}"


def _load(place: Path) -> dict[str, str]:
    try:
        kept = json.loads(place.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return kept if isinstance(kept, dict) else {}


def _save(root: Path, cache_dir: Path | None, found: dict[str, str]) -> None:
    """Add digests of files that have not changed very recently; another process may have added some, too."""
    before = (time.time() - _SETTLED_SECONDS) * 1e9
    settled = {key: digest for key, digest in found.items() if int(key.rpartition(":")[2]) < before}
    if not settled:
        return
    place = _place(root, cache_dir)
    # Without a writable cache the files are hashed again, which only costs time.
    with contextlib.suppress(OSError, DataError):
        open_cache(cache_dir)
        place.parent.mkdir(exist_ok=True)
        partial = place.with_name(f"{place.stem}-{os.getpid()}.partial")
        partial.write_text(json.dumps(_load(place) | settled), encoding="utf-8")
        partial.replace(place)
