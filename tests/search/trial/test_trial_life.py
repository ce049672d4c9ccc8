"""What may happen to a trial on its way: no memory, a database away, others who take it for dead."""

from __future__ import annotations

import errno
import time
from pathlib import Path

import optuna
import pytest
import torch
from optuna.exceptions import StorageInternalError
from optuna.trial import TrialState
from sqlalchemy.exc import OperationalError
from tiny import grown, write_tiny_study
from watching import Heard, ctrl_c, once

from dtme_search.errors import DiskFullError, StorageError
from dtme_search.models import MultiTaskViT
from dtme_search.search import LoadedStudy, load_study, optimize
from dtme_search.search.storage.records import Records
from dtme_search.search.trial import heartbeat
from dtme_search.search.trial.diary import Diary
from dtme_search.search.trial.retries import hand_back, retry_history
from dtme_search.training import trainer

CHANGES = {
    "tasks": {"depth": {}, "edge": {}},
    "train.num_steps": 8,
    "train.num_evaluations": 4,
    "train.checkpoint_seconds": 0.0,
}
"""Evaluations after steps 2, 4, 6 and 8, growth before step 4."""


def search(folder: Path, heard: Heard | None = None, **fields) -> LoadedStudy:
    """The same study again and again, until it has its one trial."""
    file = write_tiny_study(folder, CHANGES, **{"trials": 1, "enqueue": [grown()]} | fields)
    return optimize(file, workdir=folder / "runs", device="cpu", listener=heard)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> LoadedStudy:
    return search(tmp_path_factory.mktemp("undisturbed"))


def states(study: LoadedStudy) -> list[str]:
    return [trial.state.name for trial in study.optuna.get_trials(deepcopy=False)]


def assert_equal_result(study: LoadedStudy, undisturbed: LoadedStudy) -> None:
    """One finished trial, with the values and the row of one that nothing happened to."""
    (trial,) = [trial for trial in study.optuna.trials if trial.state == TrialState.COMPLETE]
    (expected,) = undisturbed.optuna.trials
    assert trial.values == expected.values and trial.constraints == expected.constraints
    (row,) = [run for run in study.records.runs("tiny") if run.state == "complete"]
    (other,) = undisturbed.records.runs("tiny")
    assert row.trial == trial.number
    for name in ("delta_m_percent", "operations", "resolved_fingerprint", "total_steps"):
        assert getattr(row, name) == getattr(other, name)
    mine, theirs = (
        [(row.step, row.task, row.value) for row in found.records.evaluations("tiny", number)]
        for found, number in ((study, trial.number), (undisturbed, expected.number))
    )
    assert mine == theirs


class TestTakenForDead:
    def end(self, folder: Path) -> None:
        """What another machine does with a trial whose heartbeat it does not hear."""
        study = load_study("tiny", workdir=folder / "runs").optuna
        (running,) = study.get_trials(states=(TrialState.RUNNING,))
        hand_back(study, running.number)
        study.tell(running.number, state=TrialState.FAIL)

    @pytest.mark.slow
    def test_it_notices_stops_and_goes_on_as_the_other_trial(self, undisturbed, tmp_path, monkeypatch):
        monkeypatch.setattr(heartbeat, "INTERVAL_SECONDS", 0.01)

        def end() -> None:
            self.end(tmp_path)
            time.sleep(2.0)  # many beats

        heard = Heard(once("trial_evaluated", 6, end))
        study = search(tmp_path, heard)
        assert states(study) == ["FAIL", "COMPLETE"]
        ((number, state, reason),) = heard.stopped
        assert (number, state) == (0, "interrupted") and reason.startswith("stopped at step")
        assert_equal_result(study, undisturbed)

    def test_a_result_that_nobody_waits_for_is_not_told_twice(self, undisturbed, tmp_path):
        """It comes to its end before it notices."""
        heard = Heard(once("trial_evaluated", 8, lambda: self.end(tmp_path)))
        study = search(tmp_path, heard)
        assert states(study) == ["FAIL", "COMPLETE"] and heard.completed == [1]
        assert heard.stopped == [(0, "interrupted", "presumed dead by another worker, which continues it")]
        assert [run.state for run in study.records.runs("tiny")] == ["interrupted", "complete"]
        assert retry_history(study.optuna.trials[1]) == [0]
        assert_equal_result(study, undisturbed)


class TestInterrupted:
    @pytest.mark.parametrize("reuse", [{"conflicts": False, "trunks": False}, {}], ids=["alone", "shared"])
    def test_a_trial_that_had_grown_keeps_the_name_of_its_work(self, undisturbed, tmp_path, reuse):
        """Nobody measures its conflicts a second time: what it grew by is known from its checkpoint."""
        study = search(tmp_path, Heard(once("trial_evaluated", 6, ctrl_c)), reuse=reuse)
        assert states(study) == ["FAIL", "WAITING"]
        study = search(tmp_path, reuse=reuse)
        assert_equal_result(study, undisturbed)


