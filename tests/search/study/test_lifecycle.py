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
from dtme_search.search import Workspace
from dtme_search.search.storage.records import records_for
from dtme_search.search.storage.rows import EvaluationRow, RunRow
from dtme_search.search.storage.studies import open_storage
from dtme_search.search.study import lifecycle
from dtme_search.search.study.lifecycle import check_failures, num_finished, num_left
from dtme_search.search.trial.heartbeat import silent_seconds
from dtme_search.search.trial.result import Result
from dtme_search.search.trial.retries import MOST_DEATHS, first_number, hand_back, retry_history
from dtme_search.search.trial.retries import ask as ask_for_work

GOOD = "good"
STOPPED = "stopped"
ROOM = FloatDistribution(0.0, 1.0)


@pytest.fixture
def study(tmp_path):
    storage = open_storage(f"sqlite:///{tmp_path / 'study.db'}")
    records_for(storage).create_tables()
    yield optuna.create_study(study_name="s", storage=storage)
    storage.remove_session()
    storage.engine.dispose()


@pytest.fixture
def workspace(tmp_path) -> Workspace:
    return Workspace.of_study(tmp_path, "s")


@pytest.fixture
def recover(study, workspace):
    """What becomes of the trials of dead processes."""
    records = records_for(study._storage._backend)

    def run(*, is_alone: bool = True) -> dict[int, str]:
        return lifecycle.recover(study, workspace, records, is_alone=is_alone)

    run.records = records
    return run


def ask(study: optuna.Study) -> int:
    """A trial that proposed its parameters and runs, we do not know where."""
    trial = study.ask()
    trial.suggest_float("x", 0.0, 1.0)
    return trial.number


def begin(study: optuna.Study, workspace: Workspace) -> int:
    """A trial that runs here."""
    number = ask(study)
    workspace.claim_trial(first_number(study.trials[number]), number)
    return number


def evaluate(records, number: int, step: int) -> None:
    records.save_evaluation("s", number, step, [EvaluationRow(task="t", metric="m", value=1.0)])


def states(study: optuna.Study) -> list[TrialState]:
    return [trial.state for trial in study.get_trials(deepcopy=False)]


def pass_an_hour(study: optuna.Study) -> None:
    """For the database no trial has shown life for an hour; so it is, too, when its clock is put forward."""
    with study._storage._backend.engine.begin() as connection:
        connection.execute(text("UPDATE trial_heartbeats SET heartbeat = datetime('now', '-1 hour')"))


def beat(study: optuna.Study, number: int) -> None:
    study._storage.record_heartbeat(study.trials[number]._trial_id)


