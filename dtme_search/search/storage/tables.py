"""Our SQL tables, beside Optuna's in the same database, made from the row classes.

``study`` and ``trial`` are the name of a study and the number of a trial as Optuna shows them. Times are UTC
without a zone.
"""

from __future__ import annotations

import math
import types
from collections.abc import Mapping, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any, Union, get_args, get_origin, get_type_hints

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    DateTime,
    Dialect,
    Double,
    Index,
    MetaData,
    Select,
    String,
    Table,
    Text,
    select,
)
from sqlalchemy.dialects import mysql
from sqlalchemy.types import TypeDecorator, TypeEngine

from dtme_search.search.storage.rows import (
    BaselineRow,
    ConfirmationRow,
    ConflictRow,
    GainRow,
    GradientRow,
    InferenceRow,
    Long,
    PlanRow,
    RungRow,
    RunRow,
    StoredEvaluation,
    TrunkRow,
    WorkerRow,
)

SCHEMA_VERSION = 5
"""Raised whenever a table or the meaning of a column changes.

2 brought trunks, rungs and confirmations; 3 batch_parts; 4 gains over the unexpanded run of a seed, baselines
of each trial, units;
5 gradients, compiled, workers, costs of predictions and further measures.
"""


class UtcTime(TypeDecorator[datetime]):
    """An aware time, stored as naive UTC because not every database stores time zones."""

    impl = DateTime
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[datetime]:
        # MySQL's plain type stores whole seconds only.
        return mysql.DATETIME(fsp=6) if dialect.name == "mysql" else DateTime()

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        return None if value is None else value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        return None if value is None else value.replace(tzinfo=UTC)


METADATA = MetaData()

_TYPES: dict[Any, TypeEngine[Any] | type[TypeEngine[Any]]] = {
    # A seed may need more than 32 bits. MySQL's plain float has seven digits; its text ends after 64 kB.
    int: BigInteger,
    float: Double,
    bool: Boolean,
    datetime: UtcTime,
    str: String(255),
    Long: Text().with_variant(mysql.LONGTEXT(), "mysql"),
}
_PLACES = {"study": str, "trial": int}


def _table(name: str, row: type, key: Sequence[str]) -> Table:
    """The table of a row: the columns of ``key``, which say where a row belongs, then its fields."""
    hints = get_type_hints(row, include_extras=True)
    kinds = {each: hints.get(each, _PLACES.get(each)) for each in key} | hints
    columns = [_column(each, kind, each in key) for each, kind in kinds.items()]
    # Whatever the database's defaults: allow every character, and distinguish upper and lower case in names.
    return Table(name, METADATA, *columns, mysql_charset="utf8mb4", mysql_collate="utf8mb4_bin")


def _column(name: str, kind: Any, is_key: bool) -> Column[Any]:
    nullable = get_origin(kind) in (Union, types.UnionType) and type(None) in get_args(kind)
    if nullable:
        (kind,) = (each for each in get_args(kind) if each is not type(None))
    # A key in MySQL has room for only a few long names.
    of_key = String(64) if is_key and kind is str and name != "study" else None
    return Column(name, of_key or _TYPES[kind], primary_key=is_key, autoincrement=False, nullable=nullable)


SCHEMA = Table(
    "dtme_schema",
    METADATA,
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("version", BigInteger, nullable=False),
    mysql_charset="utf8mb4",
    mysql_collate="utf8mb4_bin",
)
"""One row: the version of these tables."""
BASELINES = _table("dtme_baselines", BaselineRow, ("fingerprint",))
"""Single-task baselines, shared by all studies of the database."""
INFERENCE = _table("dtme_inference", InferenceRow, ("fingerprint",))
"""What predictions cost, shared by all studies of the database."""
EVALUATIONS = _table("dtme_evaluations", StoredEvaluation, ("study", "trial", "step", "task"))
"""Metric of a task at a step of a trial."""
CONFLICTS = _table("dtme_conflicts", ConflictRow, ("study", "trial", "layer", "task_a", "task_b"))
"""Conflict rates of a pair of tasks at a layer, with standard errors by image."""
GAINS = _table("dtme_gains", GainRow, ("study", "trial", "layer", "operation"))
"""What splitting the tasks could gain at a layer, to first order."""
GRADIENTS = _table(
    "dtme_gradients",
    GradientRow,
    ("study", "trial", "step", "grown", "layer_group", "pair", "task_a", "task_b"),
)
"""How the gradients of two tasks, or of two images, compare at a step of a trial."""
PLANS = _table("dtme_plans", PlanRow, ("study", "trial", "layer", "operation", "group_index"))
"""A group of tasks that shares an operation at a layer."""
RUNS = _table("dtme_runs", RunRow, ("study", "trial"))
"""Facts about a trial as a training run."""
TRUNKS = _table("dtme_trunks", TrunkRow, ("study", "fingerprint", "trial"))
"""A stretch of a trunk that a trial trained: one row each time it was trained."""
RUNGS = _table("dtme_rungs", RungRow, ("study", "rung", "trial"))
"""What a trial was worth at an evaluation: the numbers that pruning compares."""
CONFIRMATIONS = _table("dtme_confirmations", ConfirmationRow, ("study", "trial", "seed"))
"""The configuration of a trial trained again with another seed."""

WORKERS = _table("dtme_workers", WorkerRow, ("study", "worker"))
"""A process working on a study."""
WORKERS.append_column(Column("seen_at", DateTime, nullable=True))  # by the clock of the database

# Every trial looks up the first run with the same work; without an index that would read all runs of the
# study.
MEASURED: tuple[Table, ...] = (EVALUATIONS, CONFLICTS, GAINS, GRADIENTS, PLANS, RUNGS, TRUNKS)
OF_TRIALS: tuple[Table, ...] = (*MEASURED, RUNS, CONFIRMATIONS, WORKERS)

Index("ix_dtme_runs_work", RUNS.c.study, RUNS.c.resolved_fingerprint, RUNS.c.trial)


def at_place(table: Table, place: Mapping[str, Any]) -> list[ColumnElement[bool]]:
    """Conditions that select the rows of a place, such as a study and a trial."""
    return [table.c[name] == value for name, value in place.items()]


def columns_of(table: Table, row: Any) -> dict[str, Any]:
    """Values by column; a number that is not finite is stored as unknown, which some columns refuse."""
    columns = table.c
    values = {}
    for field in fields(row):
        value = getattr(row, field.name)
        if isinstance(value, float) and not math.isfinite(value):
            if not columns[field.name].nullable:
                raise ValueError(f"{table.name}.{field.name} must be finite, got {value}")
            value = None
        values[field.name] = value
    return values


def rows_of(row: type[Any], table: Table) -> Select[Any]:
    """The columns of a row. Not the table itself: its ORM objects take twice the time to create."""
    return select(*(table.c[field.name] for field in fields(row)))
