"""Which studies a folder or a database holds."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import optuna

from dtme_search.search.manage.removal import size_of
from dtme_search.search.storage.database import storage_errors
from dtme_search.search.storage.studies import default_storage_url, open_storage
from dtme_search.search.storage.trials import own_trials
from dtme_search.search.study.loading import STUDY_ATTR
from dtme_search.search.study.place import DEFAULT_WORKDIR
from dtme_search.search.study.states import trial_states


@dataclass(frozen=True)
class KnownStudy:
    """A study of a folder or a database.

    Attributes:
        name: Its name.
        finished: Trials with a result or pruned, of ``planned``.
        running: Trials that are running.
        interrupted: Trials that were started and will resume before another one starts.
        size_mb: Size of its folder, and of its database if that is in there.
        last_activity: When a trial last started or ended; ``None`` before the first one.
    """

    name: str
    finished: int
    planned: int | None
    running: int
    interrupted: int
    size_mb: float
    last_activity: datetime | None


def known_studies(*, storage: str | None = None, workdir: Path = DEFAULT_WORKDIR) -> list[KnownStudy]:
    """Studies of a database or, without one, of all folders below ``workdir``, by name."""
    url = storage or os.environ.get("DTME_STORAGE")
    folders = sorted(path.parent.name for path in workdir.glob("*/study.db"))
    urls = [url] if url else [default_storage_url(name, workdir) for name in folders]
    found = [study for each in urls for study in _of_database(each, workdir)]
    return sorted(found, key=lambda study: study.name)


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
                size_mb=size_of(workdir / name) / 2**20,
                last_activity=max(times, default=None),
            )
    opened.engine.dispose()


def _planned(study: optuna.Study) -> int | None:
    stored = study.user_attrs.get(STUDY_ATTR)
    return None if stored is None else int(json.loads(stored)["trials"])
