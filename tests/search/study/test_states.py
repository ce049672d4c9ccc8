"""What state a trial is in, and that a killed one is never shown as running."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from datetime import datetime, timedelta

import optuna
import pytest
from optuna.trial import TrialState, create_trial
from sqlalchemy import text
from tiny import write_tiny_study

from dtme_search.reporting import trials_table
from dtme_search.reporting.dashboard import ShownStorage
from dtme_search.search import STATES, Workspace, known_studies, optimize, put_right, trial_states
from dtme_search.search.storage.records import records_for
from dtme_search.search.storage.rows import RunRow
from dtme_search.search.storage.studies import open_storage
from dtme_search.search.study.states import counts_in_words, state_of
from dtme_search.search.trial.process import PROCESS_ATTR, Process, _begun


@pytest.fixture
def study(storage_url):
    storage = open_storage(storage_url)
    records_for(storage).create_tables()
    yield optuna.create_study(study_name="s", storage=storage)
    storage.remove_session()
    storage.engine.dispose()


@pytest.fixture
def child():
    """A process that does nothing."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    yield process
    process.kill()
    process.wait()


def of(child: subprocess.Popen) -> Process:
    return replace(Process.here(), pid=child.pid, begun=_begun(child.pid))


def in_hand(study: optuna.Study, process: Process) -> int:
    trial = study.ask()
    trial.set_user_attr(PROCESS_ATTR, process.plain())
    study._storage.record_heartbeat(trial._trial_id)
    return trial.number


def states(study: optuna.Study) -> dict[int, str]:
    return trial_states(study, study._storage._backend.engine)


class TestProcesses:
    def test_one_that_lives_is_not_gone_and_one_that_was_killed_is(self, child):
        process = Process.read(of(child).plain())
        assert not process.is_gone and not Process.here().is_gone
        child.kill()
        while _begun(child.pid) is not None:
            pass
        assert process.is_gone, "also before its parent has asked for its exit code"

    def test_a_number_that_was_given_again_is_another_process(self, child):
        assert replace(of(child), begun=1).is_gone

    @pytest.mark.parametrize("machine", ["", "another"])
    def test_of_another_machine_nothing_is_known(self, machine):
        assert not replace(Process.here(), pid=2**22 + 1, machine=machine).is_gone


class TestStates:
    def test_a_killed_trial_is_interrupted_at_once_on_its_machine(self, study, child):
        number = in_hand(study, of(child))
        assert states(study) == {number: "running"}
        child.kill()
        child.wait()
        assert states(study) == {number: "interrupted"}

    def test_elsewhere_after_three_silent_minutes(self, study):
        number = in_hand(study, replace(Process.here(), machine="another"))
        engine = study._storage._backend.engine
        for minutes, state in ((2, "running"), (4, "interrupted")):
            with engine.begin() as connection:
                now = connection.execute(text("SELECT CURRENT_TIMESTAMP")).scalar_one()
                now = now if isinstance(now, datetime) else datetime.fromisoformat(now)
                beat = {"then": now.replace(tzinfo=None) - timedelta(minutes=minutes)}
                connection.execute(text("UPDATE trial_heartbeats SET heartbeat = :then"), beat)
            assert states(study) == {number: state}

    def test_every_state_of_optuna_has_a_word_and_every_word_a_state(self):
        trials = {
            "complete": create_trial(value=1.0),
            "pruned": create_trial(state=TrialState.PRUNED),
            "failed": create_trial(state=TrialState.FAIL, user_attrs={"error": "ValueError"}),
            "interrupted": create_trial(state=TrialState.FAIL),
            "running": create_trial(state=TrialState.RUNNING),
            "waiting": create_trial(state=TrialState.WAITING),
        }
        assert {word: state_of(trial, ()) for word, trial in trials.items()} == {w: w for w in STATES}
        assert {trial.state for trial in trials.values()} == set(TrialState)
        begun = create_trial(state=TrialState.WAITING, system_attrs={"retry_history": [0]})
        assert state_of(begun, ()) == "interrupted"

    def test_counts_name_each_trial_once(self):
        assert counts_in_words([], 3) == "no trial yet; 3 planned"
        words = counts_in_words([*STATES, "complete"], None)
        assert words == ("2 complete, 1 pruned, 1 failed, 1 running, 1 interrupted, 1 waiting; ? planned")


def test_a_trial_whose_process_was_killed_runs_in_no_view_and_not_in_sql(tmp_path, child):
    """Nobody has to run `optimize` for that."""
    changes = {"tasks": {"depth": {}}, "train.num_steps": 2, "train.num_evaluations": 1}
    search = {"expansion.variance_ratio": {"choices": [1.0, 2.0, 3.0]}}
    file = write_tiny_study(tmp_path, changes, search=search, trials=1)
    done = optimize(file, workdir=tmp_path / "runs", device="cpu")
    number = in_hand(done.optuna, of(child))
    done.records.save_run(RunRow(study="tiny", trial=number, state="running", fingerprint="f"))
    assert trials_table(done)["state"].tolist() == ["complete", "running"]
    child.kill()
    child.wait()
    assert trials_table(done)["state"].tolist() == ["complete", "interrupted"]
    (known,) = known_studies(workdir=tmp_path / "runs")
    assert (known.finished, known.running, known.interrupted) == (1, 0, 1)
    shown = ShownStorage(done.optuna._storage._backend).get_all_trials(done.optuna._study_id)
    assert [trial.state for trial in shown] == [TrialState.COMPLETE, TrialState.FAIL]
    found = put_right(done.optuna, Workspace.of_study(tmp_path / "runs", "tiny"), done.records)
    assert found == {number: "continued"}
    assert [run.state for run in done.records.runs("tiny")] == ["complete", "interrupted"]
    assert trials_table(done)["state"].tolist() == ["complete", "interrupted"], "one trial, two attempts"
