"""Bring tables up to date: older ones of ours, and Optuna's where MySQL makes them too small."""

from __future__ import annotations

from sqlalchemy import Engine, MetaData, bindparam, inspect, text
from sqlalchemy.schema import CreateColumn

_OPTUNAS = (
    "studies",
    "study_user_attributes",
    "study_system_attributes",
    "trial_user_attributes",
    "trial_system_attributes",
    "trial_params",
)
_NAME = "VARCHAR(512) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL"


def add_what_is_missing(engine: Engine, wanted: MetaData) -> None:
    """Add the columns and indexes of ``wanted`` that existing tables lack; rows have NULL in new columns.

    Nothing else was ever added, and all the columns may be empty.

    Raises:
        ValueError: If a missing column may not be empty, which no release has asked for.
    """
    present = inspect(engine)
    prepare = engine.dialect.identifier_preparer
    for table in wanted.sorted_tables:
        known = {column["name"] for column in present.get_columns(table.name)}
        missing = [column for column in table.columns if column.name not in known]
        for column in missing:
            if not column.nullable:
                raise ValueError(f"{table.name}.{column.name} must be nullable to be added, got NOT NULL")
            definition = CreateColumn(column).compile(dialect=engine.dialect)
            with engine.begin() as connection:
                connection.exec_driver_sql(
                    f"ALTER TABLE {prepare.format_table(table)} ADD COLUMN {definition}"
                )
        for index in table.indexes:
            index.create(engine, checkfirst=True)


def make_room(engine: Engine) -> None:
    """Let Optuna's tables on MySQL hold what they hold elsewhere.

    Optuna asks for plain text, which ends after 64 kB there and everywhere else after a gigabyte: a base
    config or a list of choices may be longer. Names of studies that differ in case only would be one name.
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
