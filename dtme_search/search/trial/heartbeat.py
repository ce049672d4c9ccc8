"""Signs of life of running trials, by which other machines distinguish a living trial from a dead one.

Optuna's own heartbeat runs only inside ``Study.optimize``, in a thread that ends at the first database error,
and it ends silent trials before anybody can say why. This one uses its table and nothing else of it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable
from datetime import timedelta
from types import TracebackType
from typing import Self

import optuna
import sqlalchemy
from optuna.exceptions import StorageInternalError
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from dtme_search.search.storage.optuna_internals import heartbeats_of, id_of_trial

INTERVAL_SECONDS = 60.0
"""Seconds between two signs of life."""
GRACE_SECONDS = 180.0
"""Another machine treats a trial that has been silent for longer as dead."""
BEGIN_WITHIN = timedelta(minutes=3)
"""A trial without a sign of life after this time lost its process while it was being proposed."""
_JOIN_SECONDS = 5.0

_BEATS = sqlalchemy.table(
    "trial_heartbeats",
    sqlalchemy.column("trial_id", sqlalchemy.Integer),
    sqlalchemy.column("heartbeat", sqlalchemy.DateTime),
)

_log = logging.getLogger(__name__)


class Heartbeat:
    """Beats while the context is open, and notices if the trial was given up.

    Args:
        study: The study.
        trial: Its running trial.
    """

    def __init__(self, study: optuna.Study, trial: optuna.Trial) -> None:
        self._storage = heartbeats_of(study)
        self._trial_id, self._number = id_of_trial(trial), trial.number
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self.is_lost = False
        """Whether somebody treated the trial as dead and ended it; then its result is no longer wanted."""

    def __enter__(self) -> Self:
        # Here and not in the thread: the caller lets others ask as soon as the trial has a sign of life.
        self._storage.record_heartbeat(self._trial_id)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        # With a time limit, because the thread may be waiting for a database that is away.
        self._thread.join(_JOIN_SECONDS)

    def _beat(self) -> None:
        while not self.is_lost and not self._ended.wait(INTERVAL_SECONDS):
            try:
                self._storage.record_heartbeat(self._trial_id)
                self.is_lost = self._storage.get_trial(self._trial_id).state.is_finished()
            except (SQLAlchemyError, StorageInternalError) as error:
                _log.debug("no sign of life of trial %d: %s", self._number, type(error).__name__)
        self._storage.remove_session()


def vouch_for(study: optuna.Study, trial_id: int) -> None:
    """Beat for a trial whose process is known to be alive, whatever its own heartbeat says."""
    heartbeats_of(study).record_heartbeat(trial_id)


def silent_seconds(engine: Engine, trial_ids: Iterable[int]) -> dict[int, float]:
    """Seconds since the last sign of life, by the clock of the database; trials without one are left out."""
    query = sqlalchemy.select(_BEATS).where(_BEATS.c.trial_id.in_(list(trial_ids)))
    with engine.connect() as connection:
        now = connection.execute(sqlalchemy.select(sqlalchemy.func.now())).scalar_one().replace(tzinfo=None)
        return {row.trial_id: (now - row.heartbeat).total_seconds() for row in connection.execute(query)}
