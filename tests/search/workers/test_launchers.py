"""What every launcher of workers does, whatever runs them: the suite that a new engine must pass."""

import logging
import signal
import time
from types import SimpleNamespace

import pytest
from children import Children

from dtme_search.search.workers import dask_workers
from dtme_search.search.workers.engines import engine_for
from dtme_search.search.workspace import Workspace


def until(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.05)


@pytest.fixture
def study(tmp_path):
    """What a launcher reads of a prepared study."""
    workspace = Workspace.of_study(tmp_path / "runs", "s")
    data = SimpleNamespace(root=None)
    return SimpleNamespace(
        config=SimpleNamespace(name="s"),
        callbacks=(),
        workspace=workspace,
        url=f"sqlite:///{tmp_path / 'study.db'}",
        base=SimpleNamespace(data=data),
        shelf=SimpleNamespace(team=SimpleNamespace(size=1)),
    )


@pytest.fixture
def local(study, tmp_path, monkeypatch):
    children = Children(tmp_path, monkeypatch)
    with engine_for("local", None, 2, None, 1, "cpu").launcher(study, 2) as launcher:
        yield launcher, children


@pytest.fixture(scope="module")
def cluster():
    distributed = pytest.importorskip("dask.distributed")
    here = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0", "silence_logs": logging.CRITICAL}
    nannies = {
        index: {"cls": distributed.Nanny, "options": here | {"nthreads": 1, "memory_limit": 0}}
        for index in range(2)
    }
    scheduler = {"host": "127.0.0.1", "dashboard": False, "dashboard_address": "127.0.0.1:0"}
    with distributed.SpecCluster(
        nannies, {"cls": distributed.Scheduler, "options": scheduler}, silence_logs=logging.CRITICAL
    ) as made:
        yield made


@pytest.fixture
def dask(cluster, study, tmp_path, monkeypatch):
    from dask.distributed import Client

    monkeypatch.setattr(dask_workers, "BEAT_EVERY", 0.2)
    children = Children(tmp_path)
    with Client(cluster, set_as_default=False) as client:
        client.wait_for_workers(2, timeout=60)
        client.run(exec, f"import sys; sys.executable = {str(children.script)!r}")
        engine = engine_for("dask", cluster.scheduler_address, 2, None, 1, None)
        with engine.launcher(study, 2) as launcher:
            yield launcher, children


@pytest.fixture(params=["local", pytest.param("dask", marks=pytest.mark.slow)])
def launched(request):
    return request.getfixturevalue(request.param)


def test_a_worker_is_heard_and_its_end_is_known(launched):
    launcher, children = launched
    children.will("print('one', flush=True); print('two', flush=True); sys.exit(3)")
    heard = []
    worker = launcher.start(0, heard.append)
    until(lambda: worker.ended() is not None)
    until(lambda: len(heard) == 2)
    assert [line.strip() for line in heard] == ["one", "two"]
    assert worker.ended().code == 3 and worker.ended().how
    assert worker.place and "0.log" in worker.log


def test_asking_whether_it_has_ended_does_not_wait(launched):
    launcher, children = launched
    children.will("while True: pause()")
    worker = launcher.start(0, lambda _: None)
    until(lambda: len(children.told()) == 1)
    began = time.monotonic()
    assert worker.ended() is None and time.monotonic() - began < 0.5
    worker.send(signal.SIGTERM)
    until(lambda: worker.ended() is not None)
    assert worker.ended().code == 130
    assert [child["signals"] for child in children.told()] == [[signal.SIGTERM]]
    worker.send(signal.SIGTERM)  # to nobody


def test_one_that_was_killed_says_so(launched):
    launcher, children = launched
    children.will("os.kill(os.getpid(), signal.SIGKILL)")
    worker = launcher.start(0, lambda _: None)
    until(lambda: worker.ended() is not None)
    assert worker.ended().code == -signal.SIGKILL and "SIGKILL" in worker.ended().how


def test_the_last_words_are_kept(launched):
    launcher, children = launched
    children.will("sys.stderr.write('first\\ndtme-search: the data must be there.\\n'); sys.exit(2)")
    worker = launcher.start(0, lambda _: None)
    until(lambda: worker.ended() is not None)
    assert worker.ended().last_words.endswith("the data must be there.")
    assert "0.log" in worker.log


def test_workers_are_told_apart(launched):
    launcher, children = launched
    assert launcher.num_workers == 2
    children.will("print(sys.argv, flush=True); sys.exit(0)")
    heard = {0: [], 1: []}
    workers = [launcher.start(index, heard[index].append) for index in heard]
    until(lambda: all(worker.ended() is not None for worker in workers))
    until(lambda: all(len(lines) == 1 for lines in heard.values()))
    assert len({worker.log for worker in workers}) == 2
    for child in children.told():
        # Arguments can be read by everybody on the machine; a URL may hold a password.
        assert child["env"]["DTME_STORAGE"].startswith("sqlite:///")
        assert "sqlite" not in " ".join(child["argv"])
