"""Workers of a study on a Dask cluster: a real one of several processes, made for this file."""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from children import Children
from dask.distributed import Client, Nanny, Scheduler, SpecCluster
from processes import children_of, opener
from tiny import write_tiny_study
from watching import Heard

from dtme_search.errors import ConfigError, DtmeSearchError, StorageError
from dtme_search.search import load_study, optimize
from dtme_search.search.workers import dask_engine, dask_workers, hosting
from dtme_search.search.workers import supervisor as workers
from dtme_search.search.workers.dask_workers import DaskPlace, by_value, dask_places, places_of
from dtme_search.search.workers.engines import engine_for
from dtme_search.search.workers.hosting import HostTask
from dtme_search.search.workers.process import WorkerOrder
from dtme_search.version import __version__

CHANGES = {"tasks": {"depth": {}, "edge": {}}, "train.num_steps": 4}
WAITS = "while os.getppid() == int(sys.argv[sys.argv.index('--launcher') + 1]): pause()"
"""A stand-in that runs until it is stopped, or until the Dask worker that started it is gone."""


def facts(*, gpus: float = 0, threads: int = 1, status: str = "running") -> dict:
    resources = {"GPU": gpus} if gpus else {}
    return {"host": "h", "resources": resources, "nthreads": threads, "status": status}


def order(folder: Path = Path("/runs"), **changes) -> HostTask:
    values = {"key": "k", "channel": "c", "num_gpus": 0, "num_threads": 1, "version": __version__}
    told = WorkerOrder("tiny", 0, str(folder), "postgresql://ann:marker@host/db")
    return HostTask(order=told, **{**values, "machine": None, "silence": 60.0, **changes})


class TestPlaces:
    def test_one_for_each_gpu_that_is_declared(self):
        places = dask_places({"a": facts(gpus=1), "b": facts(gpus=2.0, threads=4), "c": facts()})
        assert [(place.address, place.capacity) for place in places] == [("a", 1), ("b", 2)]

    def test_one_for_each_dask_worker_where_no_gpu_is(self):
        places = dask_places({"a": facts(threads=8), "b": facts(status="paused")})
        assert places == (DaskPlace("a", "h", 0, 8), DaskPlace("b", "h", 0, 1, is_ready=False))
        assert dask_places({}) == ()


class TestHost:
    @pytest.mark.parametrize(
        ("visible", "num_gpus", "gpus"),
        [("4", 1, ["4"]), ("GPU-a, 7", 2, ["GPU-a", "7"]), (None, 2, ["0", "1"]), ("3,4", 1, ["3"])],
    )
    def test_takes_the_gpus_that_it_sees(self, monkeypatch, visible, num_gpus, gpus):
        if visible is None:
            monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        else:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        task = order(num_gpus=num_gpus)
        assert hosting.visible_gpus(task) == gpus and hosting.trouble_here(task) is None

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"num_gpus": 2}, r"must see the 2 GPUs that its resources declare, got CUDA_VISIBLE_DEVICES=5"),
            ({"version": "9.9"}, rf"dtme-search must be version 9\.9, got {__version__}"),
            ({"machine": "another"}, "SQLite database serves one machine"),
        ],
    )
    def test_says_what_is_wrong_there(self, monkeypatch, changes, message):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")
        assert re.search(message, hosting.trouble_here(order(**changes)) or "")

    def test_travels_without_our_modules_and_without_its_password_in_sight(self, tmp_path):
        task = order(version="9.9")
        call, file = by_value(partial(hosting.trouble_here, task))
        assert "marker" not in repr([task, call, file])
        (tmp_path / "file").write_bytes(file.getvalue())
        code = (
            "import pickle, sys\n"
            "with open('file', 'rb') as file:\n"
            "    print(pickle.load(file))\n"
            "print(sorted({'torch', 'optuna', 'dtme_search.search'} & set(sys.modules)))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, text=True, capture_output=True,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])},
        )  # fmt: skip
        assert done.stdout.endswith("on all machines of the cluster.\n[]\n"), done.stderr


