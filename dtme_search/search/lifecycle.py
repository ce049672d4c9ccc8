"""Trials between two runs of ``optimize``: what counts, what is continued, when to give up."""

from __future__ import annotations

import logging
import warnings

import optuna
from filelock import FileLock, Timeout
from optuna.exceptions import ExperimentalWarning
from optuna.storages import RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, TrialState

from dtme_search.errors import TrainingError
from dtme_search.search.objective import FINISHED, first_number
from dtme_search.search.workspace import Workspace

_log = logging.getLogger(__name__)


def num_finished(study: optuna.Study) -> int:
    """Trials with a result or pruned."""
    return len(study.get_trials(deepcopy=False, states=FINISHED))


def num_left(study: optuna.Study, total: int) -> int:
    """Trials that may still begin here; those running elsewhere are counted as done."""
    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    return total - num_finished(study) - len(running)


def hand_back(study: optuna.Study, number: int) -> None:
    """Queue a trial that did not end again: same parameters and folder, so it goes on from its checkpoint."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        requeue = RetryHeartbeatStaleTrialCallback(max_retry=None, inherit_intermediate_values=True)
    requeue(study, study.get_trials(deepcopy=True)[number])


def recover(study: optuna.Study, workspace: Workspace) -> list[int]:
    """Hand back trials whose process died on this machine; gives their numbers.

    A living process holds the lock of its trial's folder. Trials without a folder here run on another
    machine; Optuna's heartbeat takes care of those.
    """
    numbers = []
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        path = workspace.trial(first_number(trial)) / "running.lock"
        if not path.exists():
            continue
        try:
            with FileLock(path, timeout=0):
                study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
                hand_back(study, trial.number)
                numbers.append(trial.number)
        except Timeout:
            continue
    if numbers:
        _log.info("continuing interrupted trials %s", numbers)
    return numbers


def check_failures(study: optuna.Study, in_a_row: int) -> None:
    """Stop a study whose last trials all failed for the same reason.

    Raises:
        TrainingError: With that reason.
    """
    trials = [trial for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()]
    # A failed trial without an error was interrupted; its continuation stands for it.
    reasons = [_reason(trial) for trial in trials if trial.state in FINISHED or "error" in trial.user_attrs]
    reasons = reasons[-in_a_row:]
    if len(reasons) == in_a_row and None not in reasons and len(set(reasons)) == 1:
        raise TrainingError(
            f"study {study.study_name}: {in_a_row} trials in a row failed with the same cause: {reasons[0]}. "
            "Mend it, then run optimize again."
        )


def _reason(trial: FrozenTrial) -> str | None:
    if trial.state != TrialState.FAIL:
        return None
    return str(trial.user_attrs["error"]).splitlines()[0]
