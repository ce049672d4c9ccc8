"""What studies there are, and how one is deleted with all that belongs to it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import optuna

from dtme_search.errors import StorageError
from dtme_search.search.storage.database import storage_errors
from dtme_search.search.storage.optuna_internals import storage_of
from dtme_search.search.storage.studies import default_storage_url, open_storage
from dtme_search.search.storage.trials import own_trials
from dtme_search.search.study.loading import STUDY_ATTR, LoadedStudy, load_study, storage_url
from dtme_search.search.study.place import DEFAULT_WORKDIR
from dtme_search.search.study.states import trial_states
from dtme_search.search.trial.heartbeat import GRACE_SECONDS
from dtme_search.search.workspace import Workspace


@dataclass(frozen=True)
class KnownStudy:
    """A study of a folder or a database.

    Attributes:
        name: Its name.
        finished: Trials with a result or pruned, of ``planned``.
        running: Trials that run.
        interrupted: Trials that were begun and go on before another one begins.
        size_mb: What its folder takes, with its database where that lies there.
        last_activity: When a trial last began or ended; ``None`` before the first one.
    """

    name: str
    finished: int
    planned: int | None
    running: int
    interrupted: int
    size_mb: float
    last_activity: datetime | None


def known_studies(*, storage: str | None = None, workdir: Path = DEFAULT_WORKDIR) -> list[KnownStudy]:
    """Studies of a database, or without one of all folders below ``workdir``, by name."""
    url = storage or os.environ.get("DTME_STORAGE")
    folders = sorted(path.parent.name for path in workdir.glob("*/study.db"))
    urls = [url] if url else [default_storage_url(name, workdir) for name in folders]
    found = [study for each in urls for study in _of_database(each, workdir)]
    return sorted(found, key=lambda study: study.name)


def delete_study(study: str, *, storage: str | None = None, workdir: Path = DEFAULT_WORKDIR) -> None:
    """Delete a study: its trials, its rows in all tables, its files. Baselines stay in a shared database.

    Raises:
        StorageError: If there is no such study, or one of its trials runs.
    """
    loaded = load_study(study, storage=storage, workdir=workdir)
    running = [number for number, state in _states_of(loaded).items() if state == "running"]
    if running:
        numbers = ", ".join(map(str, running))
        raise StorageError(
            f"study {loaded.name}: none of its trials must run, got {numbers}. Stop its workers first; what "
            f"died elsewhere counts as running for {GRACE_SECONDS / 60:.0f} minutes."
        )
    url = storage_url(loaded.name, storage, workdir)
    with storage_errors(url):
        loaded.records.delete_study(loaded.name)
        optuna.delete_study(study_name=loaded.name, storage=storage_of(loaded.optuna))
    loaded.records.engine.dispose()
    workspace = Workspace.of_study(workdir, loaded.name)
    if url == default_storage_url(loaded.name, workdir):
        shutil.rmtree(workspace.root)
    else:
        workspace.forget_all()


def _of_database(url: str, workdir: Path) -> Iterator[KnownStudy]:
    opened = open_storage(url, create=False)
    with storage_errors(url):
        for name in optuna.get_all_study_names(opened):
            study = optuna.load_study(study_name=name, storage=opened)
            trials = own_trials(study)
            times = [
                when for trial in trials for when in (trial.datetime_start, trial.datetime_complete) if when
            ]
            states = list(trial_states(study, opened.engine).values())
            yield KnownStudy(
                name=name,
                finished=states.count("complete") + states.count("pruned"),
                planned=_planned(study),
                running=states.count("running"),
                interrupted=states.count("interrupted"),
                size_mb=_size(workdir / name) / 2**20,
                last_activity=max(times, default=None),
            )
    opened.engine.dispose()


def _states_of(study: LoadedStudy) -> dict[int, str]:
    return trial_states(study.optuna, study.records.engine)


def _planned(study: optuna.Study) -> int | None:
    stored = study.user_attrs.get(STUDY_ATTR)
    return None if stored is None else int(json.loads(stored)["trials"])


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
