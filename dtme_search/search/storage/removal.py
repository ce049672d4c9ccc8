"""Rows of whole studies and trials, in our tables and in Optuna's: counted, renamed, removed."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection

from sqlalchemy import Connection, Engine, Table, bindparam, delete, func, select, text, update

from dtme_search.search.storage.database import repeated
from dtme_search.search.storage.tables import METADATA
from dtme_search.search.storage.trials import DELETED_ATTR

_TRIALS = "SELECT trial_id FROM trials WHERE number IN :numbers AND study_id = :study_id"


def own_tables() -> list[Table]:
    """Our tables whose rows belong to a study; baselines belong to all studies."""
    return [table for table in METADATA.sorted_tables if "study" in table.c]


def count_rows(engine: Engine, study: str, trials: Collection[int] | None = None) -> dict[str, int]:
    """Our rows of a study, or of some of its trials, by table; tables without any are left out."""
    found = {}
    tables = [table for table in own_tables() if trials is None or _is_of_trials(table)]
    with engine.connect() as connection:
        for table in tables:
            query = select(func.count()).select_from(table).where(table.c.study == study)
            if trials is not None:
                query = query.where(table.c.trial.in_(trials))
            found[table.name] = connection.execute(query).scalar_one()
    return {name: count for name, count in found.items() if count}


def ownerless(engine: Engine) -> dict[str, int]:
    """Studies that Optuna does not know (any more) -> number of our rows about them."""
    found: dict[str, int] = {}
    with engine.connect() as connection:
        known = set(connection.execute(text("SELECT study_name FROM studies")).scalars())
        for table in own_tables():
            query = select(table.c.study, func.count()).group_by(table.c.study)
            for study, count in connection.execute(query):
                if study not in known:
                    found[study] = found.get(study, 0) + count
    return found


def rename_study(engine: Engine, old: str, new: str) -> None:
    """Rename a study in all tables, in one transaction."""

    def work(connection: Connection) -> None:
        names = {"old": old, "new": new}
        connection.execute(text("UPDATE studies SET study_name = :new WHERE study_name = :old"), names)
        for table in own_tables():
            connection.execute(update(table).where(table.c.study == old).values(study=new))

    _in_one(engine, work)


def delete_trials(engine: Engine, study: str, numbers: Collection[int]) -> None:
    """Remove everything about some trials; only their numbers stay, because Optuna counts with them.

    Optuna keeps them as failed and without values, so that no sampler learns from them.
    """

    def work(connection: Connection) -> None:
        for table in own_tables():
            if _is_of_trials(table):
                chosen = (table.c.study == study) & table.c.trial.in_(numbers)
                connection.execute(delete(table).where(chosen))
        found = text("SELECT study_id FROM studies WHERE study_name = :name")
        place = {
            "study_id": connection.execute(found, {"name": study}).scalar_one(),
            "numbers": list(numbers),
        }

        def each(statement: str, **more: object) -> None:
            query = text(statement).bindparams(bindparam("numbers", expanding=True))
            connection.execute(query, {**place, **more})

        for table_name in ("trial_values", "trial_intermediate_values", "trial_heartbeats"):
            each(f"DELETE FROM {table_name} WHERE trial_id IN ({_TRIALS})")
        each("UPDATE trials SET state = 'FAIL' WHERE number IN :numbers AND study_id = :study_id")
        each(
            f"INSERT INTO trial_user_attributes (trial_id, {_quoted(engine, 'key')}, value_json) "
            f"SELECT trial_id, '{DELETED_ATTR}', :yes FROM trials "
            "WHERE number IN :numbers AND study_id = :study_id",
            yes=json.dumps(True),
        )

    _in_one(engine, work)


def _is_of_trials(table: Table) -> bool:
    return "trial" in table.c


def _quoted(engine: Engine, name: str) -> str:
    # A reserved word in MySQL.
    return engine.dialect.identifier_preparer.quote_identifier(name)


def _in_one(engine: Engine, work: Callable[[Connection], None]) -> None:
    def transaction() -> None:
        with engine.begin() as connection:
            work(connection)

    repeated(transaction)
