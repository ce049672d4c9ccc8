"""Trials between two runs of ``optimize``: what counts, what is resumed, when to give up."""

from __future__ import annotations

import math
import re
from contextlib import suppress
from dataclasses import replace
from itertools import islice

import optuna
from filelock import FileLock, Timeout
from optuna.trial import FrozenTrial, TrialState

from dtme_search.errors import TrainingError
from dtme_search.search.storage.database import storage_errors
from dtme_search.search.storage.optuna_internals import id_of_trial, running_trial
from dtme_search.search.storage.records import Records
from dtme_search.search.storage.study_lock import AskingLock
from dtme_search.search.storage.trials import FINISHED, own_trials
from dtme_search.search.study.states import is_dead
from dtme_search.search.trial.heartbeat import INTERVAL_SECONDS, silent_seconds, vouch_for
from dtme_search.search.trial.result import Result
from dtme_search.search.trial.retries import MOST_DEATHS, deaths_of, first_number, hand_back, retry_history
from dtme_search.search.workspace import Workspace


def num_finished(study: optuna.Study) -> int:
    """Trials with a result or pruned."""
    return len(own_trials(study, FINISHED))


def num_left(study: optuna.Study, total: int) -> int:
    """Trials that may still start here; those running elsewhere count as done."""
    return total - len(own_trials(study, (*FINISHED, TrialState.RUNNING)))


def put_right(study: optuna.Study, workspace: Workspace, records: Records) -> dict[int, str]:
    """:func:`recover` under the study's lock: for every command that may write to a study.

    Raises:
        StorageError: If the database is in trouble.
    """
    engine = records.engine
    asking = AskingLock(workspace, engine, study.study_name)
    with storage_errors(engine.url.render_as_string(hide_password=False)), asking:
        return recover(study, workspace, records, is_alone=asking.is_everywhere)


def recover(study: optuna.Study, workspace: Workspace, records: Records, *, is_alone: bool) -> dict[int, str]:
    """Report results that dead processes left on disk, and hand back the trials they were running.

    Call it under the study's :class:`AskingLock`: a living process holds that until its trial has parameters
    and the lock of its folder. A trial that runs elsewhere is dead if its heartbeat has stopped. For a trial
    that is alive on this machine this function beats, so that no wrong clock and no outage makes others treat
    it as dead.

    Args:
        study: The study.
        workspace: Its folders.
        records: Own tables, in the same database.
        is_alone: Whether the lock keeps workers on all machines from asking, not only those on this one:
            a trial without a sign of life then lost its process while it was proposed.

    Returns:
        Number of each trial of a dead process -> what became of it: ``told`` (its result was on disk and has
        been reported), ``continued`` (queued again) or ``given up`` (it died too often and counts as failed).
    """
    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    if not running:
        return {}
    silent = silent_seconds(records.engine, [id_of_trial(trial) for trial in running])
    ends: dict[int, str] = {}
    for trial in running:
        first = first_number(trial)
        if workspace.is_of_trial(first, trial.number):
            try:
                with FileLock(workspace.trial_lock(first), timeout=0):
                    # A process reports how its trial ended before it releases the lock.
                    if not _has_ended(study, trial.number):
                        ends[trial.number] = _end(study, trial, workspace, records)
            except Timeout:
                if silent.get(id_of_trial(trial), math.inf) > INTERVAL_SECONDS:
                    vouch_for(study, id_of_trial(trial))
        elif _is_dead_elsewhere(trial, silent.get(id_of_trial(trial)), is_alone=is_alone):
            ends[trial.number] = _end(study, trial, workspace, records)
    return ends


def _has_ended(study: optuna.Study, number: int) -> bool:
    """Whether a trial has ended since it was last seen running."""
    return study.get_trials(deepcopy=False)[number].state.is_finished()


def _is_dead_elsewhere(trial: FrozenTrial, silent: float | None, *, is_alone: bool) -> bool:
    return is_dead(trial, silent) or (silent is None and is_alone)


def _end(study: optuna.Study, trial: FrozenTrial, workspace: Workspace, records: Records) -> str:
    """End a trial of a dead process; returns how."""
    result = Result.load(workspace.result(first_number(trial)), trial.number)
    if result is not None:
        result.write_down(running_trial(study, id_of_trial(trial)), records)
        study.tell(trial.number, result.values, skip_if_finished=True)
        return "told"
    step = records.last_step(study.study_name, [*retry_history(trial), trial.number])
    deaths, _ = deaths_of(trial, step)
    if deaths < MOST_DEATHS:
        hand_back(study, trial.number, deaths=(deaths, step))
        for row in records.runs(study.study_name, trial.number):
            records.save_run(replace(row, state="interrupted"))
    else:
        where = "before its first evaluation" if step is None else f"after its evaluation at step {step}"
        error = (
            f"TrialDied: its process died {deaths} times {where}, perhaps killed by the system for lack of "
            "memory. Lower train.batch_size, or run fewer workers."
        )
        running_trial(study, id_of_trial(trial)).set_user_attr("error", error)
        for row in records.runs(study.study_name, trial.number):
            records.save_run(replace(row, state="failed", error=error))
    study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
    return "continued" if deaths < MOST_DEATHS else "given up"


def tidy(study: optuna.Study, workspace: Workspace) -> None:
    """Remove files left by processes that died right after the end of a trial."""
    left = workspace.unfinished_trials()
    if not left:
        return
    alive = study.get_trials(deepcopy=False, states=(TrialState.RUNNING, TrialState.WAITING))
    for number in left - {first_number(trial) for trial in alive}:
        with suppress(Timeout), FileLock(workspace.trial_lock(number), timeout=0):
            workspace.forget(number)


def check_failures(study: optuna.Study, in_a_row: int) -> None:
    """Stop a study whose last trials all failed for the same reason.

    Raises:
        TrainingError: With that reason.
    """
    ended = own_trials(study, (*FINISHED, TrialState.FAIL))
    # A failed trial without an error was interrupted; its continuation counts instead.
    latest = (trial for trial in reversed(ended) if trial.state in FINISHED or "error" in trial.user_attrs)
    reasons = [_reason(trial) for trial in islice(latest, in_a_row)]
    if len(reasons) == in_a_row and None not in reasons and len({_cause(str(r)) for r in reasons}) == 1:
        last = str(reasons[0]).rstrip(".")
        raise TrainingError(
            f"study {study.study_name}: {in_a_row} trials in a row failed with the same cause, the last with "
            f"{last}. Fix the cause, then run optimize again."
        )


def _reason(trial: FrozenTrial) -> str | None:
    if trial.state != TrialState.FAIL:
        return None
    return str(trial.user_attrs["error"]).splitlines()[0]


def _cause(reason: str) -> str:
    """What two trials with the same failure have in common; numbers and what follows them differ."""
    return re.split(r"\d", reason, maxsplit=1)[0]