class TestDatabase:
    def trouble(self, monkeypatch, times: int) -> None:
        """The database is in trouble when a trial writes its evaluation at step 6."""
        left, write = [times], Records.save_evaluation

        def save(records, study, trial, step, rows):
            if step == 6 and left[0] > 0:
                left[0] -= 1
                raise OperationalError("INSERT", {}, Exception("server closed the connection"))
            write(records, study, trial, step, rows)

        monkeypatch.setattr(Records, "save_evaluation", save)

    def test_a_trial_is_no_failure_when_the_database_was_away(self, undisturbed, tmp_path, monkeypatch):
        self.trouble(monkeypatch, 2)
        study = search(tmp_path)
        assert states(study) == ["FAIL", "FAIL", "COMPLETE"]
        assert all("error" not in trial.user_attrs for trial in study.optuna.trials)
        assert_equal_result(study, undisturbed)

    def test_trouble_without_end_is_told_in_one_line_and_loses_nothing(
        self, undisturbed, tmp_path, monkeypatch
    ):
        self.trouble(monkeypatch, 6)
        with pytest.raises(StorageError, match=r"^sqlite:///.*: server closed the connection\.$"):
            search(tmp_path)
        heard = Heard()
        study = search(tmp_path, heard)
        assert heard.started[0][0] == 6 and states(study)[6] == "COMPLETE"
        assert_equal_result(study, undisturbed)

    def test_a_result_that_cannot_be_told_is_told_at_the_next_start(self, undisturbed, tmp_path, monkeypatch):
        def away(*_arguments, **_options):
            raise optuna.exceptions.StorageInternalError("away")

        with monkeypatch.context() as patch, pytest.raises(StorageError):
            patch.setattr("dtme_search.search.study.lifecycle._end", away)
            patch.setattr(optuna.Study, "tell", away)
            search(tmp_path)
        heard = Heard()
        study = search(tmp_path, heard)
        assert heard.recovered == {0: "told"} and heard.started == []
        assert states(study) == ["COMPLETE"]
        assert_equal_result(study, undisturbed)


class TestMemory:
    def fits(self, most: int, monkeypatch) -> None:
        """More images at once do not fit once the network has grown."""
        forward = MultiTaskViT.forward_with_auxiliary

        def limited(model, images, *arguments):
            if model.training and model.plan is not None and len(images) > most:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return forward(model, images, *arguments)

        monkeypatch.setattr(MultiTaskViT, "forward_with_auxiliary", limited)

    def test_a_trial_goes_on_in_parts_and_says_so(self, undisturbed, tmp_path, monkeypatch):
        self.fits(2, monkeypatch)
        heard = Heard()
        study = search(tmp_path, heard)
        assert states(study) == ["COMPLETE"] and heard.stopped == []
        ((row,), (reason,)) = study.records.runs("tiny"), heard.short
        assert reason.startswith("out of memory at step 4") and "batch of 4 in 2 parts" in reason
        assert (row.batch_parts, row.reason) == (2, reason)
        rows = study.records.evaluations("tiny", 0)
        expected = undisturbed.records.evaluations("tiny", 0)
        assert [row for row in rows if row.step <= 4] == [row for row in expected if row.step <= 4]
        assert [row.step for row in rows] == [row.step for row in expected]

    def test_a_trial_that_does_not_end_has_said_so(self, tmp_path, monkeypatch):
        """Else one that was pruned would give its end to equal work, which trains with whole batches."""
        self.fits(2, monkeypatch)
        study = search(tmp_path, Heard(once("trial_evaluated", 6, ctrl_c)))
        (row,) = study.records.runs("tiny")
        assert (row.state, row.batch_parts, row.compiled) == ("interrupted", 2, False)

    @pytest.mark.slow
    def test_one_that_never_fits_fails_with_advice(self, tmp_path, monkeypatch):
        self.fits(1, monkeypatch)
        heard = Heard()
        study = search(tmp_path, heard, enqueue=[grown(), {"expansion.policy": "none"}])
        assert states(study) == ["FAIL", "COMPLETE"]
        error = study.optuna.trials[0].user_attrs["error"]
        assert (
            error.startswith("OutOfMemoryError: step 4: the memory of cpu") and "Lower train.batch" in error
        )
        row, _ = study.records.runs("tiny")
        assert row.state == "failed" and "OutOfMemoryError" in row.error


class TestDisk:
    def test_a_full_disk_stops_the_study_and_loses_nothing(self, undisturbed, tmp_path, monkeypatch):
        save, left = trainer.save_checkpoint, [3]

        def full(path, fingerprint, content):
            left[0] -= "trials" in path.parts
            if left[0] == 0:
                raise DiskFullError(f"{path}: No space left on device.")
            save(path, fingerprint, content)

        monkeypatch.setattr(trainer, "save_checkpoint", full)
        with pytest.raises(DiskFullError, match="No space left"):
            search(tmp_path)
        study = search(tmp_path)
        assert_equal_result(study, undisturbed)

    def test_a_disk_that_breaks_as_well(self, undisturbed, tmp_path, monkeypatch):
        save, left = trainer.save_checkpoint, [3]

        def broken(path, fingerprint, content):
            left[0] -= "trials" in path.parts
            if left[0] == 0:
                raise OSError(errno.EIO, "Input/output error")  # as fsync raises it: without a name
            save(path, fingerprint, content)

        monkeypatch.setattr(trainer, "save_checkpoint", broken)
        with pytest.raises(DiskFullError, match=r"tiny: Input/output error\. Look after the disk"):
            search(tmp_path)
        assert_equal_result(search(tmp_path), undisturbed)


def test_a_database_that_is_away_as_a_trial_begins_costs_nothing(undisturbed, tmp_path, monkeypatch):
    begin, left = Diary._continue, [1]

    def away(diary):
        left[0] -= 1
        if left[0] == 0:
            raise OperationalError("SELECT", {}, Exception("server closed the connection"))
        return begin(diary)

    monkeypatch.setattr(Diary, "_continue", away)
    assert_equal_result(search(tmp_path), undisturbed)


@pytest.mark.parametrize("where", ["check_same_inputs", "Prepared.present", "Prepared.loaded"])
def test_a_database_in_trouble_around_the_trials_is_told_in_one_line(tmp_path, monkeypatch, where):
    def away(*_, **__):
        raise StorageInternalError("An exception is raised during the commit.")

    monkeypatch.setattr(f"dtme_search.search.study.preparation.{where}", away)
    with pytest.raises(StorageError, match=r"study\.db: An exception is raised"):
        search(tmp_path)
