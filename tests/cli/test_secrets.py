"""The password of a database shows nowhere: what is printed, logged, stored or kept in files.

The server really asks for it. Whatever is looked through, :data:`MARKER` is what must not be there; it is
part of the password however that is encoded.
"""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import threading
import time
import traceback
import urllib.request
from pathlib import Path
from typing import NamedTuple

import pytest
import sqlalchemy
from tiny import write_tiny_study

from dtme_search.cli.arguments import without_passwords
from dtme_search.reporting import Access, make_server
from dtme_search.search import Listener, load_study
from dtme_search.search.storage.database import make_engine
from dtme_search.search.study.preparation import prepare
from dtme_search.search.study.settings import Settings
from dtme_search.training.team.leader import pick_team

ROOT = Path(__file__).parents[2]
MARKER = "s3cr3t-Marker"
CHANGES = {"tasks": {"depth": {}}, "train.num_steps": 4}

pytestmark = pytest.mark.postgres


class Room(NamedTuple):
    """A folder with a study, and a database that wants a password."""

    folder: Path
    file: str
    url: str


@pytest.fixture
def room(guarded_server, tmp_path, monkeypatch) -> Room:
    url = guarded_server.new_database()
    assert MARKER in url and guarded_server.password not in url, "percent-encoded"
    monkeypatch.setenv("DTME_STORAGE", url)
    return Room(tmp_path, write_tiny_study(tmp_path, CHANGES, trials=2), url)


@pytest.fixture(autouse=True)
def _closed(monkeypatch):
    """A command leaves its connections to the end of the process; here they end with the test."""
    create, made = sqlalchemy.create_engine, []

    def note(*arguments, **options):
        made.append(create(*arguments, **options))
        return made[-1]

    for module in (sqlalchemy, sqlalchemy.engine):
        monkeypatch.setattr(module, "create_engine", note)
    yield
    for engine in made:
        engine.dispose()


def in_files(folder: Path) -> list[str]:
    """Files in which the password stands."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    return [str(path) for path in files if MARKER.encode() in path.read_bytes()]


def in_tables(url: str) -> list[str]:
    """Tables in which the password stands, in whatever column."""
    engine, found = make_engine(url), []
    with engine.connect() as connection:
        names = sqlalchemy.inspect(connection).get_table_names()
        assert {"studies", "trials", "study_user_attributes", "dtme_runs", "dtme_baselines"} <= set(names)
        for name in names:
            rows = connection.execute(sqlalchemy.text(f"SELECT t::text FROM {name} t")).scalars()
            found += [name for row in rows if MARKER in row]
    engine.dispose()
    return found


def pages(room: Room) -> str:
    """Everything that the dashboard says of the study."""
    study = load_study("tiny", workdir=room.folder / "dtme-runs")
    server = make_server(study, room.folder / "dtme-runs", Access(port=0))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        paths = ("/dashboard", "/api/meta", "/api/studies", "/api/studies/1?after=0", "/csv/1")
        places = [f"http://127.0.0.1:{server.server_port}{path}" for path in paths]
        return "".join(urllib.request.urlopen(place, timeout=60).read().decode() for place in places)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.slow
def test_commands_tell_nothing_even_when_everything_logs_everything(run, room, caplog, monkeypatch):
    """Also SQLAlchemy's own log of every statement and connection, which nobody has on by default."""
    for name in (
        "",
        "dtme_search",
        "sqlalchemy.engine",
        "sqlalchemy.pool",
        "sqlalchemy.orm",
        "psycopg",
        "alembic",
    ):
        caplog.set_level(logging.DEBUG, logger=name)
    shown = []
    for command in (
        f"optimize -v --study {room.file} --device cpu",
        f"optimize --study {room.file} --device cpu --storage {room.url} --trials 3",
        f"show --study tiny --storage {room.url}",
        "show --study tiny --format json",
        "worker -v --study tiny --device cpu",
        f"doctor --study {room.file}",
        "report --study tiny --out report.html",
        f"report --study tiny --out report.md --storage {room.url}",
        "export --study tiny --force --out best.yaml",
        "confirm --study tiny --top 1 --seeds 1 --device cpu",
        f"baseline --study {room.file} --device cpu",
        f"optimize --study {room.file} --device cpu --set train.lr=0.5",
        "show --study tinny",
    ):
        ran = run(*command.split())
        mistakes = "train.lr" in command or "tinny" in command
        assert ran.code == (2 if mistakes else 0), (command, ran)
        shown += [ran.out, ran.err]
    assert "ann:***@127.0.0.1" in "".join(shown), "a URL is shown, masked"
    assert "INSERT INTO dtme_runs" in caplog.text, "SQLAlchemy logs"
    shown += [caplog.text, pages(room)]
    assert MARKER not in "".join(shown)
    assert in_files(room.folder) == in_tables(room.url) == []
    settings = Settings(workdir=room.folder / "dtme-runs", trials=3)
    prepared = prepare(room.file, settings, pick_team("cpu"), Listener())
    things = (
        settings,
        prepared,
        prepared.loaded(),
        prepared.records,
        prepared.asking(),
        prepared.optuna._storage,
    )
    assert MARKER not in repr([*things, prepared.records.engine, prepared.records.engine.pool])


