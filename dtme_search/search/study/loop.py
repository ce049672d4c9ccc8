"""A worker's way through a study: ask for a trial, run it, tell how it ended, until none is left."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import optuna
from optuna.trial import TrialState

from dtme_search.errors import DiskFullError
from dtme_search.search.stopping import StopSwitch
from dtme_search.search.storage.database import DATABASE_ERRORS
from dtme_search.search.study.lifecycle import check_failures, num_finished, num_left
from dtme_search.search.study.loading import LoadedStudy
from dtme_search.search.study.warm_start import WarmStart
from dtme_search.search.trial.objective import Objective
from dtme_search.search.trial.retries import first_number, goes_on_later
from dtme_search.training.checkpoint import disk_full

_LOOK_EVERY = 1.0
"""Seconds between two looks whether a trial is left after all."""
_MOST_TROUBLES = 5
"""Troubles with the database, with no trial told between them, after which it is no use to go on."""

_log = logging.getLogger(__name__)


def run_trials(
    loaded: LoadedStudy,
    objective: Objective,
    total: int,
    switch: StopSwitch,
    warm_start: WarmStart,
    recover: Callable[[], object],
    *,
    publish: Callable[[LoadedStudy], None] | None = None,
    stays: bool = False,
) -> None:
    """Run trials until the study has its total, or until the switch says so.

    Args:
        loaded: The study.
        objective: Runs one trial.
        total: Finished trials the study should have, over all workers and runs.
        switch: Tells to stop.
        warm_start: Knowledge of another study.
        recover: Tells results left on disk, and hands back the trials of dead workers.
        publish: Called with the study after each trial.
        stays: Whether a worker that finds no trial left stays until the study has its total: another one
            may die, or fail.

    Raises:
        TrainingError: If the last trials all failed for the same reason, or the disk is full.
        StorageError: If the database was in trouble again and again.
    """
    study, troubles = loaded.optuna, 0
    while not switch():
        try:
            recover()
            with objective.asking:
                # Under the lock: of two workers that see the last trial left, only one may take it.
                is_left = num_left(study, total) > 0
                if is_left:
                    warm_start(study)
                    _run_one(study, objective)
            if is_left:
                troubles = 0
                if publish is not None:
                    publish(loaded)
                check_failures(study, loaded.config.max_failures_in_a_row)
            elif not stays or num_finished(study) >= total:
                return
            else:
                time.sleep(_LOOK_EVERY)
        except DATABASE_ERRORS as error:
            troubles += 1
            if troubles > _MOST_TROUBLES:
                raise
            _log.warning("the database was in trouble (%s); going on", type(error).__name__)


def _run_one(study: optuna.Study, objective: Objective) -> None:
    """Ask for a trial, run it, tell how it ended; then its checkpoint has served, unless it goes on later."""
    trial = study.ask()
    try:
        state, values, error = _run(trial, objective)
        objective.asking.release()  # held still if the trial ended before it had begun
        with objective.asking:
            # Under the lock: who looks for the dead finds it running or told, never in between. Finished
            # already: it was taken for dead, and is not told twice.
            told = study.tell(trial.number, values, state=state, skip_if_finished=True)
        if told.state == state and (error is None or not goes_on_later(error)):
            objective.workspace.forget(first_number(trial))
    finally:
        objective.let_go()
    if isinstance(error, (KeyboardInterrupt, DiskFullError, *DATABASE_ERRORS)):
        raise error
    if isinstance(error, OSError) and goes_on_later(error):
        raise disk_full(error, objective.workspace.root) from None


def _run(
    trial: optuna.Trial, objective: Objective
) -> tuple[TrialState, tuple[float, ...] | None, BaseException | None]:
    """State and values of a trial that has run, and what ended it."""
    try:
        return TrialState.COMPLETE, objective(trial), None
    except optuna.TrialPruned:
        return TrialState.PRUNED, None, None
    except (Exception, KeyboardInterrupt) as error:
        return TrialState.FAIL, None, error