class TestRecover:
    def test_the_living_are_left_alone_and_the_dead_are_handed_back(self, study, workspace, recover):
        living, dead = begin(study, workspace), begin(study, workspace)
        with FileLock(workspace.trial_lock(living)):
            assert recover() == {dead: "continued"}
        assert states(study) == [TrialState.RUNNING, TrialState.FAIL, TrialState.WAITING]
        *_, continuation = study.get_trials()
        assert continuation.params == study.trials[dead].params
        assert retry_history(continuation) == [dead] and first_number(continuation) == dead

    def test_a_trial_that_ends_while_one_looks_is_not_dead(self, study, workspace, recover, monkeypatch):
        number = begin(study, workspace)

        class LetGo(FileLock):
            """Free because its owner has just told the result."""

            def __enter__(self) -> FileLock:
                study.tell(number, 1.0)
                return super().__enter__()

        monkeypatch.setattr(lifecycle, "FileLock", LetGo)
        assert recover() == {} and states(study) == [TrialState.COMPLETE]

    def test_a_continuation_that_dies_keeps_the_folder_of_the_first(self, study, workspace, recover):
        first = begin(study, workspace)
        assert recover() == {first: "continued"}
        second = begin(study, workspace)
        assert recover() == {second: "continued"}
        assert retry_history(study.trials[-1]) == [first, second] and first_number(study.trials[-1]) == first

    def test_a_trial_of_another_machine_is_left_to_its_heartbeat(self, study, recover):
        number = ask(study)
        beat(study, number)
        assert recover(is_alone=False) == recover() == {} and states(study) == [TrialState.RUNNING]
        pass_an_hour(study)
        assert recover(is_alone=False) == {number: "continued"}
        assert states(study) == [TrialState.FAIL, TrialState.WAITING]
        assert num_left(study, 1) == 1

    def test_a_continuation_elsewhere_is_not_judged_by_the_lock_here(self, study, workspace, recover):
        first = begin(study, workspace)
        recover()
        second = ask(study)  # by a machine with a folder of its own
        beat(study, second)
        assert recover(is_alone=False) == {}
        assert retry_history(study.trials[second]) == [first]

    def test_who_lives_here_is_vouched_for_when_a_clock_jumps(self, study, workspace, recover):
        number = begin(study, workspace)
        beat(study, number)
        pass_an_hour(study)
        with FileLock(workspace.trial_lock(number)):
            assert recover() == {}
        assert silent_seconds(recover.records.engine, [study.trials[number]._trial_id])[1] < 60

    def test_a_trial_that_died_before_its_first_sign_of_life_is_noticed(self, study, recover, monkeypatch):
        """At once where no other machine can be asking for it, after a while elsewhere."""
        study.enqueue_trial({"x": 0.25})
        study.ask()
        assert recover(is_alone=False) == {}
        assert recover() == {0: "continued"}
        study.ask()
        monkeypatch.setattr("dtme_search.search.study.states.BEGIN_WITHIN", timedelta(0))
        assert recover(is_alone=False) == {1: "continued"}
        number = ask(study)
        assert study.trials[number].params == {"x": 0.25}, "still the point that was asked for"
        assert retry_history(study.trials[number]) == [0, 1]

    def test_a_process_that_died_while_it_handed_back_leaves_one_continuation(
        self, study, workspace, recover
    ):
        number = begin(study, workspace)
        hand_back(study, number)  # and died before it told that the trial failed
        assert recover() == {number: "continued"}
        assert states(study) == [TrialState.FAIL, TrialState.WAITING]

    def test_a_result_on_disk_is_told(self, study, workspace, recover):
        number = begin(study, workspace)
        row = RunRow(study="s", trial=number, state="complete", fingerprint="f", feasible=False)
        result = Result(row, {"feasible": False}, {"cost": 0.5}, (2.5,))
        result.save(workspace.result(number))
        result.write_down(optuna.Trial(study, study.trials[number]._trial_id), recover.records)
        assert recover() == {number: "told"}, "also when all but the values was told"
        (trial,) = study.trials
        assert trial.values == [2.5] and trial.constraints == {"cost": 0.5}
        assert trial.user_attrs == {"feasible": False}
        assert recover.records.runs("s") == [row]

    @pytest.mark.parametrize("content", ['{"row": 3}', "", '{"row": {"trial": 0}, "attributes": {}}'])
    def test_a_broken_result_costs_time_only(self, study, workspace, recover, content):
        number = begin(study, workspace)
        workspace.result(number).write_text(content)
        assert recover() == {number: "continued"}

    def test_a_result_of_another_trial_is_not_told(self, study, workspace, recover):
        number = begin(study, workspace)
        row = RunRow(study="s", trial=number + 7, state="complete", fingerprint="f")
        Result(row, {}, {}, (2.5,)).save(workspace.result(number))
        assert recover() == {number: "continued"}

    def test_a_trial_that_keeps_killing_its_worker_fails_in_the_end(self, study, workspace, recover):
        """Deaths at the same place count; one that came further begins anew."""
        for death in range(MOST_DEATHS - 1):
            number = begin(study, workspace)
            assert recover() == {number: "continued"}, death
        number = begin(study, workspace)
        evaluate(recover.records, number, 20)
        for death in range(MOST_DEATHS - 1):
            assert recover() == {number: "continued"}, death
            number = begin(study, workspace)
        recover.records.save_run(RunRow(study="s", trial=number, state="running", fingerprint="f"))
        assert recover() == {number: "given up"}
        assert TrialState.WAITING not in states(study)
        error = study.trials[number].user_attrs["error"]
        assert error.startswith(
            f"TrialDied: its process died {MOST_DEATHS} times after its evaluation at step 20"
        )
        assert [(run.state, run.error) for run in recover.records.runs("s")] == [("failed", error)]

    def test_a_stop_is_no_death(self, study, workspace, recover):
        for _ in range(2 * MOST_DEATHS):
            number = begin(study, workspace)
            hand_back(study, number)
            study.tell(number, state=TrialState.FAIL)
        begin(study, workspace)
        assert set(recover().values()) == {"continued"}


def test_what_a_death_right_after_the_end_left_is_removed(study, workspace, recover):
    ended, running, held = (begin(study, workspace) for _ in range(3))
    for number in (ended, running, held):
        for name in ("checkpoint.pt", "checkpoint.pt.77.partial", "result.json", "config.yaml"):
            (workspace.trial(number) / name).touch()
    study.tell(ended, 1.0)
    study.tell(held, 1.0)
    with FileLock(workspace.trial_lock(held)):
        lifecycle.tidy(study, workspace)
    assert sorted(path.name for path in workspace.trial(ended).iterdir()) == [
        "config.yaml",
        "number.txt",
        "running.lock",
    ]
    assert workspace.unfinished_trials() == {running, held}
    recover()
    lifecycle.tidy(study, workspace)
    assert running in workspace.unfinished_trials(), "its continuation will want them"


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
        "Fix the cause, then run optimize again."
    )


def test_a_trial_that_was_begun_goes_on_before_another_one_begins(study):
    """Points that wait, however many, come after it; and so do two that were begun in their order."""
    for value in (0.1, 0.2):
        study.enqueue_trial({"x": value})
    first, second = ask(study), ask(study)
    study.enqueue_trial({"x": 0.3})
    for number in (second, first):
        hand_back(study, number)
        study.tell(number, state=TrialState.FAIL)
    taken = [ask_for_work(study) for _ in range(4)]
    assert [retry_history(trial) for trial in taken] == [[second], [first], [], []]
    assert taken[2].suggest_float("x", 0.0, 1.0) == 0.3
    states = [trial.state.name for trial in study.get_trials(deepcopy=False)]
    assert states == ["FAIL", "FAIL", *["RUNNING"] * 4]
