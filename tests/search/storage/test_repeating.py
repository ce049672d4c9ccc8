"""What a database asks to be repeated is repeated, for each kind of write, and not for ever."""

from contextlib import suppress

import optuna
import pytest
import sqlalchemy
from sqlalchemy import event
from sqlalchemy.exc import OperationalError
from test_records import BASELINE, RUN
from test_space import make_space, make_study

from dtme_search.errors import StorageError
from dtme_search.search.storage import database
from dtme_search.search.storage.database import make_engine, storage_errors
from dtme_search.search.storage.records import Records
from dtme_search.search.storage.studies import open_storage, open_study
from dtme_search.search.study.sampling import build_pruner, build_sampler

DEADLOCK = Exception(1213, "Deadlock found when trying to get lock; try restarting transaction")
LOCK_TIMEOUT = Exception(1205, "Lock wait timeout exceeded; try restarting transaction")


class Sqlstate(Exception):
    sqlstate = "40P01"  # PostgreSQL's number of a deadlock


@pytest.fixture
def storage(tmp_path, monkeypatch):
    monkeypatch.setattr(database.time, "sleep", lambda _: None)
    storage = open_storage(f"sqlite:///{tmp_path / 'study.db'}")
    Records(storage.engine).create_tables()
    yield storage
    storage.engine.dispose()


def fail(storage, times: int, reason: Exception) -> list[str]:
    """Let the next writes fail as a database in the way of another process lets them; gives what failed."""
    failed: list[str] = []

    @event.listens_for(storage.engine, "before_cursor_execute")
    def refuse(_connection, _cursor, statement, parameters, *_) -> None:
        if statement.startswith(("INSERT", "UPDATE", "DELETE")) and len(failed) < times:
            failed.append(statement)
            raise OperationalError(statement, parameters, reason)

    return failed


def opened(storage) -> optuna.Study:
    study, space = make_study(), make_space()
    sampler, pruner = build_sampler(study, 0), build_pruner(study, 4)
    return open_study(storage, study, space, sampler=sampler, pruner=pruner)


def told(study: optuna.Study) -> None:
    trial = study.ask()
    trial.set_user_attr("a", 1)
    trial.suggest_float("x", 0, 1)
    study.tell(trial.number, (0.0, 0.0))


WRITES = {
    "a study": opened,
    "a baseline": lambda storage: Records(storage.engine).save_baseline(BASELINE),
    "a run": lambda storage: Records(storage.engine).save_run(RUN),
    "a study forgotten": lambda storage: Records(storage.engine).delete_study("s"),
}


@pytest.mark.parametrize("reason", [DEADLOCK, LOCK_TIMEOUT, Sqlstate()], ids=["1213", "1205", "40P01"])
@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_a_write_that_lost_is_done_again(storage, write, reason):
    failed = fail(storage, 3, reason)
    write(storage)
    assert len(failed) == 3


def test_a_trial_is_asked_and_told_through_deadlocks(storage):
    study = opened(storage)
    failed = fail(storage, 3, DEADLOCK)
    told(study)
    assert len(failed) == 3
    assert [(trial.state.name, trial.user_attrs) for trial in study.trials] == [("COMPLETE", {"a": 1})]


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_not_for_ever(storage, write):
    fail(storage, 10_000, DEADLOCK)
    with pytest.raises(StorageError, match="Deadlock found"), storage_errors(storage.url):
        write(storage)


def test_another_error_is_told_at_once(storage):
    failed = fail(storage, 10_000, Exception(1064, "You have an error in your SQL syntax"))
    with pytest.raises(StorageError, match="SQL syntax"):
        Records(storage.engine).save_run(RUN)
    assert len(failed) == 1


@pytest.mark.postgres
def test_a_lost_connection_is_named_and_not_the_rollback_that_it_would_need(postgres_url):
    engine = make_engine(postgres_url)
    with engine.connect() as connection, engine.connect() as other:
        pid = connection.scalar(sqlalchemy.text("SELECT pg_backend_pid()"))
        other.execute(sqlalchemy.text(f"SELECT pg_terminate_backend({pid})"))
        with suppress(sqlalchemy.exc.OperationalError):
            connection.scalar(sqlalchemy.text("SELECT 1"))
        with (
            pytest.raises(StorageError, match="the server was lost"),
            storage_errors(postgres_url),
        ):
            connection.scalar(sqlalchemy.text("SELECT 1"))
    engine.dispose()
