"""A small finished study whose leaders tests repeat."""

from __future__ import annotations

import shutil

import pytest
from tiny import Finished, grown, write_tiny_study

from dtme_search.search import optimize

TASKS = {"depth": {}, "edge": {}}


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Finished:
    """Three trials of two tasks: unexpanded, growth by conflicts, growth by layer."""
    folder = tmp_path_factory.mktemp("small")
    enqueue = ["unexpanded", grown("none", "none", "expand"), grown("both", "modulate", "none")]
    file = write_tiny_study(folder, {"tasks": TASKS, "train.num_steps": 4}, trials=3, enqueue=enqueue)
    return Finished(optimize(file, workdir=folder / "runs", device="cpu"), folder / "runs", file)


@pytest.fixture
def place(small, tmp_path):
    """A copy of the small study; gives its workdir."""
    shutil.copytree(small.workdir, tmp_path / "runs")
    return tmp_path / "runs"
