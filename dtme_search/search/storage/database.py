"""Database URLs and engines: drivers pinned, passwords masked, equal sessions, errors in one line."""

from __future__ import annotations

import itertools
import logging
import random
import re
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy
from optuna.exceptions import StorageInternalError
from sqlalchemy import URL, Engine, event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    IntegrityError,
    NoSuchModuleError,
    OperationalError,
    PendingRollbackError,
    SQLAlchemyError,
)

from dtme_search.errors import StorageError

_logger = logging.getLogger(__name__)

ResultT = TypeVar("ResultT")

_DRIVERS = {
    # By default SQLAlchemy 2.0 would use psycopg2 and mysqlclient, which the extras do not install.
    "postgres": "postgresql+psycopg",
    "postgresql": "postgresql+psycopg",
    "mysql": "mysql+pymysql",
    # SQLAlchemy finds out by itself that a server is MariaDB; Optuna does not know that other name.
    "mariadb": "mysql+pymysql",
    "mariadb+pymysql": "mysql+pymysql",
}
_EXTRAS = {"postgresql": "postgres", "mysql": "mysql"}
_EXAMPLE = "A URL reads postgresql://user:password@host/database or sqlite:////folder/study.db."
_DEADLOCKS = {"40P01", "40001", 1205, 1213}
"""Error numbers of PostgreSQL and MySQL; waiting too long for a lock is one of MySQL's."""
_TRIES = 8
_NETWORK_DISKS = {
    "9p",
    "afs",
    "beegfs",
    "ceph",
    "cifs",
    "fuse.sshfs",
    "glusterfs",
    "gpfs",
    "lustre",
    "nfs",
} | {
    "nfs4",
    "smb3",
    "smbfs",
}
_OF_DATABASE = (SQLAlchemyError, StorageInternalError)
DATABASE_ERRORS = (StorageError, *_OF_DATABASE)
"""What a database in trouble raises, through our own tables or through Optuna's."""
PATIENCE_SECONDS = 600.0
"""How long a server may be away before a running trial is left for the next start [ours]."""
_TRY_EVERY = 1.0
_MOUNTS = Path("/proc/self/mounts")


def parse_url(url: str) -> URL:
    """Read a database URL and pin the driver that our extras install.

    Raises:
        StorageError: If it is not a URL; nothing that may be a password is shown.

    Example:
        >>> parse_url("postgresql://ann:pw@host/studies").drivername
        'postgresql+psycopg'
    """
    try:
        parsed = sqlalchemy.make_url(url)
    except (ArgumentError, ValueError):
        raise StorageError(f"'{_only_scheme(url)}' must be a database URL. {_EXAMPLE}") from None
    if "@" in (parsed.host or ""):
        raise StorageError(
            f"'{_only_scheme(url)}' must have one @ before the host. Write an @ in a password as %40."
        )
    return parsed.set(drivername=_DRIVERS.get(parsed.drivername, parsed.drivername))


def mask_url(url: str) -> str:
    """The URL as it may be shown: every password replaced by ``***``.

    Example:
        >>> mask_url("postgresql://ann:secret@host/studies")
        'postgresql+psycopg://ann:***@host/studies'
    """
    try:
        parsed = parse_url(url)
    except StorageError:
        return _only_scheme(url)
    hidden = {name: "***" for name in parsed.query if _is_secret(name)}
    # Stars are percent-encoded in a query, which would only confuse readers of a message.
    return parsed.update_query_dict(hidden).render_as_string(hide_password=True).replace("%2A", "*")


def is_file(url: str) -> bool:
    """Whether the database is a file on one machine.

    Example:
        >>> is_file("sqlite:///study.db"), is_file("postgresql://host/studies")
        (True, False)
    """
    return parse_url(url).get_backend_name() == "sqlite"


def make_engine(url: str, *, tuned: bool = True) -> Engine:
    """Engine of a database, not yet connected, see :func:`tune`; untuned it changes nothing in a file.

    Raises:
        StorageError: If the URL is malformed, its kind unknown, or its driver missing.
    """
    parsed = parse_url(url)
    try:
        engine = sqlalchemy.create_engine(parsed, **engine_options(parsed))
    except NoSuchModuleError:
        raise StorageError(
            f"{mask_url(url)} must begin with a kind of database that SQLAlchemy knows. {_EXAMPLE}"
        ) from None
    except ImportError as error:
        extra = _EXTRAS.get(parsed.get_backend_name())
        cure = f"pip install 'dtme-search[{extra}]'" if extra else f"Install it: {error}"
        raise StorageError(f"{mask_url(url)}: the driver of this database is missing. {cure}") from None
    if tuned:
        tune(engine)
    return engine


def engine_options(url: URL) -> dict[str, Any]:
    """Options of ``create_engine``: long lock timeouts, a connect timeout, lost connections replaced."""
    if url.get_backend_name() == "sqlite":
        return {"connect_args": {"timeout": 60}}
    options: dict[str, Any] = {"pool_pre_ping": True}
    if url.get_backend_name() == "postgresql" and "connect_timeout" not in url.query:
        options["connect_args"] = {"connect_timeout": 10}
    if url.get_backend_name() == "mysql":
        # MySQL's default isolation locks the gaps between rows, so two workers that add rows block each
        # other.
        options["isolation_level"] = "READ COMMITTED"
    return options