class TestWhatCannotBe:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("local", "tcp://a:1", None, None, 1, None), "--scheduler needs --engine dask, got tcp://a:1"),
            (("dask", "tcp://a:1", 2, ["0"], 1, None), "--devices must not be given with --scheduler"),
            (("dask", "tcp://a:1", 2, None, 2, None), "--trials-per-device must not be given .* got 2"),
            (("dask", "tcp://a:1", 2, None, 1, "cpu"), "--device must not be given with --scheduler"),
            (("dask", None, None, None, 1, "cuda:0"), "--device is for one worker of --engine local"),
        ],
    )
    def test_options_that_mean_nothing_together(self, arguments, message):
        with pytest.raises(ConfigError, match=message):
            engine_for(*arguments)

    def test_the_missing_extra_is_named(self, monkeypatch):
        monkeypatch.delitem(sys.modules, "dtme_search.search.workers.dask_engine")
        monkeypatch.setitem(sys.modules, "dask.distributed", None)
        with pytest.raises(ConfigError, match=r"pip install 'dtme-search\[dask\]'$"):
            engine_for("dask", None, 2, None, 1, "cpu")

    @pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "nowhere", "missing.json"])
    def test_a_scheduler_that_is_not_there(self, tmp_path, monkeypatch, address):
        monkeypatch.setattr(dask_engine, "ANSWER_WITHIN", 0.5)
        monkeypatch.chdir(tmp_path)
        with pytest.raises(
            ConfigError, match=rf"^--scheduler {address}: no Dask scheduler answers"
        ) as caught:
            optimize(write_tiny_study(tmp_path, CHANGES), workdir=tmp_path / "runs", engine="dask",
                     scheduler=address, workers=None)  # fmt: skip
        assert "\n" not in str(caught.value) and not (tmp_path / "runs").exists()

    def test_dask_workers_that_will_not_do(self):
        here = hosting.look_around()
        check = dask_engine._check_dask_workers
        postgres, sqlite = "postgresql://ann:marker@host/db", "sqlite:////runs/study.db"
        check({"a": here | {"machine": "far away"}, "b": here}, postgres)
        with pytest.raises(StorageError, match=r"study\.db: a SQLite file serves one machine, got .* a on"):
            check({"a": here | {"machine": "far away"}}, sqlite)
        with pytest.raises(ConfigError, match=r"Dask worker b: dtme-search must be .*, got none\. Install"):
            check({"a": here, "b": here | {"version": ""}}, sqlite)
        with pytest.raises(ConfigError, match="cannot run our code: ImportError"):
            check({"a": ImportError("no such module")}, sqlite)
        check({"a": here | {"unpinned": True}}, sqlite)
        with pytest.raises(
            ConfigError, match="each Dask worker must have its own CUDA_VISIBLE_DEVICES, got 2"
        ):
            check(dict.fromkeys("ab", here | {"unpinned": True}), sqlite)


@pytest.fixture(scope="module")
def cluster():
    """Two Dask workers: one declares GPU 4, the other, of one thread, the GPUs 6 and 7."""
    shared = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0", "memory_limit": 0,
              "silence_logs": logging.CRITICAL}  # fmt: skip
    options = [
        {"nthreads": 3, "resources": {"GPU": 1}, "env": {"CUDA_VISIBLE_DEVICES": "4"}},
        {"nthreads": 1, "resources": {"GPU": 2}, "env": {"CUDA_VISIBLE_DEVICES": "6,7"}},
    ]
    nannies = {index: {"cls": Nanny, "options": shared | each} for index, each in enumerate(options)}
    scheduler = {"host": "127.0.0.1", "dashboard": False, "dashboard_address": "127.0.0.1:0"}
    with SpecCluster(
        nannies, {"cls": Scheduler, "options": scheduler}, silence_logs=logging.CRITICAL
    ) as made:
        yield made


@pytest.fixture
def client(cluster):
    with Client(cluster, set_as_default=False) as connected:
        connected.wait_for_workers(2, timeout=60)
        yield connected


@pytest.fixture
def children(client, tmp_path, monkeypatch) -> Children:
    """Stand-ins for workers, also where a Dask worker is started again."""
    monkeypatch.setattr(dask_workers, "BEAT_EVERY", 0.2)
    found = Children(tmp_path)
    client.run(exec, f"import sys; sys.executable = {str(found.script)!r}")
    return found


@pytest.fixture
def go(cluster, tmp_path) -> Callable[..., Heard]:
    """Run a study on the cluster; gives what was heard."""

    def run(**arguments) -> Heard:
        heard = arguments.setdefault("listener", Heard())
        file = write_tiny_study(tmp_path, CHANGES, trials=8)
        given = {"workers": None, "engine": "dask", "scheduler": cluster.scheduler_address}
        optimize(file, workdir=tmp_path / "runs", **{**given, **arguments})
        return heard

    return run


def press(children: Children, count: int, presses: int = 1) -> threading.Thread:
    """Press Ctrl-C when ``count`` stand-ins run."""

    def act() -> None:
        while len(children.told()) < count:
            time.sleep(0.05)
        for _ in range(presses):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.5)

    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    return thread


