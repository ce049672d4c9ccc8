"""Bring tables of an older release up to date: only columns were ever added, and all of them may be empty."""

from __future__ import annotations

from sqlalchemy import Engine, MetaData, inspect
from sqlalchemy.schema import CreateColumn


def add_missing_columns(engine: Engine, wanted: MetaData) -> None:
    """Add the columns of ``wanted`` that existing tables lack; rows there have NULL in them.

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
