"""The own SQL tables, beside Optuna's in the same database.

Names and units of the columns are those of the rows in ``records``; times are UTC without a zone. ``study``
and ``trial`` are the name of a study and the number of a trial as Optuna shows them.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from sqlalchemy import BigInteger, DateTime, Dialect, Double, Index, String, Text
from sqlalchemy.dialects import mysql
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator, TypeEngine

SCHEMA_VERSION = 4
"""Raised whenever a table or the meaning of a column changes.

2 brought trunks, rungs and confirmations; 3 batch_parts; 4 gains over the unexpanded run of a seed, and the
baselines of each trial.
"""


class UtcTime(TypeDecorator[datetime]):
    """An aware time, stored as naive UTC because not every database keeps zones."""

    impl = DateTime
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[datetime]:
        # MySQL's plain type has whole seconds.
        return mysql.DATETIME(fsp=6) if dialect.name == "mysql" else DateTime()

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        return None if value is None else value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        return None if value is None else value.replace(tzinfo=UTC)


# MySQL needs a length for every key.
Study = Annotated[str, mapped_column(String(255), primary_key=True)]
Key = Annotated[str, mapped_column(String(64), primary_key=True)]
Number = Annotated[int, mapped_column(primary_key=True, autoincrement=False)]
Name = Annotated[str, mapped_column(String(255))]
# Its plain text ends after 64 kB.
Long = Annotated[str, mapped_column(Text().with_variant(mysql.LONGTEXT(), "mysql"))]


class Base(DeclarativeBase):
    """Base of the tables."""

    # MySQL's plain float has seven digits; a seed may need more than 32 bits.
    type_annotation_map = {float: Double, int: BigInteger, datetime: UtcTime}  # noqa: RUF012
    # Whatever the database was made for: every character, and names that differ in case differ.
    __table_args__ = {"mysql_charset": "utf8mb4", "mysql_collate": "utf8mb4_bin"}  # noqa: RUF012


class SchemaTable(Base):
    """One row: the version of these tables."""

    __tablename__ = "dtme_schema"

    id: Mapped[Number]
    version: Mapped[int]


class BaselineTable(Base):
    """Single-task baselines, shared by all studies of the database."""

    __tablename__ = "dtme_baselines"

    fingerprint: Mapped[Key]
    task: Mapped[Name]
    metric: Mapped[Name]
    unit: Mapped[Name]
    value: Mapped[float]
    prior_value: Mapped[float]
    higher_is_better: Mapped[bool]
    dataset: Mapped[Name]
    data_fingerprint: Mapped[Name]
    backbone: Mapped[Name]
    split: Mapped[Name]
    seed: Mapped[int]
    num_steps: Mapped[int]
    num_images: Mapped[int]
    seconds: Mapped[float]
    seconds_per_step: Mapped[float]
    config: Mapped[Long]
    code_version: Mapped[Name]
    created_at: Mapped[datetime]


class EvaluationTable(Base):
    """Metric of a task at a step of a trial."""

    __tablename__ = "dtme_evaluations"

    study: Mapped[Study]
    trial: Mapped[Number]
    step: Mapped[Number]
    task: Mapped[Key]
    metric: Mapped[Name]
    value: Mapped[float]
    gain_percent: Mapped[float | None]
    loss: Mapped[float | None]


class ConflictTable(Base):
    """Conflict rates of a pair of tasks at a layer, with standard errors by image."""

    __tablename__ = "dtme_conflicts"

    study: Mapped[Study]
    trial: Mapped[Number]
    layer: Mapped[Number]
    task_a: Mapped[Key]
    task_b: Mapped[Key]
    range_rate: Mapped[float]
    null_rate: Mapped[float]
    range_se: Mapped[float | None]
    null_se: Mapped[float | None]


class PlanTable(Base):
    """A group of tasks that shares an operation at a layer."""

    __tablename__ = "dtme_plans"

    study: Mapped[Study]
    trial: Mapped[Number]
    layer: Mapped[Number]
    operation: Mapped[Key]
    group_index: Mapped[Number]
    tasks: Mapped[Long]


class RunTable(Base):
    """What is known about a trial as a training run."""

    __tablename__ = "dtme_runs"

    study: Mapped[Study]
    trial: Mapped[Number]
    state: Mapped[Name]
    fingerprint: Mapped[Name]
    resolved_fingerprint: Mapped[Name | None]
    unexpanded_fingerprint: Mapped[Name | None]
    config: Mapped[Long | None]
    operations: Mapped[Long | None]
    baselines: Mapped[Long | None]
    delta_m_percent: Mapped[float | None]
    paired_gain_percent: Mapped[float | None]
    paired_trial: Mapped[int | None]
    param_overhead_percent: Mapped[float | None]
    step_cost_ratio: Mapped[float | None]
    feasible: Mapped[bool | None]
    dead_tasks: Mapped[Long | None]
    expansion_step: Mapped[int | None]
    total_steps: Mapped[int | None]
    steps_trained: Mapped[int | None]
    steps_reused: Mapped[int | None]
    origin_trial: Mapped[int | None]
    seconds_saved: Mapped[float | None]
    seconds_total: Mapped[float | None]
    seconds_train: Mapped[float | None]
    seconds_evaluate: Mapped[float | None]
    seconds_measure: Mapped[float | None]
    seconds_checkpoint: Mapped[float | None]
    seconds_overhead: Mapped[float | None]
    peak_memory_mb: Mapped[float | None]
    device: Mapped[Name | None]
    precision: Mapped[Name | None]
    batch_parts: Mapped[int | None]
    seed: Mapped[int | None]
    split: Mapped[Name | None]
    torch_version: Mapped[Name | None]
    timm_version: Mapped[Name | None]
    optuna_version: Mapped[Name | None]
    python_version: Mapped[Name | None]
    code_version: Mapped[Name | None]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    reason: Mapped[Long | None]
    error: Mapped[Long | None]


# Every trial asks for the first run that did its work; without an index that reads all runs of the study.
Index("ix_dtme_runs_work", RunTable.study, RunTable.resolved_fingerprint, RunTable.trial)


class TrunkTable(Base):
    """A stretch of a trunk that a trial trained: one row each time it was paid for."""

    __tablename__ = "dtme_trunks"

    study: Mapped[Study]
    fingerprint: Mapped[Key]
    trial: Mapped[Number]
    from_step: Mapped[int]
    to_step: Mapped[int]
    seconds: Mapped[float]
    created_at: Mapped[datetime]


class RungTable(Base):
    """What a trial was worth at an evaluation: the numbers that pruning compares."""

    __tablename__ = "dtme_rungs"

    study: Mapped[Study]
    rung: Mapped[Number]
    trial: Mapped[Number]
    step: Mapped[int]
    delta_m_percent: Mapped[float]
    param_overhead_percent: Mapped[float | None]
    step_cost_ratio: Mapped[float | None]


class ConfirmationTable(Base):
    """The configuration of a trial trained again with another seed."""

    __tablename__ = "dtme_confirmations"

    study: Mapped[Study]
    trial: Mapped[Number]
    seed: Mapped[Number]
    delta_m_percent: Mapped[float]
    gains_percent: Mapped[Long]
    metrics: Mapped[Long]
    search_gains_percent: Mapped[Long | None]
    baseline_seed: Mapped[int | None]
    steps_trained: Mapped[int]
    steps_reused: Mapped[int]
    seconds: Mapped[float]
    split: Mapped[Name]
    device: Mapped[Name]
    code_version: Mapped[Name]
    created_at: Mapped[datetime]
