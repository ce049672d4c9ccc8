"""What the doctor finds where all is well, and each thing that can be wrong."""

from __future__ import annotations

from collections import namedtuple
from pathlib import Path

import pytest
from tiny import write_tiny_study

from dtme_search.search import can_run, doctor, examine, optimize

SPACE = namedtuple("SPACE", "total used free")


def by_name(checks) -> dict[str, doctor.Check]:
    return {check.name: check for check in checks}


def wrong(checks, name: str) -> str:
    """What was found of the one thing that is a problem."""
    assert not can_run(checks) and [check.name for check in checks if check.state == "problem"] == [name]
    return by_name(checks)[name].found


def test_a_healthy_machine_and_nothing_is_changed(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "LITTLE_GB", 0.001)
    file = write_tiny_study(tmp_path, reuse={"trunk_limit_gb": 0.001})
    checks = examine(file, workdir=tmp_path / "runs")
    assert can_run(checks) and not (tmp_path / "runs").exists()
    found = by_name(checks)
    of_machine = {
        "versions",
        "devices",
        "workdir",
        "cache",
        "temp",
        "handles",
        "disk",
        "inodes",
        "file clock",
    }
    assert of_machine | {"study", "data", "storage", "shared memory"} == found.keys()
    # How much shared memory and how many files there are is the machine's affair.
    beside = {"devices", "shared memory", "handles", "inodes"}
    assert {check.state for check in checks if check.name not in beside} == {"ok"}
    assert found["data"].found == "scenes: 20 images to train on, 4 in the hold-out"
    assert "will be created" in found["storage"].found and "will be created in" in found["workdir"].found
    assert "torch " in found["versions"].found


def test_a_study_and_its_database(storage_url, tmp_path):
    file = write_tiny_study(tmp_path, {"tasks": {"depth": {}}}, trials=1)
    first = by_name(examine(file, storage=storage_url, workdir=tmp_path))
    assert first["storage"].state == "ok"
    study = optimize(file, storage=storage_url, workdir=tmp_path, device="cpu")
    study.records.engine.dispose()
    found = by_name(examine(file, storage=storage_url, workdir=tmp_path))
    assert "study tiny with 1 trials" in found["storage"].found and " ms" in found["storage"].found
    assert ("clock" in found) == (not storage_url.startswith("sqlite"))
    assert "clock" not in found or found["clock"].found.startswith("0.")


@pytest.mark.postgres
def test_a_clock_that_is_wrong_is_a_warning(postgres_url, tmp_path, monkeypatch):
    query = "SELECT extract(epoch FROM clock_timestamp()) + 90"
    monkeypatch.setattr(doctor, "_CLOCKS", {"postgresql": query})
    monkeypatch.setattr(doctor, "SLOW_MS", 0.0)
    checks = examine(storage=postgres_url, workdir=tmp_path)
    found = by_name(checks)
    assert found["clock"].state == found["storage"].state == "warning" and can_run(checks)
    assert "no study yet" in found["storage"].found and "set the clocks" in found["clock"].found


def test_a_database_that_does_not_answer(tmp_path):
    url = "postgresql://ann:s3cret@127.0.0.1:1/studies"
    found = wrong(examine(storage=url, workdir=tmp_path), "storage")
    assert "ann:***@127.0.0.1" in found and "s3cret" not in found


def test_a_study_that_is_not_there(tmp_path):
    assert "studdy" in wrong(examine("studdy", workdir=tmp_path), "study")


def test_data_that_are_not_there(tmp_path):
    file = write_tiny_study(tmp_path, {"data.name": "nyud"}, trials=1)
    found = wrong(examine(file, data_root=str(tmp_path / "nowhere"), workdir=tmp_path), "data")
    assert "nowhere" in found


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs a folder that nobody can write")
def test_a_folder_that_cannot_be_written():
    assert "/proc cannot be written" in by_name(examine(workdir=Path("/proc/runs")))["workdir"].found


@pytest.mark.parametrize(("free_gb", "state"), [(0.1, "problem"), (3.0, "warning"), (50.0, "ok")])
def test_disk(tmp_path, monkeypatch, free_gb, state):
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: SPACE(0, 0, free_gb * 2**30))
    found = by_name(examine(workdir=tmp_path))["disk"]
    assert found.state == state and f"{free_gb:.1f} GB free" in found.found


def test_handles(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor.resource, "getrlimit", lambda _: (4096, 4096))
    assert by_name(examine(workdir=tmp_path))["handles"].state == "ok"
    monkeypatch.setattr(doctor.resource, "getrlimit", lambda _: (256, 4096))
    found = by_name(examine(workdir=tmp_path))["handles"]
    assert found.state == "warning" and "may open 256 files. Run ulimit -n 1024" in found.found
    monkeypatch.setattr(doctor.resource, "getrlimit", lambda _: (64, 64))
    assert "reads in its own process" in by_name(examine(workdir=tmp_path))["handles"].found


def test_shared_memory_is_compared_with_what_a_loader_keeps_waiting(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "SHARED_MEMORY", tmp_path)
    changes = {"data.storage": "loader", "data.loader_workers": 3}
    file = write_tiny_study(tmp_path, changes)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: SPACE(0, 0, 2**40))
    assert by_name(examine(file, workdir=tmp_path))["shared memory"].state == "ok"
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: SPACE(0, 0, 100_000))
    found = by_name(examine(file, workdir=tmp_path))["shared memory"]
    assert found.state == "warning" and "0 MB free, 3 processes of a loader want" in found.found
    assert "--shm-size" in found.found
    file = write_tiny_study(tmp_path, {"data.storage": "device"})
    assert "shared memory" not in by_name(examine(file, workdir=tmp_path))


def test_a_disk_without_room_for_files_and_one_with_another_clock(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "FEW_INODES", 2**63)
    monkeypatch.setattr(doctor, "FILE_CLOCK_SECONDS", -1.0)
    found = by_name(examine(workdir=tmp_path))
    assert "set the clocks" in found["file clock"].found and can_run(found.values())
    disk = doctor.os.statvfs(tmp_path)
    assert not disk.f_files or "more files" in found["inodes"].found


def test_no_folder_for_temporary_files(tmp_path, monkeypatch):
    def nowhere() -> str:
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setattr(doctor.tempfile, "gettempdir", nowhere)
    assert "Set TMPDIR" in wrong(examine(workdir=tmp_path), "temp")
