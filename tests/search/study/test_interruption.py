"""Stopped by a time limit, by Ctrl-C once or twice, or killed: the study ends as if nothing had happened."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from optuna.trial import FrozenTrial, TrialState
from tiny import grown, write_tiny_study
from watching import Heard, ctrl_c, once

from dtme_search.search import LoadedStudy, load_study, optimize
from dtme_search.search.trial.retries import retry_history

POINTS = [grown("none", "both", "modulate", start=0.0), grown()]
CHANGES = {
    "tasks": {"depth": {}, "edge": {}},
    "model.drop_path": 0.2,
    "train.num_evaluations": 5,
    "train.checkpoint_seconds": 0.0,
}
"""Evaluations after steps 2, 4, 6, 8 and 10, growth of the second point before step 5."""


def write(folder: Path) -> str:
    return write_tiny_study(folder, CHANGES, trials=2, enqueue=POINTS, limits={"param_overhead_percent": 2.0})


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> LoadedStudy:
    """The same two trials without any trouble."""
    folder = tmp_path_factory.mktemp("undisturbed")
    return optimize(write(folder), workdir=folder / "runs", device="cpu")


def num_artifacts(trial: FrozenTrial) -> int:
    return sum(name.startswith("artifacts:") for name in trial.system_attrs)


def assert_as_if_nothing_happened(study: LoadedStudy, undisturbed: LoadedStudy) -> None:
    """Same finished trials, same numbers, same rows; nothing twice, nothing left running or waiting."""
    trials = study.optuna.get_trials()
    finished = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    assert {trial.state for trial in trials} <= {TrialState.COMPLETE, TrialState.FAIL}
    expected = undisturbed.optuna.get_trials()
    assert len(finished) == len(expected) == 2
    runs = {run.trial: run for run in study.records.runs("tiny")}
    for one in expected:
        (other,) = [trial for trial in finished if trial.params == one.params]
        assert other.values == one.values and other.constraints == one.constraints
        for rows in ("evaluations", "conflicts", "plan"):
            mine = getattr(study.records, rows)("tiny", other.number)
            theirs = getattr(undisturbed.records, rows)("tiny", one.number)
            assert [{**vars(row), "trial": 0} for row in mine] == [
                {**vars(row), "trial": 0} for row in theirs
            ]
        run = runs[other.number]
        inside = run.seconds_train + run.seconds_evaluate + run.seconds_measure + run.seconds_checkpoint
        assert run.state == "complete" and run.seconds_total >= inside - 1e-9
        assert num_artifacts(other) == num_artifacts(one)
    for trial in trials:
        if trial.state == TrialState.FAIL:
            assert "error" not in trial.user_attrs
            assert trial.number not in runs or runs[trial.number].state == "interrupted"
            assert study.records.evaluations("tiny", trial.number) == []
    baselines = [(row.task, row.value) for row in study.records.baselines()]
    assert baselines == [(row.task, row.value) for row in undisturbed.records.baselines()]


def test_a_time_limit_leaves_a_trial_that_the_next_call_continues(undisturbed, tmp_path, monkeypatch):
    file, workdir = write(tmp_path), tmp_path / "runs"
    passed = [0.0]
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + passed[0])
    monkeypatch.setattr("dtme_search.search.stopping.time", clock)
    heard = Heard(once("trial_evaluated", 6, lambda: passed.append(passed.pop() + 3600.0)))
    study = optimize(file, workdir=workdir, device="cpu", timeout=3600.0, listener=heard)
    assert not study.stopped, "nobody pressed Ctrl-C"
    ((number, state, reason),) = heard.stopped
    assert (number, state, reason) == (0, "interrupted", "stopped at step 6 of 10")
    *_, continuation = trials = study.optuna.get_trials()
    assert (trials[number].state, continuation.state) == (TrialState.FAIL, TrialState.WAITING)
    assert continuation.params == trials[number].params and retry_history(continuation) == [number]
    assert study.records.runs("tiny")[number].state == "interrupted"
    assert (workdir / "tiny" / "trials" / f"{number:04d}" / "checkpoint.pt").is_file()

    again = Heard()
    study = optimize(file, workdir=workdir, device="cpu", listener=again)
    assert again.trained == []
    assert_as_if_nothing_happened(study, undisturbed)


@pytest.mark.parametrize("step", [2, 6, 10], ids="step{}".format)
def test_ctrl_c_once_stops_with_a_checkpoint(undisturbed, tmp_path, step):
    """Before the growth, after it, and at the last step, where the trial just ends."""
    file, workdir = write(tmp_path), tmp_path / "runs"
    heard, before = Heard(), signal.getsignal(signal.SIGINT)
    heard.act = once("trial_started", 1, lambda: setattr(heard, "act", once("trial_evaluated", step, ctrl_c)))
    study = optimize(file, workdir=workdir, device="cpu", listener=heard)
    assert study.stopped
    ended = [trial.state.name for trial in study.optuna.get_trials()]
    assert ended[:2] == ["COMPLETE", "COMPLETE" if step == 10 else "FAIL"]
    assert len(heard.started) == 2, "no further trial began"
    assert signal.getsignal(signal.SIGINT) is before, "given back"

    again = Heard()
    study = optimize(file, workdir=workdir, device="cpu", listener=again)
    assert again.trained == [] and not study.stopped
    assert_as_if_nothing_happened(study, undisturbed)


@pytest.mark.slow
def test_ctrl_c_twice_stops_at_once_and_can_be_repeated(undisturbed, tmp_path):
    file, workdir = write(tmp_path), tmp_path / "runs"

    def press_twice() -> None:
        ctrl_c()
        ctrl_c()

    moments = [("baseline_started", 2), *(("trial_evaluated", step) for step in (2, 8, 4))]
    for event, number in moments:
        with pytest.raises(KeyboardInterrupt):
            optimize(file, workdir=workdir, device="cpu", listener=Heard(once(event, number, press_twice)))
    study = load_study("tiny", workdir=workdir)
    histories = [retry_history(trial) for trial in study.optuna.get_trials(deepcopy=False)]
    assert max(histories, key=len) == [0, 2]
    assert_as_if_nothing_happened(optimize(file, workdir=workdir, device="cpu"), undisturbed)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
@pytest.mark.parametrize(
    "moments",
    [
        [("baseline_started", 2)],
        [("trial_evaluated", 8), ("trial_started", 2)],
        [("trial_completed", 1)],
    ],
    ids=["in a baseline", "in a trial, then as it would go on", "between result and database"],
)
def test_kill_9_loses_nothing(undisturbed, tmp_path, moments):
    file, workdir = write(tmp_path), tmp_path / "runs"
    for event, number in moments:
        heard = Heard(once(event, number, die))
        # Forked, because importing everything anew takes longer than the search.
        process = multiprocessing.get_context("fork").Process(
            target=optimize, args=(file,), kwargs={"workdir": workdir, "device": "cpu", "listener": heard}
        )
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL

    again = Heard()
    study = optimize(file, workdir=workdir, device="cpu", listener=again)
    where = moments[0][0]
    assert again.trained == (["edge"] if where == "baseline_started" else [])
    histories = [retry_history(trial) for trial in study.optuna.get_trials(deepcopy=False)]
    assert max(map(len, histories)) == (len(moments) if where == "trial_evaluated" else 0)
    assert again.recovered == ({1: "told"} if where == "trial_completed" else again.recovered)
    assert_as_if_nothing_happened(study, undisturbed)


@pytest.mark.slow
def test_the_command_stops_on_ctrl_c_and_goes_on(tmp_path):
    """A real process in the middle of a long trial."""
    changes = {"tasks": {"semseg": {}, "depth": {}}, "train.num_steps": 150}
    file = write_tiny_study(tmp_path, changes, trials=1, enqueue=[{"expansion.policy": "none"}])
    command = [sys.executable, "-c", "from dtme_search.cli import main; main()", "optimize", "--study", file]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[3])}

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*command, "--device", "cpu", "--workdir", str(tmp_path / "runs")],
            env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=tmp_path,
        )  # fmt: skip

    process = start()
    trial = tmp_path / "runs" / "tiny" / "trials" / "0000" / "config.yaml"
    while not trial.exists():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    text, _ = process.communicate(timeout=120)
    assert process.returncode == 130, text
    assert "trial 0: interrupted: stopped at step" in text and "Traceback" not in text

    process = start()
    text, _ = process.communicate(timeout=200)
    assert process.returncode == 0, text
    assert text.count(", known") == 2 and "trial 1: delta_m" in text and "Best: trial 1" in text
    study = load_study("tiny", workdir=tmp_path / "runs")
    assert [trial.state.name for trial in study.optuna.trials] == ["FAIL", "COMPLETE"]
    assert len(study.records.baselines()) == 2
