"""Several workers of one study: where they run, how they end, and what they never do twice."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import joblib
import pytest
import sqlalchemy
from children import Children
from filelock import FileLock
from optuna.trial import TrialState
from processes import children_of, opener, run_together
from tiny import write_tiny_study
from watching import Heard, once

from dtme_search.errors import ConfigError, DtmeSearchError, StorageError
from dtme_search.search import Reporter, Workspace, join, load_study, optimize, train_baselines
from dtme_search.search.storage.database import make_engine
from dtme_search.search.storage.records import Records
from dtme_search.search.storage.study_lock import AskingLock
from dtme_search.search.trial.listener import WorkerStatus
from dtme_search.search.trial.retries import retry_history
from dtme_search.search.workers import supervisor as workers
from dtme_search.search.workers.places import places_for
from dtme_search.search.workers.wire import parse_report, repeat_news
from dtme_search.training import TrainingInterrupted

CHANGES = {"tasks": {"depth": {}, "edge": {}}, "train.num_steps": 4}
FORKS = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")


def write(folder: Path, **fields) -> str:
    return write_tiny_study(folder, CHANGES, **fields)


def finished(study) -> int:
    return len(study.optuna.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED)))


def states(study) -> list[str]:
    return [trial.state.name for trial in study.optuna.get_trials(deepcopy=False)]


class TestPlaces:
    @pytest.mark.parametrize(
        ("arguments", "gpus", "visible"),
        [
            ((None,), ["0", "1"], ["0", "1"]),
            ((None, None, 1, "cpu"), [], [""]),
            ((3,), [], ["", "", ""]),
            ((None, None, 2), ["0", "1"], ["0", "1", "0", "1"]),
            ((None, ["1"], 2), ["4", "GPU-5"], ["GPU-5", "GPU-5"]),
            ((2, ["1", "0"]), ["4", "5", "6"], ["5", "4"]),
            ((1,), ["0", "1"], ["0"]),
            ((2, ["cpu"]), ["0", "1"], ["", ""]),
            ((2, None, 1, "cpu"), ["0", "1"], ["", ""]),
        ],
    )
    def test_every_worker_gets_its_device(self, arguments, gpus, visible):
        assert [place.visible for place in places_for(*arguments, gpus=gpus)] == visible

    def test_a_worker_knows_how_many_share_its_gpu(self):
        places = places_for(3, per_device=2, gpus=["4", "5"])
        assert [place.sharers for place in places] == [2, 1, 2]
        assert places[0].environment(3, 8, {})["DTME_WORKERS_PER_GPU"] == "2"

    @pytest.mark.parametrize(("cores", "expected"), [(1, 1), (3, 3), (64, 4)])
    def test_without_a_gpu_there_is_one_per_core_but_not_too_many(self, cores, expected):
        assert len(places_for(None, gpus=[], num_cores=cores)) == expected
        assert len(places_for(None, ["cpu"], gpus=["0"], num_cores=cores)) == expected

    def test_one_worker_runs_where_device_says(self):
        assert places_for(1, None, 1, "cuda:1", gpus=["0", "1"])[0].device == "cuda:1"
        assert places_for(1, ["1"], gpus=["4", "5"])[0].device == "cuda:1"
        assert places_for(1, gpus=[])[0].device is None

    @pytest.mark.parametrize(
        ("arguments", "gpus", "message"),
        [
            ((3,), ["0", "1"], r"--workers must be at most 2 \(2 GPUs with 1 trials each\), got 3. Raise"),
            ((2, ["2"]), ["0", "1"], r"visible GPUs \(0 to 1\), got '2'"),
            ((2, ["0"]), [], "there is no GPU"),
            ((2, ["0", "0"]), ["0"], "must name each GPU once, got 0,0"),
            ((2, None, 1, "cuda:0"), ["0"], "--device is for one worker, got cuda:0 for 2"),
            ((1, ["0"], 1, "cpu"), ["0"], "cannot be combined"),
        ],
    )
    def test_what_cannot_be_is_refused(self, arguments, gpus, message):
        with pytest.raises(ConfigError, match=message):
            places_for(*arguments, gpus=gpus)

    def test_a_worker_may_have_several_gpus_for_each_trial(self):
        places = places_for(None, ["0", "2", "3", "1"], per_trial=2, gpus=["4", "5", "6", "7"])
        assert [place.visible for place in places] == ["4,6", "7,5"]
        assert [(place.device, *place.further) for place in places] == [
            ("cuda:0", "cuda:2"),
            ("cuda:3", "cuda:1"),
        ]
        assert len(places_for(None, per_device=2, per_trial=2, gpus=["0", "1", "2"])) == 2
        assert len(places_for(None, per_trial=2, gpus=[], num_cores=4)) == 2
        with pytest.raises(ConfigError, match=r"at most the number of GPUs to use, 1, got 2"):
            places_for(None, ["1"], per_trial=2, gpus=["0", "1"])

    def test_threads_are_divided_unless_the_user_did(self):
        (place, _) = places_for(2, gpus=["7", "8"])
        environment = place.environment(3, 16, {"HOME": "/h", "CUDA_VISIBLE_DEVICES": "7,8"})
        assert environment["HOME"] == "/h" and environment["CUDA_VISIBLE_DEVICES"] == "7"
        assert environment["OMP_NUM_THREADS"] == environment["MKL_NUM_THREADS"] == "5"
        assert place.environment(4, 2, {})["OMP_NUM_THREADS"] == "1"
        assert place.environment(1, 8, {"OMP_NUM_THREADS": "3"})["MKL_NUM_THREADS"] == "3"


@pytest.fixture
def children(tmp_path, monkeypatch) -> Children:
    return Children(tmp_path, monkeypatch)


class TestLauncher:
    def test_environment_is_complete_before_python_starts(self, children, tmp_path, monkeypatch):
        monkeypatch.setattr("dtme_search.search.workers.places.visible_gpus", lambda: ("4", "5"))
        monkeypatch.setattr(joblib, "cpu_count", lambda: 6)
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        children.will("sys.exit(0)")
        database = f"sqlite:///{tmp_path / 'marker-db'}"
        optimize(write(tmp_path), workdir=tmp_path / "runs", storage=database, workers=2, devices=["1", "0"])
        told = children.told()
        assert sorted(child["env"]["CUDA_VISIBLE_DEVICES"] for child in told) == ["4", "5"]
        for child in told:
            assert child["env"]["OMP_NUM_THREADS"] == "3" and "torch" not in child["modules"]
            # Arguments can be read by everybody on the machine; a URL may hold a password.
            assert child["env"]["DTME_STORAGE"] == database and "marker" not in " ".join(child["argv"])
            assert "--device" not in child["argv"]

    def test_the_dead_are_replaced_until_it_is_no_use(self, children, tmp_path, monkeypatch):
        monkeypatch.setattr(workers, "MOST_DEATHS", 3)
        children.will("print('not for us', flush=True); os.kill(os.getpid(), signal.SIGKILL)")
        with pytest.raises(DtmeSearchError, match=r"5 workers in a row ended before a trial did, .*SIGKILL"):
            optimize(write(tmp_path), workdir=tmp_path / "runs", device="cpu", workers=2)
        assert len(children.told()) in (5, 6)

    def test_a_user_mistake_is_told_and_ends_the_others(self, children, tmp_path):
        children.will(
            "if len(os.listdir(os.path.dirname(path))) > 1:\n"
            "    sys.stderr.write('dtme-search: the data must be there.\\n'); sys.exit(2)\n"
            "while True: pause()"
        )
        with pytest.raises(DtmeSearchError, match=r"^the data must be there\.$"):
            optimize(write(tmp_path), workdir=tmp_path / "runs", device="cpu", workers=2)
        assert sorted(child["signals"] for child in children.told()) == [[], [signal.SIGTERM]]

    @pytest.mark.parametrize("presses", [1, 2])
    def test_signals_reach_every_worker(self, children, tmp_path, monkeypatch, presses):
        children.will("while True: pause()", patient=presses == 1)

        def press() -> None:
            while len(children.told()) < 2:
                time.sleep(0.05)
            for _ in range(presses):
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(0.6)

        arguments = {"workdir": tmp_path / "runs", "device": "cpu", "workers": 2}
        pressing = threading.Thread(target=press)
        pressing.start()
        if presses == 1:
            assert optimize(write(tmp_path), **arguments).stopped
        else:
            monkeypatch.setattr(workers, "PATIENCE", 0.5)
            with pytest.raises(KeyboardInterrupt):
                optimize(write(tmp_path), **arguments)
        pressing.join()
        expected = [signal.SIGTERM] if presses == 1 else [signal.SIGTERM, signal.SIGINT]
        assert [child["signals"] for child in children.told()] == [expected, expected]

    def test_there_are_no_more_workers_than_trials_left(self, children, tmp_path):
        children.will("sys.exit(0)")
        optimize(write(tmp_path, trials=2), workdir=tmp_path / "runs", device="cpu", workers=5)
        assert len(children.told()) == 2

    def test_no_time_starts_nobody(self, children, tmp_path):
        children.will("sys.exit(0)")
        optimize(write(tmp_path), workdir=tmp_path / "runs", device="cpu", workers=2, timeout=0)
        assert children.told() == []

    def test_a_study_that_has_its_total_starts_nobody(self, children, tmp_path):
        children.will("sys.exit(1)")
        file, workdir = write(tmp_path, trials=1), tmp_path / "runs"
        optimize(file, workdir=workdir, device="cpu")
        optimize(file, workdir=workdir, device="cpu", workers=2)
        assert children.told() == []


class TestReports:
    def test_what_a_worker_tells_is_heard_as_if_it_were_here(self, tmp_path):
        stream, here = io.StringIO(), Heard()
        optimize(
            write(tmp_path, trials=2), workdir=tmp_path / "runs", device="cpu", listener=Reporter(stream)
        )
        status = WorkerStatus(0, "CPU")
        for moment, line in enumerate(stream.getvalue().splitlines()):
            report = parse_report(line)
            assert report is not None
            repeat_news(here, *report)
            status = status.after(*report, float(moment))
        assert here.trained == ["depth", "edge"] and here.completed == [0, 1]
        assert [number for number, *_ in here.started] == [0, 1]
        assert status == WorkerStatus(0, "CPU", doing="asking")

    def test_status_tells_how_long_the_run_takes(self):
        status = WorkerStatus(1, "GPU 0").after("trial_started", {"number": 7}, 0.0)
        for step, moment in ((10, 5.0), (30, 15.0)):
            facts = {"step": step, "total_steps": 100, "losses": {}, "note": ""}
            status = status.after("progress", facts, moment)
        assert (status.trial, status.step, status.seconds_left) == (7, 30, 35.0)
        status = status.after("trial_evaluated", {"delta_m_percent": 1.5}, 16.0)
        assert status.delta_m_percent == 1.5
        assert status.after("trial_stopped", {}, 17.0).delta_m_percent is None

    @pytest.mark.parametrize("line", ["", "loading ...", "[1]", "3", '{"a": 1}', "{"])
    def test_other_lines_are_nothing(self, line):
        assert parse_report(line) is None

    def test_a_listener_that_has_gone_disturbs_nobody(self):
        class Gone(io.StringIO):
            def flush(self) -> None:
                raise BrokenPipeError

        Reporter(Gone()).waiting("equal work")


def create(_number: int, file: str, url: str | None, workdir: Path, trials: int) -> None:
    optimize(file, storage=url, workdir=workdir, device="cpu", trials=trials, timeout=0.0)


def work(number: int, url: str, folder: Path) -> int:
    """Each worker with a folder of its own, as on machines that share only the database."""
    heard = Heard()
    join("tiny", storage=url, workdir=folder / str(number), device="cpu", listener=heard)
    return len(heard.completed)


class TestJoining:
    @pytest.mark.slow
    @FORKS
    def test_workers_finish_exactly_the_total(self, storage_url, tmp_path):
        """Also over a restart with more trials; nobody but the database knows how many are left."""
        file = write(tmp_path)
        for total in (3, 5):
            run_together(create, 1, file, storage_url, tmp_path / "runs", total)
            ran = run_together(work, 3, storage_url, tmp_path)
            assert all(isinstance(count, int) for count in ran), ran
            study = load_study("tiny", storage=storage_url, workdir=tmp_path / "runs")
            assert finished(study) == total and set(states(study)) == {"COMPLETE"}
            assert study.config.trials == total and len(study.records.baselines()) == 2
            study.records.engine.dispose()

    def test_sigterm_hands_the_trial_back(self, tmp_path):
        file, workdir = write(tmp_path, trials=2), tmp_path / "runs"
        create(0, file, None, workdir, 2)
        heard = Heard(once("trial_evaluated", 2, lambda: signal.raise_signal(signal.SIGTERM)))
        study = join("tiny", workdir=workdir, device="cpu", listener=heard)
        assert study.stopped and heard.stopped == [(0, "interrupted", "stopped at step 2 of 4")]
        assert states(study) == ["FAIL", "WAITING"]
        assert retry_history(study.optuna.trials[1]) == [0]
        study = join("tiny", workdir=workdir, device="cpu")
        assert states(study) == ["FAIL", "COMPLETE", "COMPLETE"]

    def test_an_orphan_stops_with_a_checkpoint(self, tmp_path):
        workdir = tmp_path / "runs"
        create(0, write(tmp_path, trials=2), None, workdir, 2)
        study = join("tiny", workdir=workdir, device="cpu", launcher=os.getppid() + 1)
        assert finished(study) == 0 and not study.stopped

    def test_the_config_is_that_of_the_last_optimize(self, tmp_path):
        file, workdir = write(tmp_path, trials=1), tmp_path / "runs"
        optimize(
            file, workdir=workdir, device="cpu", overrides=["train.batch_size=2"], reuse=False, timeout=0.0
        )
        Path(file).unlink()
        study = join("tiny", workdir=workdir, device="cpu")
        (run,) = study.records.runs("tiny")
        assert json.loads(run.config)["train"]["batch_size"] == 2
        assert not study.config.reuse.equal_work

    def test_what_is_not_there_is_not_made(self, tmp_path):
        with pytest.raises(StorageError, match="no such database"):
            join("tiny", workdir=tmp_path / "runs")
        assert not (tmp_path / "runs").exists()
        create(0, write(tmp_path), None, tmp_path / "runs", 1)
        with pytest.raises(StorageError, match=r"no study is named 'tinny'.*tiny"):
            join("tinny", storage=f"sqlite:///{tmp_path / 'runs' / 'tiny' / 'study.db'}", workdir=tmp_path)


class TestBaselines:
    @pytest.fixture
    def busy(self, tmp_path) -> FileLock:
        """Lock of the baseline of depth, which another worker seems to train; no baseline is known."""
        train_baselines(write(tmp_path), workdir=tmp_path / "runs", device="cpu")
        records = Records(f"sqlite:///{tmp_path / 'runs' / 'tiny' / 'study.db'}")
        (depth,) = [row.fingerprint for row in records.baselines() if row.task == "depth"]
        with records.engine.begin() as connection:
            connection.execute(sqlalchemy.text("DELETE FROM dtme_baselines"))
        records.engine.dispose()
        with FileLock(tmp_path / "runs" / "tiny" / "baselines" / depth / "running.lock") as lock:
            yield lock

    def test_one_that_is_being_trained_is_left_for_last(self, busy, tmp_path):
        heard = Heard(once("baseline_started", 2, busy.release))
        train_baselines(write(tmp_path), workdir=tmp_path / "runs", device="cpu", listener=heard)
        assert heard.trained == ["edge", "depth"]

    def test_who_waits_for_one_still_hears_sigterm(self, busy, tmp_path):
        class Waits(Heard):
            def waiting(self, what):
                assert what == "baseline depth"
                signal.raise_signal(signal.SIGTERM)

        heard = Waits()
        with pytest.raises(TrainingInterrupted, match="stopped while waiting"):
            train_baselines(write(tmp_path), workdir=tmp_path / "runs", device="cpu", listener=heard)
        assert heard.trained == ["edge"]


def hold(number: int, url: str, folder: Path, path: Path) -> None:
    """Hold the lock twenty times, alone each time."""
    engine = make_engine(url)
    lock = AskingLock(Workspace.of_study(folder / str(number), "s"), engine, "s")
    for _ in range(20):
        with lock:
            count = int(path.read_text())
            time.sleep(0.002)
            path.write_text(str(count + 1))
    engine.dispose()


def die_holding(url: str, folder: Path) -> int:
    child = os.fork()
    if child == 0:
        lock = AskingLock(Workspace.of_study(folder / "dying", "s"), make_engine(url), "s")
        lock.__enter__()
        os.kill(os.getpid(), signal.SIGKILL)
    return os.waitpid(child, 0)[1]


@FORKS
def test_one_worker_asks_at_a_time_whatever_its_folder(storage_url, tmp_path):
    if storage_url.startswith("sqlite"):
        Path(sqlalchemy.make_url(storage_url).database).parent.mkdir()
    count = tmp_path / "count"
    count.write_text("0")
    assert run_together(hold, 3, storage_url, tmp_path, count) == [None] * 3
    assert count.read_text() == "60"
    assert os.WTERMSIG(die_holding(storage_url, tmp_path)) == signal.SIGKILL
    hold(0, storage_url, tmp_path, count)
    assert count.read_text() == "80"


@pytest.mark.slow
def test_a_killed_worker_is_replaced(tmp_path):
    """The command itself, with two workers of which one is killed in the middle of a trial."""
    changes = {"tasks": {"depth": {}, "edge": {}}, "train.num_steps": 60, "train.num_evaluations": 4}
    file, workdir = write_tiny_study(tmp_path, changes, trials=4), tmp_path / "runs"
    command = [sys.executable, "-m", "dtme_search", "optimize", "--study", file, "--device", "cpu"]
    process = subprocess.Popen(
        [*command, "--workers", "2", "--workdir", str(workdir)],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3]), "COLUMNS": "200"},
        text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=tmp_path,
    )  # fmt: skip
    victim = None
    while victim is None:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.1)
        for lock in (workdir / "tiny" / "trials").glob("*/running.lock"):
            victim = victim or opener(lock, children_of(process.pid))
    os.kill(victim, signal.SIGKILL)
    text, _ = process.communicate(timeout=280)
    assert process.returncode == 0, text
    assert "killed by SIGKILL; another takes its place" in text and "4 complete" in text
    study = load_study("tiny", workdir=workdir)
    assert finished(study) == 4 and set(states(study)) == {"COMPLETE", "FAIL"}
    assert len(study.records.baselines()) == 2
    for lock in (workdir / "tiny" / "trials").glob("*/running.lock"):
        with FileLock(lock, timeout=0):
            pass
