"""Rows of the processes working on a study; their ages are by the clock of the database."""

from __future__ import annotations

from dataclasses import asdict, fields

from sqlalchemy import Engine, delete, func, insert, select
from sqlalchemy.orm import Session

from dtme_search.search.storage.database import repeated
from dtme_search.search.storage.rows import WorkerRow
from dtme_search.search.storage.tables import WORKERS


def save_worker(engine: Engine, study: str, row: WorkerRow) -> None:
    """Record what a process is doing now, replacing what it did before."""

    def transaction() -> None:
        with Session(engine) as session, session.begin():
            session.execute(delete(WORKERS).filter_by(study=study, worker=row.worker))
            session.execute(insert(WORKERS).values(study=study, seen_at=func.now(), **asdict(row)))

    repeated(transaction, also_same_rows=True)


def workers(engine: Engine, study: str) -> list[tuple[WorkerRow, float]]:
    """Processes working on a study, each with the seconds since its last sign of life."""
    columns = [WORKERS.c[each.name] for each in fields(WorkerRow)]
    query = select(*columns, WORKERS.c.seen_at).filter_by(study=study)
    with Session(engine) as session:
        now = session.execute(select(func.now())).scalar_one().replace(tzinfo=None)
        found = [dict(row._mapping) for row in session.execute(query)]
    ages = [(now - values.pop("seen_at")).total_seconds() for values in found]
    return [(WorkerRow(**values), age) for values, age in zip(found, ages, strict=True)]


def forget_worker(engine: Engine, study: str, worker: str) -> None:
    """A process has ended."""

    def transaction() -> None:
        with Session(engine) as session, session.begin():
            session.execute(delete(WORKERS).filter_by(study=study, worker=worker))

    repeated(transaction)
