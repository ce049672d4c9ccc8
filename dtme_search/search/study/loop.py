"""A worker's loop over a study: ask for a trial, run it, report how it ended, until none is left."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

from optuna.trial import TrialState

from dtme_search.errors import DiskFullError
from dtme_search.search.stopping import StopSwitch
from dtme_search.search.storage.database import DATABASE_ERRORS
from dtme_search.search.study.lifecycle import check_failures, num_finished, num_left
from dtme_search.search.study.loading import LoadedStudy
from dtme_search.search.study.preparation import Prepared
from dtme_search.search.study.weights import trim_weights
from dtme_search.search.trial.claim import next_trial
from dtme_search.search.trial.listener import Listener
from dtme_search.search.trial.objective import Objective
from dtme_search.search.trial.retries import goes_on_later
from dtme_search.training.disk import disk_full

_LOOK_EVERY = 1.0
"""Seconds between two checks whether a trial is left after all."""
_MOST_ASIDE = 3
"""Trials that a worker may hold while others train their trunk or equal work [ours]."""
_MOST_TROUBLES = 5
"""Database failures in a row, with no trial reported in between, after which a worker gives up."""

_log = logging.getLogger(__name__)


def run_trials(
    prepared: Prepared,
    objective: Objective,
    listener: Listener,
    switch: StopSwitch,
    *,
    publish: Callable[[LoadedStudy], None] | None = None,
    stays: bool = False,
) -> None:
    """Run trials until the study has its total or the switch stops it.

    Args:
        prepared: The study.
        objective: Runs one trial.
        listener: Receives the trials of dead workers, and knowledge from another study.
        switch: Says when to stop.
        publish: Called with the study after each trial.
        stays: Whether a worker that finds no trial left waits until the study has its total, because another
            worker may die, or its trial may fail.

    Raises:
        TrainingError: If the last trials all failed for the same reason, or the disk is full.
        StorageError: If the database failed again and again.
    """
    study, workspace, total = prepared.optuna, prepared.workspace, prepared.config.trials
    warm_start, asking, troubles = prepared.warm_start(listener), prepared.asking(), 0

    def is_left() -> bool:
        if num_left(study, total) <= 0:
            return False
        warm_start(study)
        return True

    def run_one(inside: int = 0) -> bool:
        """Run a trial, if one is left; ``inside`` counts the trials on hold that wait for other workers."""
        with next_trial(study, asking, workspace, is_left, switch) as claimed:
            if claimed is None:
                return False
            ending = objective.run(
                claimed, lambda: inside < _MOST_ASIDE and not switch() and run_one(inside + 1)
            )
            claimed.tell(ending)
        _raise_trouble(ending.error, workspace.root)
        if ending.state == TrialState.COMPLETE:
            with asking:
                trim_weights(prepared.loaded(), workspace)
        return True

    while not switch():
        try:
            prepared.recover(listener)
            if run_one():
                troubles = 0
                if publish is not None:
                    publish(prepared.loaded())
                check_failures(study, prepared.config.max_failures_in_a_row)
            elif not stays or num_finished(study) >= total:
                return
            else:
                time.sleep(_LOOK_EVERY)
        except DATABASE_ERRORS as error:
            troubles += 1
            if troubles > _MOST_TROUBLES:
                raise
            _log.warning("database trouble (%s); continuing", type(error).__name__)


def _raise_trouble(error: BaseException | None, root: Path) -> None:
    """Re-raise what ended a trial if it ends, or may end, the worker too."""
    if isinstance(error, (KeyboardInterrupt, DiskFullError, *DATABASE_ERRORS)):
        raise error
    if isinstance(error, OSError) and goes_on_later(error):
        raise disk_full(error, root) from None
