"""Own SQL tables, the same on every kind of database."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest
from processes import run_together
from sqlalchemy import event, inspect, text

from dtme_search.errors import StorageError
from dtme_search.search.storage import tables
from dtme_search.search.storage.records import Records, records_for
from dtme_search.search.storage.rows import (
    BaselineRow,
    ConfirmationRow,
    ConflictRow,
    EvaluationRow,
    PlanRow,
    RungRow,
    RunRow,
    StoredEvaluation,
)
from dtme_search.search.storage.studies import open_storage

BASELINE = BaselineRow(
    fingerprint="f1",
    task="semseg",
    metric="miou",
    unit="fraction",
    value=0.3935,
    prior_value=0.05,
    higher_is_better=True,
    dataset="scenes",
    data_fingerprint="d1",
    backbone="vit_tiny_patch16_224",
    split="holdout",
    seed=2**40,
    num_steps=400,
    num_images=435,
    seconds=12.5,
    seconds_per_step=1 / 30,
    config='{"seed": 0}',
    code_version="0.1.0",
    created_at=datetime(2026, 3, 1, 12, 30, 5, 123_456, tzinfo=timezone(timedelta(hours=2))),
)
RUN = RunRow(study="s", trial=0, state="running", fingerprint="r1")


@pytest.fixture
def records(storage_url):
    opened = records_for(open_storage(storage_url))
    opened.create_tables()
    yield opened
    opened.engine.dispose()


class TestRecords:
    def test_a_baseline_comes_back_as_it_was_saved(self, records):
        assert records.find_baseline("f1") is None
        assert records.save_baseline(BASELINE) == BASELINE
        found = records.find_baseline("f1")
        assert found == BASELINE
        assert found.created_at.tzinfo is UTC

    def test_the_first_baseline_of_a_fingerprint_stands(self, records):
        records.save_baseline(BASELINE)
        assert records.save_baseline(replace(BASELINE, value=0.9)) == BASELINE
        other = replace(BASELINE, fingerprint="f2", created_at=BASELINE.created_at - timedelta(days=1))
        records.save_baseline(other)
        assert records.baselines() == [other, BASELINE]

    def test_evaluations_are_kept_by_step_and_replaced_after_a_resume(self, records):
        semseg = EvaluationRow(task="semseg", metric="miou", value=0.25, gain_percent=-3.5, loss=1.5)
        depth = EvaluationRow(task="depth", metric="rmse", value=0.6)
        records.save_evaluation("s", 0, 50, [semseg, depth])
        records.save_evaluation("s", 0, 100, [semseg])
        records.save_evaluation("s", 1, 50, [semseg])
        records.save_evaluation("t", 0, 50, [semseg])
        records.save_evaluation("s", 0, 50, [replace(semseg, value=0.26), depth])
        found = records.evaluations("s", 0)
        assert [(row.step, row.task, row.value) for row in found] == [
            (50, "depth", 0.6),
            (50, "semseg", 0.26),
            (100, "semseg", 0.25),
        ]
        assert found[0] == StoredEvaluation(trial=0, step=50, task="depth", metric="rmse", value=0.6)
        assert found[2].gain_percent == -3.5 and found[2].loss == 1.5
        assert len(records.evaluations("s")) == 4

    def test_conflicts_and_plans_are_those_written_last(self, records):
        pairs = [
            ConflictRow(layer=layer, task_a="a", task_b=other, range_rate=0.5, null_rate=1 / 3, range_se=0.01)
            for layer in range(24)
            for other in "bcdefghijk"
        ]
        records.save_conflicts("s", 0, pairs)
        records.save_conflicts("s", 0, pairs)
        assert records.conflicts("s", 0) == pairs
        plan = [
            PlanRow(layer=3, operation="expand", group_index=0, tasks="a"),
            PlanRow(layer=3, operation="expand", group_index=1, tasks="b,c"),
            PlanRow(layer=3, operation="modulate", group_index=0, tasks="a"),
        ]
        records.save_plan("s", 0, plan)
        assert records.plan("s", 0) == plan
        records.save_plan("s", 0, [])
        assert records.plan("s", 0) == []

    def test_a_run_grows_as_more_is_known(self, records):
        records.save_run(RUN)
        done = replace(
            RUN,
            state="complete",
            delta_m_percent=-6.0265,
            feasible=True,
            steps_trained=400,
            config="größer" * 100_000,
            error="100 % of {it}: '\\n' \U0001f600",
            finished_at=datetime.now(UTC),
        )
        records.save_run(done)
        records.save_run(replace(RUN, trial=2))
        records.save_run(replace(RUN, study="t"))
        records.save_run(replace(RUN, study="S"))
        assert records.runs("s") == [done, replace(RUN, trial=2)]

    def test_a_continuation_takes_over_what_was_measured(self, records):
        semseg = EvaluationRow(task="semseg", metric="miou", value=0.25)
        pair = ConflictRow(layer=0, task_a="a", task_b="b", range_rate=0.5, null_rate=0.5)
        group = PlanRow(layer=3, operation="expand", group_index=0, tasks="a")
        for study, trial in (("s", 1), ("s", 2), ("t", 1)):
            records.save_run(replace(RUN, study=study, trial=trial, state="running", seconds_total=7.0))
            records.save_evaluation(study, trial, 50, [semseg])
            records.save_conflicts(study, trial, [pair])
            records.save_plan(study, trial, [group])
        (before,) = records.continue_run("s", [1, 4], 5)  # 4 was killed before it took over
        assert (before.trial, before.state, before.seconds_total) == (1, "interrupted", 7.0)
        for read in (records.evaluations, records.conflicts, records.plan):
            assert [len(read("s", trial)) for trial in (1, 2, 5)] == [0, 1, 1] and len(read("t", 1)) == 1
        assert [(run.trial, run.state) for run in records.runs("s")] == [(1, "interrupted"), (2, "running")]
        assert records.continue_run("s", [3], 6) == []
        records.continue_run("s", [1, 4, 5], 6)
        assert [len(records.plan("s", trial)) for trial in (1, 2, 5, 6)] == [0, 1, 0, 1]

    def test_one_run_is_found_alone(self, records):
        records.save_run(RUN)
        records.save_run(replace(RUN, trial=2))
        assert records.runs("s", 2) == [replace(RUN, trial=2)]
        assert records.runs("s", 1) == [] and records.runs("t", 0) == []

    def test_numbers_that_are_not_finite_are_unknown(self, records):
        records.save_run(replace(RUN, step_cost_ratio=float("nan"), peak_memory_mb=float("inf")))
        (found,) = records.runs("s")
        assert found.step_cost_ratio is None and found.peak_memory_mb is None
        row = EvaluationRow(task="depth", metric="rmse", value=float("nan"))
        with pytest.raises(ValueError, match=r"dtme_evaluations\.value must be finite, got nan"):
            records.save_evaluation("s", 0, 50, [row])

    def test_a_deleted_study_leaves_only_baselines(self, records):
        records.save_baseline(BASELINE)
        records.save_run(RUN)
        records.save_run(replace(RUN, study="t"))
        records.save_evaluation("s", 0, 1, [EvaluationRow(task="depth", metric="rmse", value=1.0)])
        records.delete_study("s")
        assert records.runs("s") == [] and records.evaluations("s") == []
        assert len(records.runs("t")) == len(records.baselines()) == 1

    def test_creating_twice_keeps_what_is_there(self, records):
        records.save_baseline(BASELINE)
        records.create_tables()
        assert records.baselines() == [BASELINE]

    def test_a_later_version_is_refused(self, records):
        with records.engine.begin() as connection:
            connection.execute(text("UPDATE dtme_schema SET version = 99"))
        with pytest.raises(StorageError, match=r"or older, got 99\. Update dtme-search"):
            records.create_tables()

    def test_tables_of_the_first_release_are_brought_up_to_date(self, records):
        records.save_run(RUN)
        with records.engine.begin() as connection:
            for table in (tables.TRUNKS, tables.RUNGS, tables.CONFIRMATIONS):
                connection.execute(text(f"DROP TABLE {table.name}"))
            for column in ("steps_reused", "origin_trial", "seconds_saved", "reason"):
                connection.execute(text(f"ALTER TABLE dtme_runs DROP COLUMN {column}"))
            connection.execute(text("UPDATE dtme_schema SET version = 1"))
        (index,) = tables.RUNS.indexes
        index.drop(records.engine)
        records.create_tables()
        assert records.runs("s") == [RUN]
        assert index.name in {known["name"] for known in inspect(records.engine).get_indexes("dtme_runs")}
        records.save_run(replace(RUN, origin_trial=3, seconds_saved=1.5, reason="equal to trial 3"))
        records.save_rung("s", RungRow(trial=0, rung=1, step=60, delta_m_percent=-1.0))
        assert records.runs("s")[0].origin_trial == 3
        with records.engine.connect() as connection:
            assert (
                connection.execute(text("SELECT version FROM dtme_schema")).scalar() == tables.SCHEMA_VERSION
            )

    def test_finished_work_is_found_by_what_was_trained(self, records):
        assert records.finished_work("s", "w1") is None
        records.save_run(replace(RUN, resolved_fingerprint="w1"))
        assert records.finished_work("s", "w1") is None, "still running"
        done = replace(RUN, trial=4, state="complete", resolved_fingerprint="w1")
        records.save_run(done)
        records.save_run(replace(done, trial=2, origin_trial=4))
        records.save_run(replace(done, trial=3, batch_parts=2))
        assert records.finished_work("s", "w1") == done, "a result that was taken over is no origin"
        assert records.finished_work("other", "w1") is None

    def test_rungs_hold_every_trial_that_reached_them(self, records):
        rows = [
            RungRow(trial=trial, rung=rung, step=30 * (rung + 1), delta_m_percent=-2.0 + trial)
            for rung in range(2)
            for trial in range(3)
        ]
        for row in rows:
            records.save_rung("s", row)
        assert records.rung("s", 1) == rows[3:] and records.rungs("s") == rows
        better = replace(rows[4], delta_m_percent=5.0, param_overhead_percent=0.25)
        records.save_rung("s", better)
        assert records.rung("s", 1)[1] == better

    def test_confirmations_are_kept_by_trial_and_seed(self, records):
        row = ConfirmationRow(
            trial=3,
            seed=1,
            delta_m_percent=0.5,
            gains_percent='{"depth": 0.5}',
            metrics='{"depth": 0.9}',
            steps_trained=10,
            steps_reused=0,
            seconds=1.0,
            split="holdout",
            device="cpu",
            code_version="0.1.0",
            created_at=datetime(2026, 3, 1, tzinfo=UTC),
        )
        records.save_confirmation("s", row)
        records.save_confirmation("s", replace(row, delta_m_percent=0.75))
        assert records.confirmations("s") == [replace(row, delta_m_percent=0.75)]

    def test_missing_tables_are_one_line(self, storage_url):
        storage = open_storage(storage_url)
        with pytest.raises(StorageError, match="dtme_runs") as caught:
            records_for(storage).runs("s")
        assert "\n" not in str(caught.value)
        storage.engine.dispose()

    @pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
    def test_processes_that_write_at_once_lose_nothing(self, storage_url):
        records = records_for(open_storage(storage_url))
        records.create_tables()
        records.engine.dispose()
        assert run_together(write_at_once, 4, storage_url) == [16] * 4
        records = Records(storage_url)
        assert len(records.evaluations("s")) == 64 and len(records.rungs("s")) == 32
        records.engine.dispose()

    @pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
    def test_processes_that_start_at_once_share_tables_and_baseline(self, storage_url):
        open_storage(storage_url).engine.dispose()
        stands = run_together(save_at_once, 4, storage_url)
        records = Records(storage_url)
        (row,) = records.baselines()
        records.engine.dispose()
        assert stands == [row.value] * 4


def write_at_once(number: int, url: str) -> int:
    """Rows that stand side by side in the indices, all of them new."""
    records = Records(url)
    for step in range(8):
        rows = [EvaluationRow(task=task, metric="rmse", value=step / 3) for task in ("depth", "normals")]
        records.save_evaluation("s", number, step, rows)
        records.save_rung("s", RungRow(trial=number, rung=step, step=step, delta_m_percent=0.5))
        records.save_run(replace(RUN, trial=number, steps_trained=step))
    return len(records.evaluations("s", number))


def save_at_once(number: int, url: str) -> float:
    records = Records(url)
    records.create_tables()
    return records.save_baseline(replace(BASELINE, value=float(number))).value


def test_finished_work_is_looked_up_in_its_index(tmp_path):
    records = Records(f"sqlite:///{tmp_path / 'study.db'}")
    records.create_tables()
    seen: list[tuple[str, tuple]] = []
    event.listen(records.engine, "before_cursor_execute", lambda *given: seen.append(given[2:4]))
    assert records.finished_work("s", "w1") is None
    statement, parameters = seen[-1]
    with records.engine.connect() as connection:
        plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters).fetchall()
    # Without the trial in it SQLite prefers the primary key, which is in the order asked for.
    assert "ix_dtme_runs_work (study=? AND resolved_fingerprint=?)" in str(plan)
    records.engine.dispose()