def tune(engine: Engine) -> None:
    """Make all new connections alike, however the server is set up.

    SQLite gets a write-ahead log if the disk allows it. Servers keep time in UTC: heartbeats are compared by
    their clock, which must not jump when daylight saving time begins. MySQL refuses values that do not fit
    instead of truncating them.
    """
    if engine.dialect.name == "sqlite":
        _write_ahead(engine)
    settings = {
        "postgresql": "SET TIME ZONE 'UTC'",
        "mysql": "SET time_zone = '+00:00', sql_mode = CONCAT(@@sql_mode, ',STRICT_ALL_TABLES')",
    }.get(engine.dialect.name)
    if settings is None:
        return

    @event.listens_for(engine, "connect")
    def prepare(connection: DBAPIConnection, _record: object) -> None:
        cursor = connection.cursor()
        cursor.execute(settings)
        cursor.close()
        # PostgreSQL would undo the setting when the transaction that made it is rolled back.
        connection.commit()


def _write_ahead(engine: Engine) -> None:
    """Let readers and one writer work at the same time.

    Network disks keep the rollback journal, because the log needs memory shared by all its readers.
    """
    if not engine.url.database or _on_network_disk(Path(engine.url.database).absolute().parent):
        return

    @event.listens_for(engine, "connect")
    def switch(connection: sqlite3.Connection, _record: object) -> None:
        try:
            (mode,) = connection.execute("PRAGMA journal_mode=WAL").fetchone()
        except sqlite3.OperationalError as error:
            _logger.debug("no write-ahead log for %s: %s", engine.url.database, error)
            return
        if mode == "wal":
            # Safe with a write-ahead log: a power failure may undo the last commits but never breaks the
            # file.
            connection.execute("PRAGMA synchronous=NORMAL")


def wait_for_server(engine: Engine) -> None:
    """Let every new connection wait while the server is away: it is restarting, or the network is down.

    For engines that have been connected before: what is wrong from the start should be reported at once.
    """
    if engine.dialect.name == "sqlite":
        return
    where = mask_url(engine.url.render_as_string(hide_password=False))

    @event.listens_for(engine, "do_connect")
    def connect(dialect: Any, _record: object, arguments: Any, options: Any) -> Any:
        until = time.monotonic() + PATIENCE_SECONDS
        for attempt in itertools.count():
            try:
                return dialect.connect(*arguments, **options)
            except dialect.loaded_dbapi.OperationalError:
                if time.monotonic() >= until:
                    raise
                if attempt == 0:
                    _logger.warning(
                        "%s does not answer; trying for %.0f minutes", where, PATIENCE_SECONDS / 60
                    )
                time.sleep(_TRY_EVERY)
        return None


@contextmanager
def storage_errors(url: str) -> Iterator[None]:
    """Turn a database error into one line without passwords.

    Raises:
        StorageError: For everything that SQLAlchemy or Optuna's storage raises.
    """
    try:
        yield
    except _OF_DATABASE as error:
        # Not chained: a driver may quote the connection string, including the password.
        raise StorageError(f"{mask_url(url)}: {_cause(error, url)}.") from None


def repeated(work: Callable[[], ResultT], *, also_same_rows: bool = False) -> ResultT:
    """Run one transaction, and again if another process was in its way.

    If two transactions wait for each other, the database aborts one and asks for it to be repeated.

    Args:
        work: The whole transaction, rolled back when it raises.
        also_same_rows: Also repeat if another process wrote the same rows at the same time.
    """
    for attempt in range(1, _TRIES):
        try:
            return work()
        except (SQLAlchemyError, StorageInternalError) as error:
            if not is_lost_race(error, also_same_rows=also_same_rows):
                raise
            # A random pause, so as not to stay in step with the other process, which pauses as long.
            time.sleep(random.uniform(0.05, 0.15) * attempt)
    return work()


def is_lost_race(error: BaseException, *, also_same_rows: bool = True) -> bool:
    """Whether another process was in the way of a transaction, so that it may simply be repeated."""
    if isinstance(error, StorageInternalError) and error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, IntegrityError):
        return also_same_rows  # the other process wrote the same rows between our delete and insert
    if not isinstance(error, OperationalError):
        return False
    sign = getattr(error.orig, "sqlstate", None) or next(iter(getattr(error.orig, "args", ())), None)
    return sign in _DEADLOCKS


def _cause(error: BaseException, url: str) -> str:
    if isinstance(error, StorageInternalError) and error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, PendingRollbackError):
        return (
            "the connection to the server was lost"  # SQLAlchemy says how to program, and not what happened
        )
    if isinstance(error, DBAPIError) and error.orig is not None:
        error = error.orig
    text = " ".join(str(error).split()).rstrip(".?") or type(error).__name__
    parsed = parse_url(url)
    secrets = [parsed.password or ""] + [
        str(value) for name, value in parsed.query.items() if _is_secret(name)
    ]
    for secret in filter(None, secrets):
        text = text.replace(secret, "***")
    return text if len(text) <= 300 else text[:297] + "..."


def _only_scheme(url: str) -> str:
    """A URL that cannot be read, without anything that may be a password."""
    if not re.search(r"[:@]", url):
        return url
    return re.split(r"[:/@]", url, maxsplit=1)[0] + "://***"


def _is_secret(name: str) -> bool:
    return re.search("pass|pwd|secret|token", name, re.IGNORECASE) is not None


def _on_network_disk(folder: Path) -> bool:
    try:
        mounts = [line.split()[1:3] for line in _MOUNTS.read_text().splitlines()]
    except OSError:
        # Only Linux has this list.
        return False
    inside = [(len(point), kind) for point, kind in mounts if folder.is_relative_to(point)]
    return bool(inside) and max(inside)[1] in _NETWORK_DISKS
