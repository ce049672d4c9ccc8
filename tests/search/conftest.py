"""Databases to test on: a SQLite file, and a real PostgreSQL that the test run starts from a wheel."""

from __future__ import annotations

import pytest


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def storage_url(request, tmp_path):
    """An empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'studies' / 'study.db'}"
    return request.getfixturevalue("postgres_url")
