"""Trials between two runs of ``optimize``: what counts, what is continued, when to give up."""

from __future__ import annotations

import logging
import re
import warnings
from datetime import datetime, timedelta

import optuna
from filelock import FileLock, Timeout
from optuna.exceptions import ExperimentalWarning
from optuna.trial import FrozenTrial, TrialState

from dtme_search.errors import TrainingError
from dtme_search.search.objective import FINISHED
from dtme_search.search.retries import first_number, hand_back
from dtme_search.search.trials import own_trials
from dtme_search.search.workspace import Workspace

BEGIN_WITHIN = timedelta(minutes=3)
"""A trial that has no parameters after this time lost its process while it was proposed."""

_log = logging.getLogger(__name__)


def num_finished(study: optuna.Study) -> int:
    """Trials with a result or pruned."""
    return len(own_trials(study, FINISHED))


def num_left(study: optuna.Study, total: int) -> int:
    """Trials that may still begin here; those running elsewhere are counted as done."""
    running = own_trials(study, (TrialState.RUNNING,))
    return total - num_finished(study) - len(running)


def recover(study: optuna.Study, workspace: Workspace, *, is_local: bool) -> list[int]:
    """Hand back trials whose process died on this machine; gives their numbers.

    To be called under the study's :class:`AskingLock`: a living process holds that until its trial has
    parameters and the lock of its folder. Trials with parameters and without a folder here run elsewhere;
    Optuna hands those back whose heartbeat stopped, and so does this function with those that died before
    their first parameter.

    Args:
        study: The study.
        workspace: Its folders.
        is_local: Whether no other machine works on this database.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        # Optuna looks for them when a trial begins, which a study that only waits for them never does.
        optuna.storages.fail_stale_trials(study)
    numbers = []
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        path = workspace.trial_lock(first_number(trial))
        if not path.exists():
            if trial.params or not (is_local or _is_old(trial)):
                continue
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            with FileLock(path, timeout=0):
                hand_back(study, trial.number)
                study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
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
    trials = [trial for trial in own_trials(study) if trial.state.is_finished()]
    # A failed trial without an error was interrupted; its continuation stands for it.
    reasons = [_reason(trial) for trial in trials if trial.state in FINISHED or "error" in trial.user_attrs]
    reasons = reasons[-in_a_row:]
    if len(reasons) == in_a_row and None not in reasons and len({_cause(str(r)) for r in reasons}) == 1:
        last = str(reasons[-1]).rstrip(".")
        raise TrainingError(
            f"study {study.study_name}: {in_a_row} trials in a row failed with the same cause, the last with "
            f"{last}. Mend it, then run optimize again."
        )


def _reason(trial: FrozenTrial) -> str | None:
    if trial.state != TrialState.FAIL:
        return None
    return str(trial.user_attrs["error"]).splitlines()[0]


def _cause(reason: str) -> str:
    """What two trials that fail alike have in common: numbers and what follows them differ."""
    return re.split(r"\d", reason, maxsplit=1)[0]


def _is_old(trial: FrozenTrial) -> bool:
    return trial.datetime_start is not None and datetime.now() - trial.datetime_start > BEGIN_WITHIN
