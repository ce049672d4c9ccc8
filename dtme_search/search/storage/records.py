"""Own SQL records beside Optuna's: baselines, every evaluation, conflicts, plans and run facts.

Rows are the frozen dataclasses of ``rows``. Every method is one short transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import Engine, Select, Table, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from dtme_search.search.storage.database import make_engine, repeated, storage_errors
from dtme_search.search.storage.pairing import write_pairs
from dtme_search.search.storage.rows import (
    BaselineRow,
    ConfirmationRow,
    ConflictRow,
    EvaluationRow,
    GainRow,
    GradientRow,
    InferenceRow,
    PlanRow,
    RungRow,
    RunRow,
    StoredEvaluation,
    TrunkRow,
)
from dtme_search.search.storage.tables import (
    BASELINES,
    CONFIRMATIONS,
    CONFLICTS,
    EVALUATIONS,
    GAINS,
    GRADIENTS,
    INFERENCE,
    MEASURED,
    OF_TRIALS,
    PLANS,
    RUNGS,
    RUNS,
    TRUNKS,
    at_place,
    columns_of,
    rows_of,
)
from dtme_search.search.storage.upgrade import create_tables, is_current

if TYPE_CHECKING:
    from optuna.storages import RDBStorage

RowT = TypeVar("RowT")
ResultT = TypeVar("ResultT")


class Records:
    """Reads and writes our tables in a database. Safe for several processes; not shared across a fork.

    All methods raise ``StorageError``, in one line without passwords, if the database does not answer.

    Args:
        engine_or_url: SQLAlchemy engine (Optuna's storage has one), or a database URL.
    """

    def __init__(self, engine_or_url: Engine | str) -> None:
        self.engine = make_engine(engine_or_url) if isinstance(engine_or_url, str) else engine_or_url
        self._url = self.engine.url.render_as_string(hide_password=False)

    def create_tables(self) -> None:
        """Create what is missing, including columns of older tables; several processes may do so at once.

        Raises:
            StorageError: If the existing tables are of a later version.
        """
        with storage_errors(self._url):
            create_tables(self.engine)

    def is_current(self) -> bool:
        """Whether every table and column exists; finding out writes nothing.

        Raises:
            StorageError: If the existing tables are of a later version.
        """
        with storage_errors(self._url):
            return is_current(self.engine)

    def save_baseline(self, row: BaselineRow) -> BaselineRow:
        """Store a baseline unless its fingerprint already has one; returns the stored one."""
        return self._keep_first(BASELINES, row)

    def find_baseline(self, fingerprint: str) -> BaselineRow | None:
        """The baseline with a fingerprint, if there is one."""
        return self._find(BaselineRow, BASELINES, fingerprint)

    def save_inference(self, row: InferenceRow) -> InferenceRow:
        """Store what predictions cost unless it is known; returns the stored row, the same for all."""
        return self._keep_first(INFERENCE, row)

    def find_inference(self, fingerprint: str) -> InferenceRow | None:
        """What predictions cost, by the fingerprint of a measurement, if there was one."""
        return self._find(InferenceRow, INFERENCE, fingerprint)

    def baselines(self) -> list[BaselineRow]:
        """All baselines of the database, oldest first."""
        order = (BASELINES.c.created_at, BASELINES.c.fingerprint)
        return self._read(BaselineRow, rows_of(BaselineRow, BASELINES).order_by(*order))

    def save_evaluation(self, study: str, trial: int, step: int, rows: Sequence[EvaluationRow]) -> None:
        """Write the metrics of all tasks at a step; a resumed trial replaces what it wrote before."""
        self._replace(EVALUATIONS, {"study": study, "trial": trial, "step": step}, rows)

    def evaluations(self, study: str, trial: int | None = None) -> list[StoredEvaluation]:
        """Evaluations of a trial, or of all trials of a study, by trial, step and task."""
        return self._of_trial(StoredEvaluation, EVALUATIONS, study, trial)

    def scored_evaluations(self, study: str) -> list[StoredEvaluation]:
        """Evaluations of a study that hold image scores, by trial, step and task."""
        place = EVALUATIONS.c
        query = rows_of(StoredEvaluation, EVALUATIONS).where(place.study == study, place.scores.is_not(None))
        return self._read(StoredEvaluation, query.order_by(place.trial, place.step, place.task))

    def last_evaluations(self, study: str) -> list[StoredEvaluation]:
        """The last evaluation of every trial of a study, by trial and task."""
        place = EVALUATIONS.c
        last = (
            select(place.trial, func.max(place.step).label("step"))
            .where(place.study == study)
            .group_by(place.trial)
            .subquery()
        )
        query = (
            rows_of(StoredEvaluation, EVALUATIONS)
            .join(last, (place.trial == last.c.trial) & (place.step == last.c.step))
            .where(place.study == study)
            .order_by(place.trial, place.task)
        )
        return self._read(StoredEvaluation, query)

    def last_step(self, study: str, trials: Sequence[int]) -> int | None:
        """Step of the last evaluation of some trials; ``None`` before the first one."""
        query = select(func.max(EVALUATIONS.c.step)).where(
            EVALUATIONS.c.study == study, EVALUATIONS.c.trial.in_(trials)
        )
        with storage_errors(self._url), Session(self.engine) as session:
            step: int | None = session.scalar(query)
            return step

    def save_conflicts(
        self, study: str, trial: int, rows: Sequence[ConflictRow], gains: Sequence[GainRow] = ()
    ) -> None:
        """Write the conflict rates of a trial, and what growth could gain, replacing those it had."""
        self._replace(CONFLICTS, {"study": study, "trial": trial}, rows)
        self._replace(GAINS, {"study": study, "trial": trial}, gains)

    def conflicts(self, study: str, trial: int) -> list[ConflictRow]:
        """Conflict rates of a trial, by layer and pair."""
        return self._of_trial(ConflictRow, CONFLICTS, study, trial)

    def gains(self, study: str, trial: int) -> list[GainRow]:
        """What splitting the tasks could gain, by layer and operation."""
        return self._of_trial(GainRow, GAINS, study, trial)

    def save_gradients(self, study: str, trial: int, rows: Sequence[GradientRow]) -> None:
        """Write one set of gradient statistics of a trial; a resumed trial replaces what it wrote before."""
        for step, grown in {(row.step, row.grown) for row in rows}:
            place = {"study": study, "trial": trial, "step": step, "grown": grown}
            self._replace(
                GRADIENTS, place, [each for each in rows if (each.step, each.grown) == (step, grown)]
            )

    def gradients(self, study: str, trial: int) -> list[GradientRow]:
        """All gradient statistics of a trial, by step."""
        return self._of_trial(GradientRow, GRADIENTS, study, trial)

    def save_plan(self, study: str, trial: int, rows: Sequence[PlanRow]) -> None:
        """Write the expansion plan of a trial, replacing any earlier one; no growth means no rows."""
        self._replace(PLANS, {"study": study, "trial": trial}, rows)

    def plan(self, study: str, trial: int) -> list[PlanRow]:
        """Expansion plan of a trial, by layer, operation and group."""
        return self._of_trial(PlanRow, PLANS, study, trial)

    def save_run(self, row: RunRow) -> None:
        """Write the facts of a run, replacing those of the same study and trial."""
        self._replace(RUNS, {"study": row.study, "trial": row.trial}, [row])

    def save_complete(self, row: RunRow) -> None:
        """Write the facts of a complete run, and what they mean for the gains of the runs with its seed."""
        self.save_run(row)
        self._write(lambda session: write_pairs(session, row.study, row.seed))

    def pair_again(self, study: str, seeds: Collection[int | None]) -> None:
        """Pair the runs with some seeds again, because one of them is gone."""

        def work(session: Session) -> None:
            alone = {"paired_gain_percent": None, "paired_trial": None}
            session.execute(update(RUNS).where(RUNS.c.study == study, RUNS.c.seed.in_(seeds)).values(alone))
            for seed in seeds:
                write_pairs(session, study, seed)

        self._write(work)

    def runs(self, study: str, trial: int | None = None) -> list[RunRow]:
        """Facts of the run of a trial, or of all runs of a study, by trial."""
        return self._of_trial(RunRow, RUNS, study, trial)

    def save_trunk(self, study: str, row: TrunkRow) -> None:
        """Record a stretch of a trunk that was trained."""
        self._replace(TRUNKS, {"study": study, "fingerprint": row.fingerprint, "trial": row.trial}, [row])

    def trunks(self, study: str) -> list[TrunkRow]:
        """Stretches of trunks trained by the trials of a study."""
        return self._of_trial(TrunkRow, TRUNKS, study, None)

    def save_rung(self, study: str, row: RungRow) -> None:
        """Write what a trial is worth at an evaluation; a resumed trial replaces what it wrote before."""
        self._replace(RUNGS, {"study": study, "rung": row.rung, "trial": row.trial}, [row])

    def rung(self, study: str, rung: int) -> list[RungRow]:
        """All trials of a study that reached an evaluation, by number."""
        query = rows_of(RungRow, RUNGS).filter_by(study=study, rung=rung)
        return self._read(RungRow, query.order_by(RUNGS.c.trial))

    def competitors(self, study: str, rung: int) -> list[RungRow]:
        """Trials that pruning compares at an evaluation, by number.

        Excludes trials that failed later and trials that took over a result: equal work counts once.
        """
        query = (
            rows_of(RungRow, RUNGS)
            .join(RUNS, (RUNS.c.study == RUNGS.c.study) & (RUNS.c.trial == RUNGS.c.trial))
            .where(RUNGS.c.study == study, RUNGS.c.rung == rung)
            .where(RUNS.c.state != "failed", RUNS.c.origin_trial.is_(None))
            .order_by(RUNGS.c.trial)
        )
        return self._read(RungRow, query)

    def rungs(self, study: str, trial: int | None = None) -> list[RungRow]:
        """All rungs of a trial, or of a study, by rung and trial."""
        return self._of_trial(RungRow, RUNGS, study, trial)

    def save_confirmation(self, study: str, row: ConfirmationRow) -> None:
        """Store a confirmation, replacing that of the same trial and seed."""
        place = {"study": study, "trial": row.trial, "seed": row.seed}
        self._replace(CONFIRMATIONS, place, [row])

    def confirmations(self, study: str) -> list[ConfirmationRow]:
        """All confirmations of a study, by trial and seed."""
        return self._of_trial(ConfirmationRow, CONFIRMATIONS, study, None)

    def finished_work(self, study: str, resolved_fingerprint: str) -> RunRow | None:
        """The first run of a study that trained this resolved work to its end, or was pruned in it.

        Excludes runs that were short of memory, because batch norm saw their batches in parts.
        """
        query = (
            rows_of(RunRow, RUNS)
            .filter_by(study=study, resolved_fingerprint=resolved_fingerprint, origin_trial=None)
            .where(RUNS.c.state.in_(("complete", "pruned")))
            .where(func.coalesce(RUNS.c.batch_parts, 1) == 1)
            .order_by(RUNS.c.trial)
            .limit(1)
        )
        return next(iter(self._read(RunRow, query)), None)

    def continue_run(self, study: str, old: Sequence[int], new: int) -> list[RunRow]:
        """Give the measurements of interrupted trials to the one that continues them.

        The facts of their runs stay, with state ``interrupted`` even if a process died without notice, and
        are returned. Their steps count towards the trial that continues.
        """

        def move(session: Session) -> list[RunRow]:
            for table in MEASURED:
                place = table.c
                moved = update(table).where(place.study == study, place.trial.in_(old))
                session.execute(moved.values(trial=new))
            ended = update(RUNS).where(RUNS.c.study == study, RUNS.c.trial.in_(old))
            session.execute(ended.values(state="interrupted", steps_trained=None))
            runs = rows_of(RunRow, RUNS).where(RUNS.c.study == study, RUNS.c.trial.in_(old))
            return [RunRow(**found._mapping) for found in session.execute(runs.order_by(RUNS.c.trial))]

        return self._write(move)

    def delete_study(self, study: str) -> None:
        """Delete all trials of a study; baselines stay. Optuna's tables are not touched."""

        def forget(session: Session) -> None:
            for table in OF_TRIALS:
                session.execute(delete(table).filter_by(study=study))

        self._write(forget)

    def _find(self, row: type[RowT], table: Table, fingerprint: str) -> RowT | None:
        found = self._read(row, rows_of(row, table).filter_by(fingerprint=fingerprint))
        return next(iter(found), None)

    def _keep_first(self, table: Table, row: RowT) -> RowT:
        values = columns_of(table, row)
        with storage_errors(self._url):
            try:
                self._insert(table, [values])
            except IntegrityError:
                standing = self._find(type(row), table, values["fingerprint"])
                if standing is None:
                    raise
                return standing
        return row

    def _of_trial(self, row: type[RowT], table: Table, study: str, trial: int | None) -> list[RowT]:
        query = rows_of(row, table).filter_by(study=study).order_by(*table.primary_key.columns)
        return self._read(row, query if trial is None else query.filter_by(trial=trial))

    def _read(self, row: type[RowT], query: Select[Any]) -> list[RowT]:
        with storage_errors(self._url), Session(self.engine) as session:
            return [row(**found._mapping) for found in session.execute(query)]

    def _insert(self, table: Table, values: Sequence[Mapping[str, Any]]) -> None:
        def transaction() -> None:
            with Session(self.engine) as session, session.begin():
                session.execute(insert(table), values)

        repeated(transaction)

    def _replace(self, table: Table, place: Mapping[str, Any], rows: Sequence[Any]) -> None:
        values = [{**columns_of(table, row), **place} for row in rows]

        def replace(session: Session) -> None:
            session.execute(delete(table).where(*at_place(table, place)))
            if values:
                session.execute(insert(table), values)

        self._write(replace)

    def _write(self, work: Callable[[Session], ResultT]) -> ResultT:
        """Do something in one transaction, again if another process was in the way."""

        def transaction() -> ResultT:
            with Session(self.engine) as session, session.begin():
                return work(session)

        with storage_errors(self._url):
            return repeated(transaction, also_same_rows=True)


def records_for(storage: RDBStorage) -> Records:
    """Records in the database of an Optuna storage, over the same connections."""
    return Records(storage.engine)