class TestCluster:
    def test_every_worker_has_its_gpu_threads_and_database(self, children, go, client, cluster, tmp_path):
        database = f"sqlite:///{tmp_path / 'marker-db'}"
        children.will("time.sleep(1); sys.exit(0)")
        shown: list[str] = []

        def look(event: str, _number: int) -> None:
            if event == "workers" and not shown and len(children.told()) == 3:
                tasks = [(task, vars(task) if hasattr(task, "__dict__") else task.run_spec)
                         for task in cluster.scheduler.tasks.values()]  # fmt: skip
                logs = [client.get_events(), client.get_worker_logs(), client.get_scheduler_logs()]
                shown.append(repr([tasks, *logs]))

        heard = go(storage=database, listener=Heard(look))
        told = {child["env"]["CUDA_VISIBLE_DEVICES"]: child for child in children.told()}
        assert sorted(told) == ["4", "6", "7"]
        assert [told[gpu]["env"]["OMP_NUM_THREADS"] for gpu in sorted(told)] == ["3", "1", "1"]
        for child in told.values():
            assert child["env"]["DTME_STORAGE"] == database and "torch" not in child["modules"]
            assert "marker" not in " ".join(child["argv"]) and "--device" not in child["argv"]
        node = platform.node()
        assert {f"{node} GPU {gpu}" for gpu in told} <= heard.places
        for modules in client.run(eval, "list(__import__('sys').modules)").values():
            assert "distributed" in modules and "torch" not in modules
        assert "dtme-worker-0" in shown[0] and "marker" not in shown[0]

    def test_the_dead_are_replaced_until_it_is_no_use(self, children, go, monkeypatch):
        monkeypatch.setattr(workers, "MOST_DEATHS", 3)
        children.will("os.kill(os.getpid(), signal.SIGKILL)")
        with pytest.raises(DtmeSearchError, match=r"5 workers in a row ended before a trial .* by SIGKILL"):
            go(workers=2)
        assert len(children.told()) in (5, 6)

    def test_a_user_mistake_is_told_and_ends_the_others(self, children, go):
        children.will(
            "if number: sys.stderr.write('dtme-search: the data must be there.\\n'); sys.exit(2)\n" + WAITS
        )
        with pytest.raises(DtmeSearchError, match=r"^the data must be there\.$"):
            go(workers=2)
        assert sorted(child["signals"] for child in children.told()) == [[], [signal.SIGTERM]]

    @pytest.mark.slow
    @pytest.mark.parametrize("presses", [1, 2])
    def test_signals_reach_every_worker(self, children, go, monkeypatch, presses):
        monkeypatch.setattr(workers, "PATIENCE", 3.0)
        children.will(WAITS, patient=presses == 1)
        pressing = press(children, 3, presses)
        with contextlib.nullcontext() if presses == 1 else pytest.raises(KeyboardInterrupt):
            go()
        pressing.join()
        expected = [signal.SIGTERM, signal.SIGINT][:presses]
        assert [set(child["signals"]) for child in children.told()] == [set(expected)] * 3

    def test_who_has_no_place_waits_and_is_not_waited_for(self, children, go):
        children.will(WAITS)
        pressing = press(children, 3)
        heard = go(workers=5)
        pressing.join()
        assert "no place yet" in heard.places and len(children.told()) == 3

    def test_a_dask_worker_that_dies_is_replaced(self, children, go, client):
        children.will(WAITS)
        victims: list[int] = []

        def kill(event: str, _number: int) -> None:
            if event == "workers" and not victims and len(children.told()) == 2:
                (address,) = [place.address for place in places_of(client) if place.num_gpus == 1]
                victims.extend(client.run(os.getpid, workers=[address]).values())
                os.kill(victims[0], signal.SIGKILL)

        heard = Heard(kill)
        pressing = press(children, 3)
        go(listener=heard, workers=2)
        pressing.join()
        assert len(heard.died) == 1 and heard.died[0].startswith("with Dask worker tcp://127.0.0.1")
        assert len({child["env"]["CUDA_VISIBLE_DEVICES"] for child in children.told()}) == 3
        client.wait_for_workers(2, timeout=60)

    @pytest.mark.slow
    def test_workers_stop_when_nobody_watches_any_more(self, children, go, monkeypatch):
        """A client that hangs, or is cut off from the cluster."""
        monkeypatch.setattr(dask_workers, "SILENCE", 1.0)
        children.will(WAITS)

        ticks: list[str] = []

        def cut(event: str, _number: int) -> None:
            if event == "workers" and len(children.told()) == 2:
                ticks.append(event)
            if len(ticks) > 6:
                monkeypatch.setattr(dask_workers.Variable, "set", lambda *_, **__: None)

        pressing = press(children, 3)  # the first that replaces one
        go(listener=Heard(cut), workers=2)
        pressing.join()
        assert [signal.SIGTERM] in [child["signals"] for child in children.told()]

    def test_a_study_on_another_machine_refuses_sqlite(self, go, monkeypatch, tmp_path):
        elsewhere = SimpleNamespace(machine=lambda: "another", look_around=hosting.look_around)
        monkeypatch.setattr(dask_engine, "hosting", elsewhere)
        with pytest.raises(StorageError, match="a SQLite file serves one machine"):
            go()
        assert not (tmp_path / "runs").exists()

    def test_the_end_of_the_cluster_is_the_end(self, children, go, cluster, monkeypatch):
        """The last test of the cluster, of course."""
        monkeypatch.setattr(dask_engine, "ANSWER_WITHIN", 1.0)
        children.will(WAITS)
        closing = threading.Thread(target=cluster.close)

        def close(event: str, _number: int) -> None:
            if event == "workers" and closing.ident is None and len(children.told()) == 2:
                closing.start()

        with pytest.raises(DtmeSearchError, match=r"^the Dask scheduler of study tiny is gone\. .* resume"):
            go(listener=Heard(close), workers=2)
        closing.join()


