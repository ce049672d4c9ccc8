"""A worker that would wait for what another one trains does something else first, and tells its waiting."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from filelock import FileLock
from tiny import SEARCH, grown, write_tiny_study
from watching import Heard, once

from dtme_search.search import optimize
from dtme_search.search.workspace import Workspace

CHANGES = {"tasks": {"depth": {}, "edge": {}}, "train.num_steps": 4}
LATE, LATER = grown("modulate", "none", "none"), grown("none", "expand", "none")
AT_ONCE = grown("none", "none", "expand", start=0.0)


def write(folder: Path, *points) -> str:
    return write_tiny_study(folder, CHANGES, search=SEARCH, enqueue=list(points), trials=len(points))


@pytest.fixture
def busy_trunk(tmp_path) -> FileLock:
    """A study with one trial, and its trunk in the hand of another worker that has just begun to train it."""
    optimize(write(tmp_path, LATE), workdir=tmp_path / "runs", device="cpu")
    (snapshot,) = (tmp_path / "runs" / "tiny" / "trunks").glob("*/snapshot-*.pt")
    snapshot.unlink()
    lock = FileLock(snapshot.parent / "in_use.lock", thread_local=False)  # a timer releases it
    lock.acquire()
    yield lock
    lock.release(force=True)


@pytest.mark.slow
def test_who_would_wait_for_a_trunk_trains_something_else_first(tmp_path, busy_trunk):
    heard = Heard(once("trial_completed", 2, busy_trunk.release))
    study = optimize(
        write(tmp_path, LATE, LATER, AT_ONCE), workdir=tmp_path / "runs", device="cpu", listener=heard
    )
    assert [number for number, *_ in heard.started] == [1, 2] and heard.completed == [2, 1]
    runs = study.records.runs("tiny")
    assert [run.state for run in runs] == ["complete"] * 3
    assert [run.seconds_waited for run in runs] == [0.0] * 3, "there was something to do all the time"
    assert "waited" not in study.savings().sentence()

    alone = optimize(write(tmp_path, LATER), workdir=tmp_path / "alone", device="cpu")
    assert alone.records.runs("tiny")[0].delta_m_percent == runs[1].delta_m_percent


@pytest.mark.slow
def test_who_would_wait_for_equal_work_does_so_too(tmp_path):
    folder = tmp_path / "runs"
    first = optimize(write(tmp_path, LATE), workdir=folder, device="cpu")
    (run,) = first.records.runs("tiny")
    same = optimize(write(tmp_path, LATE), workdir=tmp_path / "other", device="cpu")
    fingerprint = same.records.runs("tiny")[0].resolved_fingerprint
    assert run.resolved_fingerprint == fingerprint
    lock = FileLock(Workspace.of_study(tmp_path / "third", "tiny").work_lock(fingerprint))
    with lock:
        heard = Heard(once("trial_completed", 1, lock.release))
        study = optimize(
            write(tmp_path, LATE, AT_ONCE), workdir=tmp_path / "third", device="cpu", listener=heard
        )
    assert heard.completed == [1, 0]
    assert [run.state for run in study.records.runs("tiny")] == ["complete"] * 2


class FreesLate(Heard):
    """Frees a lock a while after it was told that somebody waits."""

    lock: FileLock

    def waiting(self, what):
        threading.Timer(1.2, self.lock.release).start()


def test_with_nothing_else_to_do_it_waits_and_says_how_long(tmp_path, busy_trunk):
    heard = FreesLate()
    heard.lock = busy_trunk
    study = optimize(write(tmp_path, LATE, LATER), workdir=tmp_path / "runs", device="cpu", listener=heard)
    waited = [run.seconds_waited for run in study.records.runs("tiny")]
    assert waited[0] == 0.0 and waited[1] >= 1.0
    assert study.savings().seconds_waited == waited[1]
    assert "Workers waited" in study.savings().sentence()
