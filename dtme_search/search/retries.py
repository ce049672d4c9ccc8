"""Which trials a trial continues: Optuna keeps their numbers when a trial is queued again."""

from __future__ import annotations

import warnings

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.storages import RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial


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
