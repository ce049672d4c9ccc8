"""Leftovers: rows of studies that no longer exist, files that no trial needs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import optuna

from dtme_search.errors import StorageError
from dtme_search.search.manage.removal import Removal, leftovers, remove
from dtme_search.search.storage.database import storage_errors
from dtme_search.search.storage.records import Records, records_for
from dtme_search.search.storage.removal import count_rows, ownerless
from dtme_search.search.storage.studies import default_storage_url, open_storage
from dtme_search.search.study.loading import load_study
from dtme_search.search.study.place import DEFAULT_WORKDIR
from dtme_search.search.study.presence import at_work
from dtme_search.search.workspace import Workspace


def find_leftovers(*, storage: str | None = None, workdir: Path = DEFAULT_WORKDIR) -> list[Removal]:
    """Leftovers in a database or, without one, in all folders below ``workdir``.

    Studies in use are left alone. A database that cannot be read is skipped; ``examine`` reports it.
    """
    url = storage or os.environ.get("DTME_STORAGE")
    folders = sorted(path.parent.name for path in workdir.glob("*/study.db"))
    places = [(url, False)] if url else [(default_storage_url(name, workdir), True) for name in folders]
    found: list[Removal] = []
    for each, is_own in places:
        with suppress(StorageError):
            found += _of_database(each, workdir, is_own=is_own)
    return found


def _of_database(url: str, workdir: Path, *, is_own: bool) -> Iterator[Removal]:
    opened = open_storage(url, create=False)
    records = records_for(opened)
    if not records.is_current():
        return  # made by an older release; the next look at a study upgrades it
    with storage_errors(url):
        gone, names = ownerless(opened.engine), optuna.get_all_study_names(opened)
        for study in gone:
            yield _rows_of(records, study)
    for name in names:
        root = workdir / name
        if root.is_dir() and (is_own or not (root / "study.db").exists()):
            yield from _files_of(name, url, workdir)


def _rows_of(records: Records, study: str) -> Removal:
    rows = count_rows(records.engine, study)
    what = f"leftovers of study {study}, which no longer exists"
    return Removal(what, rows, (), lambda: records.delete_study(study))


def _files_of(name: str, url: str, workdir: Path) -> Iterator[Removal]:
    with suppress(StorageError):  # not ours
        loaded = load_study(name, storage=url, workdir=workdir)
        files = leftovers(loaded, Workspace(workdir / name))
        if files and not at_work(loaded.records.engine, name):
            yield Removal(f"files of study {name} that no trial needs", {}, files, lambda: remove(files))
