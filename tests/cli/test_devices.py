"""Trials on two devices as a user meets them: on the CPU, two processes."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import time

import pytest
import yaml
from tiny import TINY, write_tiny_study

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
    said = ran.out + ran.err
    assert ran.code == 0 and "(device 2 of 2 (cpu): loss 'greedy'" in said and "CUDA out of memory" in said, (
        ran
    )
    assert rows(tmp_path, "select state, batch_parts from dtme_runs") == [("complete", 2)]


def followers_of(process: int) -> list[str]:
    listed = subprocess.run(
        ["ps", "-eo", "ppid=,pid=,args="], capture_output=True, text=True, check=True
    ).stdout
    rows = [line.split(maxsplit=2) for line in listed.splitlines()]
    return [pid for parent, pid, words in rows if "team.follower" in words and str(process) == parent]


@pytest.mark.slow
def test_ctrl_c_saves_a_checkpoint_and_leaves_no_process(tmp_path):
    train = {**TINY["train"], "num_steps": 100_000, "accumulate": 2}
    (tmp_path / "long.yaml").write_text(yaml.safe_dump({**TINY, "train": train}))
    words = ["train", "long.yaml", "--no-baselines", *map(str, TWO)]
    command = [sys.executable, "-m", "dtme_search", *words]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        while not (found := followers_of(process.pid)):
            time.sleep(0.2)
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate()
    assert process.returncode == 130 and "run the same command again" in said.lower(), said
    assert len(list(tmp_path.glob("dtme-runs/train/long-*/checkpoint.pt"))) == 1
    ran = subprocess.run(["ps", "-o", "stat=", "-p", *found], capture_output=True, text=True, check=False)
    assert not ran.stdout.strip() or ran.stdout.startswith("Z")
