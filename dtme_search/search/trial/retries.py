"""Queue an unfinished trial again, and find out which trials a trial continues."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable

import optuna
from optuna.exceptions import ExperimentalWarning, UpdateFinishedTrialError
from optuna.storages import RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, TrialState

from dtme_search.errors import DiskFullError
from dtme_search.search.storage.database import DATABASE_ERRORS
from dtme_search.search.storage.optuna_internals import id_of_trial, running_trial, storage_of
from dtme_search.training import TrainingInterrupted
from dtme_search.training.disk import DISK_TROUBLE

MOST_DEATHS = 5
"""How often a trial may kill its process without making progress before it counts as failed [ours]."""
DEATHS_ATTR = "dtme:deaths"
"""Trial attribute: deaths of the trials that it continues, and the step of their last evaluation then."""

_OF_RESULT = ("constraints", "artifacts:")
"""Prefixes of Optuna's attributes that a trial writes with its result; the continuation writes its own."""


def retry_history(trial: optuna.Trial | FrozenTrial) -> list[int]:
    """Numbers of the interrupted trials that this one continues, oldest first; empty for a new trial."""
    # Looks at a running trial alone, because reading all trials takes longer the more there are.
    attributes = (
        trial.storage.get_trial_system_attrs(id_of_trial(trial))
        if isinstance(trial, optuna.Trial)
        else trial.system_attrs
    )
    return list(attributes.get("retry_history", []))


def first_number(trial: optuna.Trial | FrozenTrial) -> int:
    """Number of the trial that started the work: the trial itself if it continues none."""
    return next(iter(retry_history(trial)), trial.number)


def continued(trials: Iterable[FrozenTrial]) -> set[int]:
    """Numbers of the attempts that a later trial continues; together they are one trial."""
    return {number for trial in trials for number in retry_history(trial)}


def ask(study: optuna.Study) -> optuna.Trial:
    """Ask Optuna for a trial; a started one comes before enqueued points, and those before new ones.

    Call it under the study's lock.
    """
    for trial in study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
        number, storage = id_of_trial(trial), storage_of(study)
        if retry_history(trial) and storage.set_trial_state_values(number, state=TrialState.RUNNING):
            return running_trial(study, number)
    return study.ask()


def hand_back(study: optuna.Study, number: int, *, deaths: tuple[int, int | None] | None = None) -> None:
    """Queue an unfinished trial again, once: same parameters and folder, so that it uses its checkpoint.

    Args:
        study: The study.
        number: The trial.
        deaths: What the continuation should know of deaths, as returned by :func:`deaths_of`; by default what
            the trial itself knew.
    """
    trials = study.get_trials(deepcopy=False)
    if any(number in retry_history(later) for later in trials[number + 1 :]):
        return
    trial = copy.deepcopy(trials[number])
    for name in [name for name in trial.system_attrs if name.startswith(_OF_RESULT)]:
        del trial.system_attrs[name]
    if deaths is not None:
        trial.user_attrs[DEATHS_ATTR] = deaths
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        requeue = RetryHeartbeatStaleTrialCallback(max_retry=None, inherit_intermediate_values=True)
    requeue(study, trial)


def goes_on_later(error: BaseException) -> bool:
    """Whether what ended a trial says nothing about the trial, so that it has not failed.

    It was asked to stop, the database or the disk was in trouble, or somebody treated it as dead.
    """
    if isinstance(error, OSError):
        return error.errno in DISK_TROUBLE
    of_trial = (TrainingInterrupted, KeyboardInterrupt, UpdateFinishedTrialError)
    return isinstance(error, (*of_trial, DiskFullError, *DATABASE_ERRORS))


def deaths_of(trial: FrozenTrial, step: int | None) -> tuple[int, int | None]:
    """How often a trial that just died has died at this point, and the point.

    Args:
        trial: The trial.
        step: Step of its last evaluation. A trial that made progress since its last death starts counting
            again.
    """
    known, place = trial.user_attrs.get(DEATHS_ATTR, (0, None))
    return (known + 1 if place == step else 1), step
