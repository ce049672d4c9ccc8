"""What the tables and exports of the finished study are made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from dtme_search.search import LoadedStudy, RunRow


@pytest.fixture
def edit_run(study_copy: LoadedStudy) -> Callable[..., RunRow]:
    """Change facts of a run of the copied study."""

    def edit(number: int, **facts: object) -> RunRow:
        row = next(run for run in study_copy.records.runs("tiny") if run.trial == number)
        study_copy.records.save_run(replace(row, **facts))
        return row

    return edit


@pytest.fixture
def empty_study(tmp_path) -> LoadedStudy:
    """A study that has no trial yet."""
    from tiny import write_tiny_study

    from dtme_search.search import optimize

    file = write_tiny_study(tmp_path, {"tasks": {"depth": {}}, "train.num_steps": 1}, name="empty")
    # The time is up before the first trial begins.
    return optimize(file, workdir=tmp_path / "empty-runs", device="cpu", timeout=0.0)