class Command:
    """``optimize`` with two workers on a Dask cluster of this machine, as typed in a terminal of its own."""

    def __init__(self, file: str, workdir: Path) -> None:
        self.trials = workdir / "tiny" / "trials"
        words = ["optimize", "--study", file, "--workdir", str(workdir), "--engine", "dask"]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "dtme_search", *words, "--devices", "cpu", "--workers", "2"],
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3]), "COLUMNS": "200"},
            text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=workdir.parent,
            start_new_session=True,
        )  # fmt: skip

    def in_a_trial(self) -> tuple[int, int]:
        """Wait for a trial; gives its Dask worker and its trainer."""
        while self.process.poll() is None:
            for lock in self.trials.glob("*/running.lock"):
                for dask_worker in children_of(self.process.pid):
                    trainer = opener(lock, children_of(dask_worker))
                    if trainer is not None:
                        return dask_worker, trainer
            time.sleep(0.1)
        raise AssertionError(self.process.communicate()[0])

    def end(self) -> tuple[int, str]:
        """Exit code and all that was printed."""
        text, _ = self.process.communicate(timeout=250)
        return self.process.returncode, text


@pytest.fixture
def long_study(tmp_path) -> str:
    return write_tiny_study(
        tmp_path, {**CHANGES, "train.num_steps": 60, "train.num_evaluations": 4}, trials=4
    )


def wait_for_end(pid: int) -> None:
    until = time.monotonic() + 60
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < until, f"process {pid} still runs"
        time.sleep(0.1)


@pytest.mark.slow
class TestRealWorkers:
    def test_a_dask_worker_that_is_killed_costs_no_trial(self, long_study, tmp_path):
        command = Command(long_study, tmp_path / "runs")
        dask_worker, trainer = command.in_a_trial()
        os.kill(dask_worker, signal.SIGKILL)
        code, text = command.end()
        assert code == 0, text
        assert "with Dask worker" in text and "another takes its place" in text and "4 complete" in text
        assert "Traceback" not in text and "INFO" not in text, text
        study = load_study("tiny", workdir=tmp_path / "runs")
        assert set(states(study)) == {"COMPLETE", "FAIL"} and states(study).count("COMPLETE") == 4
        assert len(study.records.baselines()) == 2
        wait_for_end(trainer)

    @pytest.mark.timeout(600)
    def test_ctrl_c_and_the_death_of_the_command_stop_all_with_checkpoints(self, long_study, tmp_path):
        workdir = tmp_path / "runs"
        command = Command(long_study, workdir)
        _, trainer = command.in_a_trial()
        os.killpg(command.process.pid, signal.SIGINT)
        code, text = command.end()
        assert code == 130 and "Stopped. Run the same command again" in text, text
        assert "Traceback" not in text and not Path(f"/proc/{trainer}").exists()
        self.check_handed_back(workdir)

        command = Command(long_study, workdir)
        _, trainer = command.in_a_trial()
        command.process.kill()
        wait_for_end(trainer)
        command.end()
        self.check_handed_back(workdir)

        study = optimize(long_study, workdir=workdir, device="cpu")
        assert states(study).count("COMPLETE") == 4 and set(states(study)) == {"COMPLETE", "FAIL"}

    def check_handed_back(self, workdir: Path) -> None:
        study = load_study("tiny", workdir=workdir)
        assert "WAITING" in states(study) and "RUNNING" not in states(study)
        assert list(workdir.glob("tiny/trials/*/checkpoint.pt"))
        study.records.engine.dispose()


def states(study) -> list[str]:
    return [trial.state.name for trial in study.optuna.get_trials(deepcopy=False)]
