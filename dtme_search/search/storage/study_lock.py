"""Lets one worker of a study at a time ask for a trial, on any machine.

Finding out whether a trial is left and starting it are two steps. If two workers did them at once, a study
would get more trials than it should.
"""

from __future__ import annotations

import hashlib
import time
from typing import Protocol, Self

from filelock import FileLock
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import SQLAlchemyError

from dtme_search.search.storage.database import storage_errors
from dtme_search.search.workspace import Workspace

_LOOK_EVERY = 0.05
"""Seconds between two tries to take the lock of a database."""


class AskingLock:
    """Held from checking whether a trial is left until that trial has a lock of its own.

    Consists of the lock of the study's folder, which distinguishes a trial that is about to start from a dead
    one, and of a lock in the database, which workers with other folders share. The system frees both when the
    process dies.

    Args:
        workspace: Folders of the study.
        engine: Its database.
        study_name: Its name.
    """

    def __init__(self, workspace: Workspace, engine: Engine, study_name: str) -> None:
        self._here = FileLock(workspace.asking_lock)
        self._everywhere = _database_lock(engine, study_name)

    @property
    def is_everywhere(self) -> bool:
        """Whether it keeps workers of other machines out as well: so on SQLite, PostgreSQL and MySQL."""
        return not isinstance(self._everywhere, _NoLock)

    def __enter__(self) -> Self:
        self._here.acquire()
        try:
            self._everywhere.acquire()
        except BaseException:
            self._here.release()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """Let the next worker ask; does nothing if the lock is not held."""
        self._everywhere.release()
        self._here.release()


class _Lock(Protocol):
    def acquire(self) -> object: ...

    def release(self) -> object: ...


def _database_lock(engine: Engine, study_name: str) -> _Lock:
    match engine.dialect.name:
        case "sqlite":
            return FileLock(f"{engine.url.database}.lock")
        case "postgresql":
            return _SessionLock(
                engine, study_name, "SELECT pg_try_advisory_lock(:key)", "SELECT pg_advisory_unlock(:key)"
            )
        case "mysql":
            return _SessionLock(
                engine,
                study_name,
                "SELECT GET_LOCK(CONCAT('dtme-search ', :key), 0)",
                "SELECT RELEASE_LOCK(CONCAT('dtme-search ', :key))",
            )
        case _:
            return _NoLock()


class _SessionLock:
    """A lock that the server frees when the connection that took it ends."""

    def __init__(self, engine: Engine, study_name: str, take: str, free: str) -> None:
        self._engine, self._take, self._free = engine, text(take), text(free)
        # MySQL's locks have one name space for the whole server.
        digest = hashlib.sha256(f"dtme-search/{engine.url.database}/{study_name}".encode()).digest()
        self._key = {"key": int.from_bytes(digest[:8], "big", signed=True)}
        self._connection: Connection | None = None

    def acquire(self) -> None:
        """Wait for the lock, however long its owner holds it.

        Raises:
            StorageError: If the database does not answer.
        """
        with storage_errors(self._engine.url.render_as_string(hide_password=False)):
            # A transaction left open while a trial is proposed would hold back the server's clean-up.
            connection = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
            try:
                while not connection.scalar(self._take, self._key):
                    time.sleep(_LOOK_EVERY)
            except BaseException:
                connection.close()
                raise
        self._connection = connection

    def release(self) -> None:
        if self._connection is None:
            return
        connection, self._connection = self._connection, None
        try:
            connection.scalar(self._free, self._key)
            connection.close()
        except SQLAlchemyError:
            connection.invalidate()  # the server or the connection is gone, and the lock with it


class _NoLock:
    def acquire(self) -> None:
        """Other kinds of databases have only the lock of the folder."""

    def release(self) -> None:
        """Nothing to do."""
