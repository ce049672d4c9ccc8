"""Own SQL records beside Optuna's: baselines, every evaluation, conflicts, plans and run facts.

Rows are frozen dataclasses; the tables behind them stand in ``tables``. Every method is one short
transaction. Rates are fractions, times are aware and in UTC, lists of names are comma separated.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import Engine, Select, delete, func, insert, inspect, select, update
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.orm import Session

from dtme_search.errors import StorageError
from dtme_search.search.storage.database import is_lost_race, make_engine, mask_url, storage_errors
from dtme_search.search.storage.pairing import write_pairs
from dtme_search.search.storage.tables import (
    SCHEMA_VERSION,
    Base,
    BaselineTable,
    ConfirmationTable,
    ConflictTable,
    EvaluationTable,
    PlanTable,
    RungTable,
    RunTable,
    SchemaTable,
    TrunkTable,
)
from dtme_search.search.storage.upgrade import add_what_is_missing

if TYPE_CHECKING:
    from optuna.storages import RDBStorage

RowT = TypeVar("RowT")
ResultT = TypeVar("ResultT")

_MEASURED: tuple[type[Base], ...] = (EvaluationTable, ConflictTable, PlanTable, RungTable, TrunkTable)
_OF_TRIALS: tuple[type[Base], ...] = (*_MEASURED, RunTable, ConfirmationTable)
_TRIES = 6


@dataclass(frozen=True, kw_only=True)
class BaselineRow:
    """A single-task baseline.

    Attributes:
        fingerprint: Identity of the run: config of the task alone, data, numerics version.
        value: Metric on ``split``, in ``unit``.
        prior_value: The same metric of a prediction that ignores the image.
        num_images: Images trained on.
        seconds: Whole run; ``seconds_per_step`` a training step.
        config: Canonical config as JSON.
    """

    fingerprint: str
    task: str
    metric: str
    unit: str
    value: float
    prior_value: float
    higher_is_better: bool
    dataset: str
    data_fingerprint: str
    backbone: str
    split: str
    seed: int
    num_steps: int
    num_images: int
    seconds: float
    seconds_per_step: float
    config: str
    code_version: str
    created_at: datetime


@dataclass(frozen=True, kw_only=True)
class EvaluationRow:
    """Metric of one task, its signed gain over the baseline, and its mean training loss."""

    task: str
    metric: str
    value: float
    gain_percent: float | None = None
    loss: float | None = None


@dataclass(frozen=True, kw_only=True)
class StoredEvaluation(EvaluationRow):
    """An evaluation with its place: optimiser steps done in a trial."""

    trial: int
    step: int

    def without_place(self) -> EvaluationRow:
        """The evaluation alone, to be written elsewhere."""
        return EvaluationRow(**{name.name: getattr(self, name.name) for name in fields(EvaluationRow)})


@dataclass(frozen=True, kw_only=True)
class ConflictRow:
    """Conflict rates of two tasks at a 0-based layer, with standard errors by image."""

    layer: int
    task_a: str
    task_b: str
    range_rate: float
    null_rate: float
    range_se: float | None = None
    null_se: float | None = None


@dataclass(frozen=True, kw_only=True)
class PlanRow:
    """A group of tasks that shares an operation (``modulate`` or ``expand``) at a 0-based layer."""

    layer: int
    operation: str
    group_index: int
    tasks: str


@dataclass(frozen=True, kw_only=True)
class RunRow:
    """Facts about a trial as a training run; what is not known yet is ``None``.

    Attributes:
        state: ``running``, ``complete``, ``pruned``, ``failed`` or ``interrupted``.
        fingerprint: Identity of the proposed config; ``resolved_fingerprint`` that of the plan it came to,
            ``unexpanded_fingerprint`` that of the same run, seed included, without growth.
        paired_gain_percent: delta_m less that of ``paired_trial``, the run without growth of the same seed.
        operations: Operation of every layer, blank separated.
        baselines: Task -> fingerprint of the baseline it is compared with, as JSON; ``None`` before schema 4.
        step_cost_ratio: Mean cost of a step in units of an unexpanded one.
        total_steps: Steps of the run, of which ``steps_trained`` were trained for this trial and
            ``steps_reused`` came from a trunk or from ``origin_trial``.
        origin_trial: Finished trial of the same resolved work, whose result this one took over.
        seconds_saved: What the reused steps and measurements took when they were paid for.
        batch_parts: In how many parts a batch went through the network; more than 1 where memory was short.
        reason: Why the trial was pruned, took over a result or trained in parts, in a sentence.
        dead_tasks: Tasks that do not clearly beat the no-image prior.
        seconds_overhead: Time beside training, evaluating, measuring and checkpoints.
        split: What the metrics were measured on.
    """

    study: str
    trial: int
    state: str
    fingerprint: str
    resolved_fingerprint: str | None = None
    unexpanded_fingerprint: str | None = None
    config: str | None = None
    operations: str | None = None
    baselines: str | None = None
    delta_m_percent: float | None = None
    paired_gain_percent: float | None = None
    paired_trial: int | None = None
    param_overhead_percent: float | None = None
    step_cost_ratio: float | None = None
    feasible: bool | None = None
    dead_tasks: str | None = None
    expansion_step: int | None = None
    total_steps: int | None = None
    steps_trained: int | None = None
    steps_reused: int | None = None
    origin_trial: int | None = None
    seconds_saved: float | None = None
    seconds_total: float | None = None
    seconds_train: float | None = None
    seconds_evaluate: float | None = None
    seconds_measure: float | None = None
    seconds_checkpoint: float | None = None
    seconds_overhead: float | None = None
    peak_memory_mb: float | None = None
    device: str | None = None
    precision: str | None = None
    batch_parts: int | None = None
    seed: int | None = None
    split: str | None = None
    torch_version: str | None = None
    timm_version: str | None = None
    optuna_version: str | None = None
    python_version: str | None = None
    code_version: str | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    reason: str | None = None
    error: str | None = None


@dataclass(frozen=True, kw_only=True)
class TrunkRow:
    """Unexpanded training from ``from_step`` to ``to_step`` that a trial paid for, for all that share it."""

    fingerprint: str
    trial: int
    from_step: int
    to_step: int
    seconds: float
    created_at: datetime


@dataclass(frozen=True, kw_only=True)
class RungRow:
    """A trial at one evaluation (``rung``, from 0). The cost is unknown before the network has grown."""

    trial: int
    rung: int
    step: int
    delta_m_percent: float
    param_overhead_percent: float | None = None
    step_cost_ratio: float | None = None


@dataclass(frozen=True, kw_only=True)
class ConfirmationRow:
    """The configuration of a trial trained again with another seed.

    Attributes:
        gains_percent: Task -> signed gain over the baseline of ``baseline_seed``, as JSON; ``metrics``
            likewise. ``search_gains_percent`` are those over the baselines of the search.
        baseline_seed: Seed of these baselines; ``None`` for the same seed.
        seconds: What it took here.
    """

    trial: int
    seed: int
    delta_m_percent: float
    gains_percent: str
    metrics: str
    steps_trained: int
    steps_reused: int
    seconds: float
    split: str
    device: str
    code_version: str
    created_at: datetime
    search_gains_percent: str | None = None
    baseline_seed: int | None = None


class Records:
    """Reads and writes the own tables of a database. Safe for several processes; not shared across a fork.

    All methods raise ``StorageError``, in one line without passwords, when the database does not answer.

    Args:
        engine_or_url: SQLAlchemy engine (Optuna's storage has one), or a database URL.
    """

    def __init__(self, engine_or_url: Engine | str) -> None:
        self.engine = make_engine(engine_or_url) if isinstance(engine_or_url, str) else engine_or_url
        self._url = self.engine.url.render_as_string(hide_password=False)

    def create_tables(self) -> None:
        """Create what is missing, columns of older tables included; several processes may do so at once.

        Raises:
            StorageError: If the tables there are of a later version.
        """
        with storage_errors(self._url):
            self._check_version()
            for attempt in range(1, _TRIES + 1):
                try:
                    self._create()
                    break
                except SQLAlchemyError:
                    # Another process created the same table in between; the next look finds it.
                    if attempt == _TRIES:
                        raise
                    time.sleep(0.1 * attempt)
            self._check_version()

    def save_baseline(self, row: BaselineRow) -> BaselineRow:
        """Keep a baseline unless there is one of this fingerprint; gives the one that stands."""
        with storage_errors(self._url):
            try:
                with Session(self.engine) as session, session.begin():
                    session.execute(insert(BaselineTable), [_columns(BaselineTable, row)])
            except IntegrityError:
                standing = self.find_baseline(row.fingerprint)
                if standing is None:
                    raise
                return standing
        return row

    def find_baseline(self, fingerprint: str) -> BaselineRow | None:
        """The baseline of a fingerprint, if there is one."""
        found = self._read(BaselineRow, _rows(BaselineRow, BaselineTable).filter_by(fingerprint=fingerprint))
        return next(iter(found), None)

    def baselines(self) -> list[BaselineRow]:
        """All baselines of the database, oldest first."""
        order = (BaselineTable.created_at, BaselineTable.fingerprint)
        return self._read(BaselineRow, _rows(BaselineRow, BaselineTable).order_by(*order))

    def save_evaluation(self, study: str, trial: int, step: int, rows: Sequence[EvaluationRow]) -> None:
        """Write the metrics of all tasks at a step; a resumed trial replaces what it had written there."""
        self._replace(EvaluationTable, {"study": study, "trial": trial, "step": step}, rows)

    def evaluations(self, study: str, trial: int | None = None) -> list[StoredEvaluation]:
        """Evaluations of a trial, or of all trials of a study, by trial, step and task."""
        return self._of_trial(StoredEvaluation, EvaluationTable, study, trial)

    def last_step(self, study: str, trials: Sequence[int]) -> int | None:
        """Step of the last evaluation of some trials; ``None`` before the first one."""
        query = select(func.max(EvaluationTable.step)).where(
            EvaluationTable.study == study, EvaluationTable.trial.in_(trials)
        )
        with storage_errors(self._url), Session(self.engine) as session:
            return session.scalar(query)

    def save_conflicts(self, study: str, trial: int, rows: Sequence[ConflictRow]) -> None:
        """Write the conflict rates of a trial, replacing those it had."""
        self._replace(ConflictTable, {"study": study, "trial": trial}, rows)

    def conflicts(self, study: str, trial: int) -> list[ConflictRow]:
        """Conflict rates of a trial, by layer and pair."""
        return self._of_trial(ConflictRow, ConflictTable, study, trial)

    def save_plan(self, study: str, trial: int, rows: Sequence[PlanRow]) -> None:
        """Write the expansion plan of a trial, replacing the one it had; no growth, no rows."""
        self._replace(PlanTable, {"study": study, "trial": trial}, rows)

    def plan(self, study: str, trial: int) -> list[PlanRow]:
        """Expansion plan of a trial, by layer, operation and group."""
        return self._of_trial(PlanRow, PlanTable, study, trial)

    def save_run(self, row: RunRow) -> None:
        """Write the facts of a run, replacing those of the same study and trial."""
        self._replace(RunTable, {"study": row.study, "trial": row.trial}, [row])

    def save_complete(self, row: RunRow) -> None:
        """Write the facts of a complete run, and what it says about the gains of the runs of its seed."""
        self.save_run(row)
        self._write(lambda session: write_pairs(session, row.study, row.seed))

    def runs(self, study: str, trial: int | None = None) -> list[RunRow]:
        """Facts of the run of a trial, or of all runs of a study, by trial."""
        return self._of_trial(RunRow, RunTable, study, trial)

    def save_trunk(self, study: str, row: TrunkRow) -> None:
        """Note a stretch of a trunk that was trained."""
        place = {"study": study, "fingerprint": row.fingerprint, "trial": row.trial}
        self._replace(TrunkTable, place, [row])

    def trunks(self, study: str) -> list[TrunkRow]:
        """Stretches of trunks that the trials of a study trained."""
        return self._of_trial(TrunkRow, TrunkTable, study, None)

    def save_rung(self, study: str, row: RungRow) -> None:
        """Write what a trial is worth at an evaluation; a resumed trial replaces what it had written."""
        self._replace(RungTable, {"study": study, "rung": row.rung, "trial": row.trial}, [row])

    def rung(self, study: str, rung: int) -> list[RungRow]:
        """All trials of a study that reached an evaluation, by number."""
        query = _rows(RungRow, RungTable).filter_by(study=study, rung=rung)
        return self._read(RungRow, query.order_by(RungTable.trial))

    def competitors(self, study: str, rung: int) -> list[RungRow]:
        """Trials that pruning compares at an evaluation, by number.

        Not those that failed later, and not those that took over a result: equal work counts once.
        """
        query = (
            _rows(RungRow, RungTable)
            .join(RunTable, (RunTable.study == RungTable.study) & (RunTable.trial == RungTable.trial))
            .where(RungTable.study == study, RungTable.rung == rung)
            .where(RunTable.state != "failed", RunTable.origin_trial.is_(None))
            .order_by(RungTable.trial)
        )
        return self._read(RungRow, query)

    def rungs(self, study: str, trial: int | None = None) -> list[RungRow]:
        """All rungs of a trial, or of a study, by rung and trial."""
        return self._of_trial(RungRow, RungTable, study, trial)

    def save_confirmation(self, study: str, row: ConfirmationRow) -> None:
        """Keep a confirmation, replacing that of the same trial and seed."""
        place = {"study": study, "trial": row.trial, "seed": row.seed}
        self._replace(ConfirmationTable, place, [row])

    def confirmations(self, study: str) -> list[ConfirmationRow]:
        """All confirmations of a study, by trial and seed."""
        return self._of_trial(ConfirmationRow, ConfirmationTable, study, None)

    def finished_work(self, study: str, resolved_fingerprint: str) -> RunRow | None:
        """The first run of a study that trained this resolved work to its end, or was pruned in it.

        Not one that was short of memory: batch norm saw its batches in parts.
        """
        query = (
            _rows(RunRow, RunTable)
            .filter_by(study=study, resolved_fingerprint=resolved_fingerprint, origin_trial=None)
            .where(RunTable.state.in_(("complete", "pruned")))
            .where(func.coalesce(RunTable.batch_parts, 1) == 1)
            .order_by(RunTable.trial)
            .limit(1)
        )
        return next(iter(self._read(RunRow, query)), None)

    def continue_run(self, study: str, old: Sequence[int], new: int) -> list[RunRow]:
        """Give what interrupted trials have measured to the one that continues them.

        The facts of their runs stay, as ``interrupted`` even where a process died without a word; they are
        returned.
        """

        def move(session: Session) -> list[RunRow]:
            for table in _MEASURED:
                place = inspect(table).columns
                moved = update(table).where(place.study == study, place.trial.in_(old))
                session.execute(moved.values(trial=new))
            ended = update(RunTable).where(RunTable.study == study, RunTable.trial.in_(old))
            session.execute(ended.values(state="interrupted"))
            runs = _rows(RunRow, RunTable).where(RunTable.study == study, RunTable.trial.in_(old))
            return [RunRow(**found._mapping) for found in session.execute(runs.order_by(RunTable.trial))]

        return self._write(move)

    def delete_study(self, study: str) -> None:
        """Forget all trials of a study; baselines stay. Optuna's tables are not touched."""

        def forget(session: Session) -> None:
            for table in _OF_TRIALS:
                session.execute(delete(table).filter_by(study=study))

        self._write(forget)

    def _of_trial(self, row: type[RowT], table: type[Base], study: str, trial: int | None) -> list[RowT]:
        query = _rows(row, table).filter_by(study=study).order_by(*inspect(table).primary_key)
        return self._read(row, query if trial is None else query.filter_by(trial=trial))

    def _read(self, row: type[RowT], query: Select[Any]) -> list[RowT]:
        with storage_errors(self._url), Session(self.engine) as session:
            return [row(**found._mapping) for found in session.execute(query)]

    def _replace(self, table: type[Base], place: Mapping[str, Any], rows: Sequence[Any]) -> None:
        values = [{**_columns(table, row), **place} for row in rows]

        def replace(session: Session) -> None:
            session.execute(delete(table).filter_by(**place))
            if values:
                session.execute(insert(table), values)

        self._write(replace)

    def _write(self, work: Callable[[Session], ResultT]) -> ResultT:
        """Do something in one transaction, again if another process was in the way."""
        with storage_errors(self._url):
            for attempt in range(1, _TRIES):
                try:
                    with Session(self.engine) as session, session.begin():
                        return work(session)
                except SQLAlchemyError as error:
                    if not is_lost_race(error):
                        raise
                    time.sleep(0.1 * attempt)
            with Session(self.engine) as session, session.begin():
                return work(session)

    def _create(self) -> None:
        Base.metadata.create_all(self.engine)
        add_what_is_missing(self.engine, Base.metadata)
        with Session(self.engine) as session, session.begin():
            known = session.get(SchemaTable, 1)
            if known is None:
                session.execute(insert(SchemaTable), [{"id": 1, "version": SCHEMA_VERSION}])
            else:
                known.version = SCHEMA_VERSION

    def _check_version(self) -> None:
        if not inspect(self.engine).has_table(SchemaTable.__tablename__):
            return
        with Session(self.engine) as session:
            found = session.get(SchemaTable, 1)
            version = SCHEMA_VERSION if found is None else found.version
        if version > SCHEMA_VERSION:
            raise StorageError(
                f"{mask_url(self._url)}: its dtme tables must be of version {SCHEMA_VERSION} or older, "
                f"got {version}. Update dtme-search, or give another database with --storage."
            )


def records_for(storage: RDBStorage) -> Records:
    """Records in the database of an Optuna storage, over the same connections."""
    return Records(storage.engine)


def _columns(table: type[Base], row: Any) -> dict[str, Any]:
    """Values by column; a number that is not finite is unknown, which not every column may be."""
    columns = table.__table__.columns
    values = {}
    for field in fields(row):
        value = getattr(row, field.name)
        if isinstance(value, float) and not math.isfinite(value):
            if not columns[field.name].nullable:
                raise ValueError(f"{table.__tablename__}.{field.name} must be finite, got {value}")
            value = None
        values[field.name] = value
    return values


def _rows(row: type[Any], table: type[Base]) -> Select[Any]:
    """The columns that make up a row. Not the table as such: its objects take twice the time to make."""
    return select(*(getattr(table, field.name) for field in fields(row)))
