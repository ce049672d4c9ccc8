"""Databases to test on: a SQLite file, and real servers that the test run starts."""

from __future__ import annotations

import pytest


@pytest.fixture(
    params=[
        "sqlite",
        pytest.param("postgres", marks=pytest.mark.postgres),
        pytest.param("mariadb", marks=pytest.mark.mariadb),
    ]
)
def storage_url(request, tmp_path):
    """An empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'studies' / 'study.db'}"
    return request.getfixturevalue(f"{request.param}_url")
