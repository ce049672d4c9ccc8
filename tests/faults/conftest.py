"""What the study of these tests is worth when nothing happens to it."""

from __future__ import annotations

import pytest
from killing import values_by_point, write

from dtme_search.search import optimize


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory) -> dict[str, list[float]]:
    """Values of every point."""
    folder = tmp_path_factory.mktemp("undisturbed")
    study = optimize(write(folder), workdir=folder / "runs", device="cpu")
    values = values_by_point(study)
    study.records.engine.dispose()
    return values


@pytest.fixture(autouse=True)
def _patience(monkeypatch):
    """Chance may kill the same trial again and again; that this makes it a failure is tested elsewhere."""
    monkeypatch.setattr("dtme_search.search.study.lifecycle.MOST_DEATHS", 10_000)
