"""A worker's way through a study: ask for a trial, run it, close it, until none is left."""

from __future__ import annotations

import time
from collections.abc import Callable

import optuna

from dtme_search.search.lifecycle import check_failures, num_finished, num_left
from dtme_search.search.loading import LoadedStudy
from dtme_search.search.objective import Objective
from dtme_search.search.retries import first_number, hand_back
from dtme_search.search.stopping import StopSwitch
from dtme_search.search.warm_start import WarmStart

_LOOK_EVERY = 1.0
"""Seconds between two looks whether a trial is left after all."""


def run_trials(
    loaded: LoadedStudy,
    objective: Objective,
    total: int,
    switch: StopSwitch,
    warm_start: WarmStart,
    *,
    publish: Callable[[LoadedStudy], None] | None = None,
    recover: Callable[[], object] | None = None,
) -> None:
    """Run trials until the study has its total, or until the switch says so.

    Args:
        loaded: The study.
        objective: Runs one trial.
        total: Finished trials the study should have, over all workers and runs.
        switch: Tells to stop.
        warm_start: Knowledge of another study.
        publish: Called with the study after each trial.
        recover: Hands back the trials of dead workers. With it, a worker that finds none left stays until
            the study has its total: another one may die, or fail.

    Raises:
        TrainingError: If the last trials all failed for the same reason.
    """
    study = loaded.optuna
    try:
        while not switch():
            with objective.asking:
                # Under the lock: of two workers that see the last trial left, only one may take it.
                is_left = num_left(study, total) > 0
                if is_left:
                    warm_start(study)
                    # One trial a call: Optuna's own n_trials counts per call, not per study.
                    study.optimize(objective, n_trials=1, catch=(Exception,))
            if is_left:
                _close(study, objective, stopped=switch())
                if publish is not None:
                    publish(loaded)
                check_failures(study, loaded.config.max_failures_in_a_row)
            elif recover is None or num_finished(study) >= total:
                return
            else:
                time.sleep(_LOOK_EVERY)
                recover()
    except KeyboardInterrupt:
        _close(study, objective, stopped=True)
        raise
    finally:
        objective.let_go()


def _close(study: optuna.Study, objective: Objective, *, stopped: bool) -> None:
    """Let go of the trial in hand: queued again if it was stopped, else its checkpoint has served."""
    if objective.last_number is None:
        return
    trial = study.get_trials(deepcopy=False)[objective.last_number]
    if stopped and trial.state == optuna.trial.TrialState.FAIL and "error" not in trial.user_attrs:
        hand_back(study, trial.number)
    elif trial.state.is_finished():
        (objective.workspace.trial(first_number(trial)) / "checkpoint.pt").unlink(missing_ok=True)
    objective.let_go()
