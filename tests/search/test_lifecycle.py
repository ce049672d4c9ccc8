"""Which trials are dead, what a continuation inherits, what counts, and when a study gives up."""

from __future__ import annotations

from datetime import timedelta

import optuna
import pytest
from filelock import FileLock
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState
from sqlalchemy import text

from dtme_search.errors import TrainingError
from dtme_search.search import Workspace, lifecycle
from dtme_search.search.lifecycle import check_failures, num_finished, num_left, recover
from dtme_search.search.retries import first_number, hand_back, retry_history
from dtme_search.search.storage import open_storage

# Trials are asked for here without running them.
pytestmark = pytest.mark.filterwarnings("ignore:Heartbeat of storage:UserWarning")

GOOD = "good"
STOPPED = "stopped"
ROOM = FloatDistribution(0.0, 1.0)


@pytest.fixture
def study(tmp_path):
    storage = open_storage(f"sqlite:///{tmp_path / 'study.db'}")
    yield optuna.create_study(study_name="s", storage=storage)
    storage.remove_session()
    storage.engine.dispose()


@pytest.fixture
def workspace(tmp_path) -> Workspace:
    return Workspace.of_study(tmp_path, "s")


def begin(study: optuna.Study) -> int:
    """A trial that proposed its parameters and runs."""
    trial = study.ask()
    trial.suggest_float("x", 0.0, 1.0)
    return trial.number


def lock_of(workspace: Workspace, number: int) -> FileLock:
    workspace.trial(number).mkdir(parents=True)
    return FileLock(workspace.trial(number) / "running.lock")


def states(study: optuna.Study) -> list[TrialState]:
    return [trial.state for trial in study.get_trials(deepcopy=False)]


class TestRecover:
    def test_the_living_are_left_alone_and_the_dead_are_handed_back(self, study, workspace):
        living, dead = begin(study), begin(study)
        with lock_of(workspace, dead):
            pass
        with lock_of(workspace, living):
            assert recover(study, workspace, is_local=True) == [dead]
        assert states(study) == [TrialState.RUNNING, TrialState.FAIL, TrialState.WAITING]
        *_, continuation = study.get_trials()
        assert continuation.params == study.trials[dead].params
        assert retry_history(continuation) == [dead] and first_number(continuation) == dead

    def test_a_continuation_that_dies_keeps_the_folder_of_the_first(self, study, workspace):
        first = begin(study)
        with lock_of(workspace, first):
            pass
        assert recover(study, workspace, is_local=True) == [first]
        second = begin(study)
        assert recover(study, workspace, is_local=True) == [second]
        assert retry_history(study.trials[-1]) == [first, second] and first_number(study.trials[-1]) == first

    def test_a_trial_of_another_machine_is_left_to_its_heartbeat(self, study, workspace):
        number = begin(study)
        storage = study._storage
        storage.record_heartbeat(study.trials[number]._trial_id)
        assert recover(study, workspace, is_local=True) == [] and states(study) == [TrialState.RUNNING]
        with storage._backend.engine.begin() as connection:
            connection.execute(text("UPDATE trial_heartbeats SET heartbeat = datetime('now', '-1 hour')"))
        recover(study, workspace, is_local=True)
        assert states(study) == [TrialState.FAIL, TrialState.WAITING]
        assert num_left(study, 1) == 1

    def test_a_trial_that_died_before_its_first_parameter_is_noticed(self, study, workspace, monkeypatch):
        """At once where no other machine can be asking for it, after a while elsewhere."""
        study.enqueue_trial({"x": 0.25})
        study.ask()
        assert recover(study, workspace, is_local=False) == []
        assert recover(study, workspace, is_local=True) == [0]
        study.ask()
        monkeypatch.setattr(lifecycle, "BEGIN_WITHIN", timedelta(0))
        assert recover(study, workspace, is_local=False) == [1]
        number = begin(study)
        assert study.trials[number].params == {"x": 0.25}, "still the point that was asked for"
        assert retry_history(study.trials[number]) == [0, 1]

    def test_a_process_that_died_while_it_handed_back_leaves_one_continuation(self, study, workspace):
        number = begin(study)
        hand_back(study, number)  # and died before it told that the trial failed
        with lock_of(workspace, number):
            pass
        assert recover(study, workspace, is_local=True) == [number]
        assert states(study) == [TrialState.FAIL, TrialState.WAITING]


def test_a_continuation_inherits_the_proposal_but_not_the_result(study):
    study.enqueue_trial({"x": 0.5})
    trial = study.ask()
    trial.suggest_float("x", 0.0, 1.0)
    trial.set_user_attr("plan", "none both")
    trial.report(1.5, 0)
    trial.set_constraint("cost", 0.5)
    study._storage.set_trial_system_attr(trial._trial_id, "artifacts:1", "{}")
    study.tell(trial, state=TrialState.FAIL)
    hand_back(study, 0)
    continuation = study.trials[1]
    assert continuation.params == {"x": 0.5} and continuation.user_attrs == {"plan": "none both"}
    assert continuation.intermediate_values == {0: 1.5}
    assert continuation.system_attrs.keys() == {"fixed_params", "failed_trial", "retry_history"}
    assert study.trials[0].constraints == {"cost": 0.5}, "the old trial keeps its own"


def test_what_is_left_counts_results_pruned_and_running_trials(study):
    for state in (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.WAITING):
        study.add_trial(
            optuna.create_trial(
                state=state,
                value=1.0 if state == TrialState.COMPLETE else None,
                params={"x": 0.5},
                distributions={"x": ROOM},
            )
        )
    assert (num_finished(study), num_left(study, 8)) == (2, 6)
    study.ask()
    assert (num_finished(study), num_left(study, 8)) == (2, 5)


DIVERGED = [f"DivergedError: step {step}: the loss of '{task}'." for step, task in ((3, "a"), (12, "b"))]
MEMORY = "OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.\nmore"


@pytest.mark.parametrize(
    ("history", "stops"),
    [
        ([MEMORY, MEMORY], True),
        (DIVERGED, True),
        ([MEMORY, DIVERGED[0]], False),
        (["KeyError: 'a'", "KeyError: 'b'"], False),
        ([MEMORY], False),
        ([], False),
        ([MEMORY, GOOD, MEMORY], False),
        ([MEMORY, STOPPED, MEMORY], True),
        ([MEMORY, STOPPED, GOOD, STOPPED, MEMORY], False),
        ([MEMORY, MEMORY, GOOD], False),
        ([GOOD, DIVERGED[0], MEMORY, MEMORY], True),
    ],
)
def test_a_study_stops_after_two_failures_alike(history, stops):
    study = optuna.create_study(study_name="s")
    for entry in history:
        study.add_trial(
            optuna.create_trial(
                state=TrialState.COMPLETE if entry == GOOD else TrialState.FAIL,
                value=1.0 if entry == GOOD else None,
                user_attrs={} if entry in (GOOD, STOPPED) else {"error": entry},
            )
        )
    if not stops:
        check_failures(study, 2)
        return
    with pytest.raises(TrainingError) as caught:
        check_failures(study, 2)
    last = history[-1].splitlines()[0].rstrip(".")
    assert str(caught.value) == (
        f"study s: 2 trials in a row failed with the same cause, the last with {last}. "
        "Mend it, then run optimize again."
    )
