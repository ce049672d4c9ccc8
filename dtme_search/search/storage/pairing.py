"""Which unexpanded run a run is compared with: the one with the same seed, whose noise it shares.

Two runs with the same seed see the same images in the same order and are the same network until one of them
grows. So most of the effect of the seed is the same in both, and their difference is free of it [ours].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import bindparam, select, update
from sqlalchemy.orm import Session

from dtme_search.search.storage.tables import RUNS


@dataclass(frozen=True)
class FinishedRun:
    """What pairing needs of a complete run; ``unexpanded`` names the same run without growth."""

    trial: int
    unexpanded: str | None
    delta_m_percent: float
    param_overhead_percent: float


def partners(runs: Sequence[FinishedRun]) -> dict[int, FinishedRun]:
    """The run without growth that each run with one seed is compared with, by trial; itself excluded.

    It differs from the run only in growth: a run with another learning rate or decoder is no partner.

    Example:
        >>> runs = [
        ...     FinishedRun(0, "a", 1.0, 0.0), FinishedRun(1, "b", 2.0, 0.0), FinishedRun(2, "b", 5.0, 0.1)
        ... ]
        >>> {trial: partner.trial for trial, partner in partners(runs).items()}
        {2: 1}
    """
    never = [run for run in sorted(runs, key=lambda run: run.trial) if run.param_overhead_percent == 0]
    found = {}
    for run in runs:
        alike = [other for other in never if other.unexpanded == run.unexpanded and other is not run]
        partner = next(iter(alike), None)
        if partner is not None and partner.trial != run.trial:
            found[run.trial] = partner
    return found


def write_pairs(session: Session, study: str, seed: int | None) -> None:
    """Write the gain of every complete run with a seed over its partner; existing gains are not rewritten.

    Call it whenever a run with the seed completes. Whichever of several workers calls it last sees all runs.
    """
    columns = (
        RUNS.c.trial,
        RUNS.c.unexpanded_fingerprint,
        RUNS.c.delta_m_percent,
        RUNS.c.param_overhead_percent,
        RUNS.c.paired_trial,
        RUNS.c.paired_gain_percent,
    )
    query = select(*columns).where(RUNS.c.study == study, RUNS.c.seed == seed, RUNS.c.state == "complete")
    rows = session.execute(query).all()
    standing = {row[0]: (row[4], row[5]) for row in rows}
    runs = [
        FinishedRun(trial, unexpanded, delta_m, overhead)
        for trial, unexpanded, delta_m, overhead, *_ in rows
        if delta_m is not None and overhead is not None
    ]
    values = {run.trial: run.delta_m_percent for run in runs}
    pairs = {
        trial: (partner.trial, values[trial] - partner.delta_m_percent)
        for trial, partner in partners(runs).items()
    }
    new = [
        {"of": trial, "to": partner, "gain": gain}
        for trial, (partner, gain) in pairs.items()
        if standing[trial] != (partner, gain)
    ]
    if new:
        change = update(RUNS).where(RUNS.c.study == study, RUNS.c.trial == bindparam("of"))
        pair: dict[str, Any] = {"paired_trial": bindparam("to"), "paired_gain_percent": bindparam("gain")}
        session.connection().execute(change.values(pair), new)
