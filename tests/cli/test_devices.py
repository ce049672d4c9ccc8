"""Trials on two devices as a user meets them: on the CPU, two processes."""

from __future__ import annotations

import sqlite3

import pytest
from tiny import write_tiny_study

TWO = ("--device", "cpu", "--devices-per-trial", 2)
PARTS = {"train.accumulate": 2, "train.num_steps": 4}

LOSS = """
import torch
import torch.distributed as dist
from dtme_search.training.losses import LossKind

def greedy(prediction, target, setting):
    if dist.is_initialized() and dist.get_rank() == 1 and len(target) > 1:
        raise RuntimeError("CUDA out of memory. Tried to allocate 9 GiB")
    return (prediction - target).abs().mean(1)

PLUGINS = {"losses": {"greedy": LossKind(greedy, ("distance",))}}
"""


def rows(folder, query: str) -> list[tuple]:
    with sqlite3.connect(folder / "dtme-runs" / "tiny" / "study.db") as database:
        return database.execute(query).fetchall()


@pytest.mark.slow
def test_a_study_on_two_devices_shares_nothing_with_one(run, tmp_path):
    tasks = {"tasks": {"semseg": {}, "depth": {}}}
    file = write_tiny_study(tmp_path, {**tasks, **PARTS}, trials=2, search={"train.lr": {"choices": [1e-3]}})
    ran = run("optimize", "--study", file, *TWO)
    assert ran.code == 0, ran
    (one, other) = rows(tmp_path, "select device, fingerprint from dtme_runs where state = 'complete'")
    assert one == other and one[0].startswith("2 x ")
    assert rows(tmp_path, "select count(*) from dtme_baselines") == [(2,)]
    alone = run("baseline", "--study", file, "--device", "cpu")
    assert alone.code == 0 and rows(tmp_path, "select count(*) from dtme_baselines") == [(4,)]


@pytest.mark.slow
def test_a_device_out_of_memory_gets_smaller_parts(run, tmp_path):
    (tmp_path / "greedy.py").write_text(LOSS)
    changes = {"tasks": {"depth": {"loss": "greedy"}}, "plugins": [str(tmp_path / "greedy.py")], **PARTS}
    file = write_tiny_study(tmp_path, changes, trials=1, search={"train.lr": {"choices": [1e-3]}})
    ran = run("optimize", "--study", file, *TWO)
    assert ran.code == 0 and "device 2 of 2 (cpu): CUDA out of memory" in ran.out + ran.err, ran
    assert rows(tmp_path, "select state, batch_parts from dtme_runs") == [("complete", 2)]
