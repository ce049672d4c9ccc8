"""Queue an interrupted trial again, and tell which trials a trial continues."""

from __future__ import annotations

import warnings

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.storages import RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial

_OF_RESULT = ("constraints", "artifacts:")
"""Beginnings of Optuna's attributes that a trial writes with its result; the continuation writes its own."""


def retry_history(trial: optuna.Trial | FrozenTrial) -> list[int]:
    """Numbers of the interrupted trials that this one continues, oldest first; empty for a new trial."""
    if isinstance(trial, optuna.Trial):
        trial = trial.study.get_trials(deepcopy=False)[trial.number]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return list(RetryHeartbeatStaleTrialCallback.retry_history(trial))


def first_number(trial: optuna.Trial | FrozenTrial) -> int:
    """Number of the trial that began the work, which is the trial itself when it continues none."""
    return next(iter(retry_history(trial)), trial.number)


def hand_back(study: optuna.Study, number: int) -> None:
    """Queue a trial that did not end again, once: same parameters and folder, so it uses its checkpoint."""
    trials = study.get_trials(deepcopy=True)
    if any(number in retry_history(trial) for trial in trials):
        return
    trial = trials[number]
    for name in [name for name in trial.system_attrs if name.startswith(_OF_RESULT)]:
        del trial.system_attrs[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        requeue = RetryHeartbeatStaleTrialCallback(max_retry=None, inherit_intermediate_values=True)
    requeue(study, trial)
