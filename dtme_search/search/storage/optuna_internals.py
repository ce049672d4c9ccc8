"""All private names of Optuna that this package relies on.

Optuna has no public way to do these things. ``tests/search/storage/test_optuna_internals.py`` checks for each
that it still works, and pyproject.toml keeps Optuna below the next major version.
"""

from __future__ import annotations

import copy
from typing import Any

import optuna
from optuna.storages import BaseStorage, RDBStorage, _CachedStorage
from optuna.storages._rdb.models import StudySystemAttributeModel
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial

__all__ = [
    "CachedStorage",
    "FrozenStudy",
    "StudyAttribute",
    "backend_of",
    "heartbeats_of",
    "id_of_frozen_study",
    "id_of_study",
    "id_of_trial",
    "running_trial",
    "storage_of",
    "with_storage",
]

CachedStorage = _CachedStorage
"""Keeps finished trials in memory; ``optuna.load_study`` puts it in front of a database."""
StudyAttribute = StudySystemAttributeModel
"""Table of the attributes of studies that Optuna and its dashboard write."""


def id_of_study(study: optuna.Study) -> int:
    """Number of a study in its database, as used in the dashboard's addresses."""
    return study._study_id


def id_of_frozen_study(study: FrozenStudy) -> int:
    """The same for a study as a storage lists it."""
    return study._study_id


def id_of_trial(trial: optuna.Trial | FrozenTrial) -> int:
    """Number of a trial among all trials of its database; ``trial.number`` counts within a study."""
    return trial._trial_id


def running_trial(study: optuna.Study, trial_id: int) -> optuna.Trial:
    """A running trial, for writing from a process other than the one that asked for it."""
    return optuna.Trial(study, trial_id)


def storage_of(study: optuna.Study) -> BaseStorage:
    """The storage of a study."""
    return study._storage


def heartbeats_of(study: optuna.Study) -> Any:
    """The storage of a study with its heartbeats: ``record_heartbeat``, ``remove_session``."""
    return study._storage


def backend_of(study: optuna.Study) -> RDBStorage:
    """The database behind the cache."""
    storage = study._storage
    assert isinstance(storage, _CachedStorage)
    return storage._backend


def with_storage(study: optuna.Study, storage: Any) -> optuna.Study:
    """The same study on another storage."""
    copied = copy.copy(study)
    copied._storage = storage
    return copied
