"""``worker``, ``doctor`` and the table of workers as a user meets them."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from tiny import write_tiny_study

from dtme_search.cli.progress import table_of_workers
from dtme_search.search import WorkerStatus


def test_a_worker_joins_what_optimize_made(run, tmp_path):
    file = write_tiny_study(tmp_path, {"tasks": {"depth": {}}}, trials=2)
    made = run("optimize", "--study", file, "--device", "cpu", "--timeout", 0)
    assert made.code == 0 and "no trial yet" in made.out
    ran = run("worker", "--study", "tiny", "--device", "cpu")
    assert ran.code == 0, ran
    assert "baseline depth" in ran.out and "trial 1: delta_m" in ran.out
    assert "No trial of tiny is left to start." in ran.out
    assert "2 complete" in run("show", "--study", "tiny").out


def test_a_variable_that_other_commands_read_is_no_mistake_of_this_one(run, tmp_path, monkeypatch):
    monkeypatch.setenv("DTME_WARM_START_STORAGE", "sqlite:////nowhere/else.db")
    words = ("optimize", "--study", write_tiny_study(tmp_path), "--device", "cpu", "--timeout", 0)
    assert run(*words).code == 0
    refused = run(*words, "--warm-start-storage", "sqlite:////nowhere/else.db")
    assert refused.code == 2 and "--warm-start-storage needs --warm-start-from" in refused.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("worker", "--study", "tiny"), "no such database. `dtme-search optimize` starts one."),
        (("optimize", "--study", "tiny.yaml", "--workers", "2", "--device", "cuda:0"), "Use --devices."),
        (("optimize", "--study", "tiny.yaml", "--devices", "0;1"), "got '0;1'"),
        (("optimize", "--study", "tiny.yaml", "--scheduler", "tcp://a:1"), "needs --engine dask"),
        (("doctor", "--study", "tiny", "--storage", "nonsense"), ""),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(run, tmp_path, words, message):
    write_tiny_study(tmp_path)
    ran = run(*words)
    assert ran.code == 2 and message in ran.err and ran.err.count("\n") == (words[0] != "doctor")
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.yaml"]


def test_the_doctor_shows_one_screen(run, tmp_path):
    ran = run("doctor", "--study", write_tiny_study(tmp_path, reuse={"trunk_limit_gb": 0.1}))
    assert ran.code == 0, ran
    assert ran.out.count("\n") < 30
    for name in ("versions", "devices", "study", "data", "storage", "workdir", "cache", "disk"):
        assert f"\n{name} " in ran.out


def test_the_table_of_workers():
    console = Console(file=io.StringIO(), width=80)
    statuses = [
        WorkerStatus(0, "GPU 4", "training", 12, 300, 1000, 1.25, since=(0.0, 0), seen=300.0),
        WorkerStatus(1, "GPU 5", "waits for equal work", 13, starts=2),
        WorkerStatus(2, "CPU", ""),
    ]
    console.print(table_of_workers(statuses))
    header, first, second, third = console.file.getvalue().splitlines()
    assert header.split() == ["worker", "on", "trial", "step", "delta_m", "left", "doing"]
    assert first.split() == ["0", "GPU", "4", "12", "300/1000", "+1.25", "%", "11:40", "training"]
    assert "waits for equal work (start 2)" in second
    assert third.split() == ["2", "CPU", "ended"]
