"""Upgrade tables: older ones of ours, and Optuna's where MySQL makes them too small."""

from __future__ import annotations

import time

from sqlalchemy import Engine, MetaData, bindparam, insert, inspect, select, text, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.schema import CreateColumn

from dtme_search.errors import StorageError
from dtme_search.search.storage.database import mask_url
from dtme_search.search.storage.tables import METADATA, SCHEMA, SCHEMA_VERSION

_TRIES = 6

_OPTUNAS = (
    "studies",
    "study_user_attributes",
    "study_system_attributes",
    "trial_user_attributes",
    "trial_system_attributes",
    "trial_params",
)
_NAME = "VARCHAR(512) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL"


def create_tables(engine: Engine) -> None:
    """Create our missing tables and whatever older ones lack; several processes may do so at once.

    Raises:
        StorageError: If the existing tables are of a later version.
    """
    _check_version(engine)
    for attempt in range(1, _TRIES + 1):
        try:
            METADATA.create_all(engine)
            add_what_is_missing(engine, METADATA)
            with engine.begin() as connection:
                if connection.scalar(select(SCHEMA.c.version)) is None:
                    connection.execute(insert(SCHEMA).values(id=1, version=SCHEMA_VERSION))
                else:
                    connection.execute(update(SCHEMA).values(version=SCHEMA_VERSION))
            break
        except SQLAlchemyError:
            # Another process created the same table in between; the next round finds it.
            if attempt == _TRIES:
                raise
            time.sleep(0.1 * attempt)
    _check_version(engine)


def is_current(engine: Engine) -> bool:
    """Whether all our tables and columns exist; finding out writes nothing.

    Raises:
        StorageError: If the existing tables are of a later version.
    """
    _check_version(engine)
    found = inspect(engine)
    if not set(METADATA.tables) <= set(found.get_table_names()):
        return False
    with engine.connect() as connection:
        if connection.scalar(select(SCHEMA.c.version)) != SCHEMA_VERSION:
            return False
    return all(
        {column.name for column in table.columns} <= {each["name"] for each in found.get_columns(name)}
        for name, table in METADATA.tables.items()
    )


def _check_version(engine: Engine) -> None:
    if not inspect(engine).has_table(SCHEMA.name):
        return
    with engine.connect() as connection:
        version = connection.scalar(select(SCHEMA.c.version)) or SCHEMA_VERSION
    if version > SCHEMA_VERSION:
        url = engine.url.render_as_string(hide_password=False)
        raise StorageError(
            f"{mask_url(url)}: its dtme tables must be of version {SCHEMA_VERSION} or older, "
            f"got {version}. Update dtme-search, or give another database with --storage."
        )


def add_what_is_missing(engine: Engine, wanted: MetaData) -> None:
    """Add the columns and indexes of ``wanted`` that existing tables lack; existing rows get NULL there.

    Nothing else was ever added, and all such columns allow NULL.

    Raises:
        ValueError: If a missing column does not allow NULL, which no release has required.
    """
    present = inspect(engine)
    prepare = engine.dialect.identifier_preparer
    for table in wanted.sorted_tables:
        known = {column["name"] for column in present.get_columns(table.name)}
        missing = [column for column in table.columns if column.name not in known]
        for column in missing:
            if not column.nullable:
                raise StorageError(
                    f"{mask_url(engine.url.render_as_string())}: table {table.name} must have the column "
                    f"{column.name}, got none. It was changed by hand: take it from a backup."
                )
            definition = CreateColumn(column).compile(dialect=engine.dialect)
            with engine.begin() as connection:
                connection.exec_driver_sql(
                    f"ALTER TABLE {prepare.format_table(table)} ADD COLUMN {definition}"
                )
        for index in table.indexes:
            index.create(engine, checkfirst=True)


def make_room(engine: Engine) -> None:
    """Let Optuna's tables on MySQL hold what they hold elsewhere.

    Optuna's text columns end after 64 kB on MySQL and after a gigabyte everywhere else; a base config or a
    list of choices may be longer than 64 kB. MySQL would also treat names of studies that differ only in case
    as equal.
    """
    if engine.dialect.name != "mysql":
        return
    look = text(
        "SELECT table_name, column_name, data_type, collation_name FROM information_schema.columns "
        "WHERE table_schema = DATABASE() AND table_name IN :tables"
    ).bindparams(bindparam("tables", _OPTUNAS, expanding=True))
    with engine.begin() as connection:
        for table, column, kind, collation in connection.execute(look).all():
            if kind == "text":
                connection.exec_driver_sql(f"ALTER TABLE {table} MODIFY {column} LONGTEXT")
            elif column == "study_name" and collation != "utf8mb4_bin":
                connection.exec_driver_sql(f"ALTER TABLE {table} MODIFY {column} {_NAME}")