def unreachable() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.parametrize("wrong", ["password", "database", "port", "host", "option"])
def test_a_database_that_refuses_is_one_line(run, room, guarded_server, caplog, wrong):
    caplog.set_level(logging.DEBUG)
    url, name = room.url, room.url.rpartition("/")[2]
    url = {
        "password": guarded_server.url(name, f"{MARKER}-wrong"),
        "database": guarded_server.url("nowhere"),
        "port": url.replace(f":{guarded_server.port}/", f":{unreachable()}/"),
        "host": url.replace("127.0.0.1", "no-such-host.invalid"),
        "option": f"{url}?no_such_option=1",
    }[wrong]
    for command in ("optimize", "show", "worker"):
        ran = run(command, "-v", "--study", room.file if command == "optimize" else "tiny", "--storage", url)
        assert ran.code == 2 and ran.err.count("dtme-search: postgresql+psycopg://ann:***@") == 1, ran
        assert MARKER not in ran.out + ran.err + caplog.text and "Traceback" not in ran.err


def test_a_programming_error_has_a_traceback_without_values(run, room, monkeypatch):
    def broken(study: str, *, storage: str | None = None, **others: object) -> None:
        url = os.environ["DTME_STORAGE"]
        raise RuntimeError(f"nobody thought of {len(url)}")

    monkeypatch.setattr("dtme_search.search.load_study", broken)
    with pytest.raises(RuntimeError) as caught:
        run("show", "--study", "tiny", "--storage", room.url)
    told = "".join(traceback.format_exception(caught.value))
    assert "nobody thought of" in told and "in broken" in told and MARKER not in told


def test_a_failing_trial_records_a_traceback_without_values(run, room, monkeypatch):
    def broken(*arguments: object) -> None:
        url = os.environ["DTME_STORAGE"]
        raise RuntimeError(f"nobody thought of {len(url)}")

    assert run("optimize", "--study", room.file, "--device", "cpu", "--timeout", 0).code == 0
    monkeypatch.setattr("dtme_search.search.trial.objective.TrialTrunk", broken)
    ran = run("optimize", "-v", "--study", room.file, "--device", "cpu", "--set", "train.num_steps=4")
    assert ran.code == 2 and "in a row failed" in ran.err
    engine = make_engine(room.url)
    with engine.connect() as connection:
        stored = connection.scalar(sqlalchemy.text("SELECT error FROM dtme_runs LIMIT 1"))
    engine.dispose()
    assert "Traceback" in stored and "nobody thought of" in stored
    assert MARKER not in ran.out + ran.err and in_files(room.folder) == in_tables(room.url) == []


