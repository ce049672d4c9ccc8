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
    assert {"versions", "devices", "study", "data", "storage", "workdir", "cache", "disk"} == found.keys()
    assert {check.state for check in checks if check.name != "devices"} == {"ok"}
    assert found["data"].found == "scenes: 20 images to train on, 4 in the hold-out"
    assert "will be made" in found["storage"].found and "will be made in" in found["workdir"].found
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
