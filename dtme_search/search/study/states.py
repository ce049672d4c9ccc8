"""The state of a trial, in the words that every view uses, without contacting its process."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from datetime import datetime

import optuna
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Engine

from dtme_search.search.storage.optuna_internals import id_of_trial
from dtme_search.search.storage.trials import own_trials
from dtme_search.search.trial.heartbeat import BEGIN_WITHIN, GRACE_SECONDS, silent_seconds
from dtme_search.search.trial.process import PROCESS_ATTR, Process
from dtme_search.search.trial.retries import continued, retry_history

STATES = ("complete", "pruned", "failed", "running", "interrupted", "waiting")
"""States of a trial, in the order in which they are counted.

``interrupted`` was started and resumes before another one starts; ``waiting`` was not started.
"""


def trial_states(study: optuna.Study, engine: Engine) -> dict[int, str]:
    """State of each trial of a study by number: one of ``STATES``.

    A trial with several attempts appears once, as the last of them. One whose process has died is interrupted
    as soon as that can be known: at once on its machine, after three minutes without a sign of life
    elsewhere.
    """
    trials = own_trials(study)
    earlier, dead = continued(trials), dead_trials(study, engine)
    return {trial.number: state_of(trial, dead) for trial in trials if trial.number not in earlier}


def state_of(trial: FrozenTrial, dead: Collection[int]) -> str:
    """State of a trial, given the numbers of those whose process has died."""
    if trial.state == TrialState.FAIL:
        return "failed" if "error" in trial.user_attrs else "interrupted"
    if trial.state == TrialState.WAITING:
        return "interrupted" if retry_history(trial) else "waiting"
    if trial.state == TrialState.RUNNING:
        return "interrupted" if trial.number in dead else "running"
    return trial.state.name.lower()


def dead_trials(study: optuna.Study, engine: Engine) -> set[int]:
    """Numbers of the trials that Optuna believes to be running but whose process has died."""
    running = own_trials(study, (TrialState.RUNNING,))
    return dead_among(running, engine) if running else set()


def dead_among(running: Sequence[FrozenTrial], engine: Engine) -> set[int]:
    """Numbers of those running trials of a study whose process has died."""
    silent = silent_seconds(engine, [id_of_trial(trial) for trial in running])
    return {trial.number for trial in running if is_dead(trial, silent.get(id_of_trial(trial)))}


def is_dead(trial: FrozenTrial, silent: float | None) -> bool:
    """Whether the process of a running trial has died.

    Args:
        trial: The trial.
        silent: Seconds since its last sign of life; ``None`` if it never gave one.
    """
    process = Process.read(trial.user_attrs.get(PROCESS_ATTR))
    if process is not None and process.is_gone:
        return True
    if silent is not None:
        return silent > GRACE_SECONDS
    # Its process died between asking for it and its first sign of life.
    return trial.datetime_start is not None and datetime.now() - trial.datetime_start > BEGIN_WITHIN


def counts_in_words(states: Collection[str], planned: int | None) -> str:
    """How many trials are in each state, and how many are planned.

    Example:
        >>> counts_in_words(["waiting", "complete", "complete"], 3)
        '2 complete, 1 waiting; 3 planned'
    """
    counts = Counter(states)
    listed = ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])
    return f"{listed or 'no trial yet'}; {'?' if planned is None else planned} planned"
