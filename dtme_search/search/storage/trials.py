"""Which trials are results of a study; those of another study that warmed up its sampler are not."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from dtme_search.search.space.parameter import same

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
"""States that count towards the study's total."""
PROPOSAL_ATTR = "dtme:proposal"
"""Trial attribute: why the sampler proposed its plan, in a sentence."""
KEPT_ATTR = "weights"
"""Trial attribute: on which host and in which file its trained network was written."""
FOREIGN_ATTR = "dtme:foreign"
"""Trial attribute: study, trial and database that a foreign trial was taken over from."""


DELETED_ATTR = "dtme:deleted"
"""Trial attribute: the user deleted the trial; only its number is left."""


def is_foreign(trial: FrozenTrial) -> bool:
    """Whether a trial comes from another study and only informs the sampler."""
    return FOREIGN_ATTR in trial.user_attrs


def own_trials(study: optuna.Study, states: Container[TrialState] | None = None) -> list[FrozenTrial]:
    """Trials of the study itself, by number; everything that counts or shows results uses this.

    Only the sampler sees the others too. Numbers are not positions in this list.

    Args:
        study: The study.
        states: Only trials in one of these states.
    """
    trials = study.get_trials(deepcopy=False, states=states)
    return [trial for trial in trials if not is_foreign(trial) and DELETED_ATTR not in trial.user_attrs]


def enqueue(study: optuna.Study, point: Mapping[str, Any]) -> None:
    """Queue a point unless the study already has it.

    Optuna's own ``skip_if_exists`` would also skip a point that only a foreign trial has.
    """
    for trial in own_trials(study):
        known = trial.system_attrs.get("fixed_params", trial.params)
        if known.keys() == point.keys() and all(same(known[name], point[name]) for name in point):
            return
    study.enqueue_trial(dict(point))
