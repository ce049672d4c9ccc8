"""Who works on a study now: written while a process works, gone with it however it ends."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import replace

import pytest

from dtme_search.search.storage.attendance import save_worker, workers
from dtme_search.search.storage.records import records_for
from dtme_search.search.storage.studies import open_storage
from dtme_search.search.study import presence
from dtme_search.search.study.presence import at_work, present
from dtme_search.search.trial.events import tee
from dtme_search.search.trial.process import Process
from dtme_search.training import Progress


@pytest.fixture
def engine(storage_url):
    storage = open_storage(storage_url)
    records_for(storage).create_tables()
    yield storage.engine
    storage.remove_session()
    storage.engine.dispose()


def until(what, seconds: float = 20.0):
    ends = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < ends, "it never came"
        time.sleep(0.05)


def test_a_process_is_there_as_long_as_it_works_and_says_what_it_does(engine, monkeypatch):
    monkeypatch.setattr(presence, "SECONDS_BETWEEN", 0.1)
    monkeypatch.setattr(presence, "_AT_LEAST", 0.01)
    with present(engine, "s", "optimize") as told:
        (found,) = at_work(engine, "s")
        here = Process.here()
        assert (found.row.command, found.row.host, found.row.pid) == ("optimize", here.host, here.pid)
        assert found.row.doing == "starting" and 0 <= found.silent < 60
        hears = tee(told)
        hears.trial_started(3, 0, 4, {})
        hears.progress(Progress(40, 70, {}))
        until(lambda: at_work(engine, "s")[0].row.step == 40)
        row = at_work(engine, "s")[0].row
        assert (row.doing, row.total_steps) == ("trial 3", 70)
        assert at_work(engine, "other") == []
    assert at_work(engine, "s") == []


def test_who_was_killed_does_not_work_any_more_and_is_forgotten_by_the_next(engine):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    with present(engine, "s", "worker"):
        mine = at_work(engine, "s")[0].row
        begun = presence.Process.here().begun
        save_worker(engine, "s", replace(mine, worker="other", pid=child.pid, begun=begun + 1))
        child.kill()
        child.wait()
        assert [each.row.worker for each in at_work(engine, "s")] == [mine.worker]
        assert len(workers(engine, "s")) == 2
    with present(engine, "s", "worker"):
        assert len(workers(engine, "s")) == 1
