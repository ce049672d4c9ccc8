"""Optuna's storage, repeating transactions when the database asks for it.

Each of these methods is one transaction. If two wait for each other (a deadlock), the database aborts one;
MySQL also aborts one that has waited too long. Optuna passes that on as an error.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from optuna.storages import RDBStorage

from dtme_search.search.storage.database import repeated


def _repeating(plain: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(plain)
    def write(*given: Any, **named: Any) -> Any:
        return repeated(lambda: plain(*given, **named))

    return write


class RepeatingStorage(RDBStorage):
    """The same storage; a write that lost against another process is repeated."""

    create_new_study = _repeating(RDBStorage.create_new_study)
    delete_study = _repeating(RDBStorage.delete_study)
    set_study_user_attr = _repeating(RDBStorage.set_study_user_attr)
    set_study_system_attr = _repeating(RDBStorage.set_study_system_attr)
    create_new_trial = _repeating(RDBStorage.create_new_trial)
    set_trial_param = _repeating(RDBStorage.set_trial_param)
    set_trial_state_values = _repeating(RDBStorage.set_trial_state_values)
    set_trial_intermediate_value = _repeating(RDBStorage.set_trial_intermediate_value)
    set_trial_user_attr = _repeating(RDBStorage.set_trial_user_attr)
    set_trial_system_attr = _repeating(RDBStorage.set_trial_system_attr)
    record_heartbeat = _repeating(RDBStorage.record_heartbeat)
