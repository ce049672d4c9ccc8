"""What the tables and exports of the finished study are made of."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from dtme_search.search import LoadedStudy, RunRow
from dtme_search.search.storage.rows import ConfirmationRow


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


@pytest.fixture
def confirm(study_copy: LoadedStudy) -> Callable[..., None]:
    """Say what a trial of the copied study reached with further seeds."""

    def write(number: int, values: Iterable[float]) -> None:
        for seed, value in enumerate(values, start=1):
            row = ConfirmationRow(
                trial=number, seed=seed, delta_m_percent=value, gains_percent="{}", metrics="{}",
                steps_trained=10, steps_reused=0, seconds=1.0, split="holdout", device="cpu",
                code_version="0", created_at=datetime.now(UTC),
            )  # fmt: skip
            study_copy.records.save_confirmation("tiny", row)

    return write


@pytest.fixture
def confirmed_study(study_copy: LoadedStudy, confirm: Callable[..., None]) -> LoadedStudy:
    """Trials 0 (unexpanded) and 4 trained again with three seeds: the grown one is better by two points."""
    confirm(0, (-1.1, -1.0, -0.9))
    confirm(4, (0.9, 1.1, 1.0))
    return study_copy