@pytest.mark.parametrize(
    ("words", "kept", "moved"),
    [
        ("show --storage sqlite:////data/study.db", None, {}),
        ("show --storage postgresql://ann@host/db -q", None, {}),
        ("show --storage", None, {}),
        ("show --storage=mysql://ann:pw@host/db -q", "show -q", {"DTME_STORAGE": "mysql://ann:pw@host/db"}),
        (
            "show --storage postgresql://h/d?PassWord=x",
            "show",
            {"DTME_STORAGE": "postgresql://h/d?PassWord=x"},
        ),
        (
            "optimize --warm-start-storage a://b:c@d/e --storage f://g:h@i/j --study s",
            "optimize --study s",
            {"DTME_WARM_START_STORAGE": "a://b:c@d/e", "DTME_STORAGE": "f://g:h@i/j"},
        ),
    ],
)
def test_what_leaves_the_command_line(words, kept, moved):
    assert without_passwords(words.split()) == ((kept or words).split(), moved)


class Watched:
    """A command in a process of its own; what others could read of it and its children meanwhile."""

    def __init__(self, folder: Path, *words: str, prefix: tuple[str, ...] = ("-m", "dtme_search")) -> None:
        environment = {name: value for name, value in os.environ.items() if name != "DTME_STORAGE"}
        self.process = subprocess.Popen(
            [sys.executable, *prefix, *words],
            env=environment | {"PYTHONPATH": str(ROOT), "COLUMNS": "200"},
            cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self._ended = threading.Event()
        self._titles: dict[int, set[str]] = {}
        self._thread = threading.Thread(target=self._watch)
        self._started = time.monotonic()
        self._thread.start()

    def _watch(self) -> None:
        while not self._ended.wait(0.05):
            known = [self.process.pid]
            for pid in known:
                try:
                    title = Path(f"/proc/{pid}/cmdline").read_text() + Path(f"/proc/{pid}/comm").read_text()
                    children = [file.read_text() for file in Path(f"/proc/{pid}/task").glob("*/children")]
                except OSError:
                    continue
                known += [int(child) for text in children for child in text.split()]
                # The shell shows the arguments for the moment that Python needs to read them.
                if time.monotonic() - self._started > 5.0 or pid != self.process.pid:
                    self._titles.setdefault(pid, set()).add(title)

    def end(self, timeout: float = 280.0) -> tuple[int, str, dict[int, set[str]]]:
        """Exit code, everything printed, and titles by process."""
        try:
            out, _ = self.process.communicate(timeout=timeout)
        finally:
            self.process.kill()
            self._ended.set()
            self._thread.join()
        return self.process.returncode, out, self._titles


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="needs /proc")
def test_real_processes_tell_nothing(room):
    """The URL after ``--storage``: two workers, one that joins, and one that dies of a programming error."""
    ran = Watched(
        room.folder, "optimize", "-v", "--study", room.file, "--device", "cpu", "--workers", "2",
        "--storage", room.url,
    )  # fmt: skip
    code, out, titles = ran.end()
    assert code == 0 and "2 complete" in out, out
    assert "--storage" in out, "the next command still says that it needs a database"
    assert len(titles) >= 3, titles
    assert MARKER not in out + str(titles)
    logs = room.folder / "dtme-runs" / "tiny" / "workers"
    assert sorted(log.name for log in logs.glob("*.log")) == ["0.log", "1.log"]
    assert logs.stat().st_mode & 0o077 == 0
    broken = (
        "from dtme_search.cli.arguments import hide_passwords; hide_passwords()  # before slow imports\n"
        "import dtme_search.search as s\n"
        "def load_study(study, *, storage=None, workdir=None):\n"
        "    url = storage\n"
        "    raise RuntimeError('nobody thought of this')\n"
        "s.load_study = load_study\n"
        "from dtme_search.cli import main; main()"
    )
    code, out, titles = Watched(
        room.folder, "show", "--study", "tiny", f"--storage={room.url}", prefix=("-c", broken)
    ).end()
    assert code == 1 and "Traceback" in out and "nobody thought of this" in out
    assert MARKER not in out + str(titles)
    assert in_files(room.folder) == in_tables(room.url) == []
