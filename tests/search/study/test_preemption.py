"""A real worker process that is told to go in the middle of a trial, as Slurm does at preemption."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny import write_tiny_study

from dtme_search.search import load_study, optimize
from dtme_search.search.trial.retries import retry_history

STEPS = 72
CHANGES = {"tasks": {"depth": {}}, "train.num_steps": STEPS, "train.num_evaluations": 6}


def worker(workdir: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "dtme_search", "worker", "--study", "tiny", "--device", "cpu"]
    return subprocess.Popen(
        [*command, "--workdir", str(workdir)],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3]), "OMP_NUM_THREADS": "1"},
        text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


@pytest.mark.slow
def test_sigterm_hands_the_trial_to_the_next_worker(tmp_path):
    file, workdir = write_tiny_study(tmp_path, CHANGES, trials=1, enqueue=["paper"]), tmp_path / "runs"
    optimize(file, workdir=workdir, device="cpu", timeout=0.0)
    study = load_study("tiny", workdir=workdir)
    first = worker(workdir)
    while not study.records.evaluations("tiny", 0):
        assert first.poll() is None, first.communicate()
        time.sleep(0.02)
    first.send_signal(signal.SIGTERM)
    out, err = first.communicate(timeout=60)
    assert first.returncode == 130, (out, err)
    assert (
        "The study's other workers, or the next one, resume from the last checkpoint." in err
        and "Traceback" not in err
    )
    assert [trial.state.name for trial in study.optuna.trials] == ["FAIL", "WAITING"]
    assert (workdir / "tiny" / "trials" / "0000" / "checkpoint.pt").is_file()
    (stopped,) = study.records.runs("tiny")
    assert stopped.state == "interrupted"

    second = worker(workdir)
    out, err = second.communicate(timeout=200)
    assert second.returncode == 0, (out, err)
    handed_back, done = study.optuna.trials
    assert done.state.name == "COMPLETE" and retry_history(done) == [0]
    assert done.params == handed_back.params
    undisturbed = optimize(file, workdir=tmp_path / "elsewhere", device="cpu")
    expected = [(row.step, row.value, row.loss) for row in undisturbed.records.evaluations("tiny", 0)]
    found = [(row.step, row.value, row.loss) for row in study.records.evaluations("tiny", 1)]
    assert len(found) == CHANGES["train.num_evaluations"] and found == expected
    for engine in (study.records.engine, undisturbed.records.engine):
        engine.dispose()
