"""Many processes that start a study on an empty database at the same moment."""

from __future__ import annotations

import traceback
from collections import Counter
from pathlib import Path

import optuna
import pytest
import sqlalchemy
from processes import run_together
from tiny import grown, write_tiny_study

from dtme_search.search import Listener
from dtme_search.search.storage.database import make_engine
from dtme_search.search.storage.studies import DEFINITION_ATTR, load_existing, open_storage
from dtme_search.search.storage.tables import METADATA
from dtme_search.search.study.preparation import DATA_ATTR, prepare
from dtme_search.search.study.settings import Settings
from dtme_search.training.team.leader import pick_team

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")

ENQUEUED = ["unexpanded", grown(), grown("none", "modulate", "both")]


@pytest.fixture
def file(tmp_path) -> str:
    """A small study; what its processes would import and render is there already."""
    path = write_tiny_study(tmp_path, {"tasks": {"depth": {}, "edge": {}}}, enqueue=ENQUEUED)
    begin(0, path, None, tmp_path / "warm")
    return path


def begin(number: int, file: str, url: str | None, folder: Path) -> str:
    """What ``dtme-search optimize`` does before the first trial, in a folder of its own."""
    try:
        settings = Settings(storage=url, workdir=folder / str(number))
        prepared = prepare(file, settings, pick_team("cpu"), Listener())
    except BaseException:
        return traceback.format_exc()
    prepared.optuna._storage.remove_session()
    prepared.records.engine.dispose()
    return "ready"


def check_all_is_there_once(url: str) -> None:
    engine = make_engine(url)
    with engine.connect() as connection:
        tables = set(sqlalchemy.inspect(connection).get_table_names())
        assert tables > METADATA.tables.keys() | {"studies", "trials", "alembic_version"}
        for table in ("studies", "dtme_schema", "alembic_version", "version_info"):
            assert connection.scalar(sqlalchemy.text(f"SELECT count(*) FROM {table}")) == 1, table
    engine.dispose()
    storage = open_storage(url, create=False)
    study = load_existing(storage, "tiny")
    assert {DEFINITION_ATTR, DATA_ATTR} <= study.user_attrs.keys()
    trials = study.get_trials(deepcopy=False)
    assert [trial.state for trial in trials] == [optuna.trial.TrialState.WAITING] * len(ENQUEUED)
    points = Counter(str(sorted(trial.system_attrs["fixed_params"].items())) for trial in trials)
    assert set(points.values()) == {1}, points
    storage.remove_session()
    storage.engine.dispose()


def test_a_few_processes(storage_url, file, tmp_path):
    assert run_together(begin, 4, file, storage_url, tmp_path) == ["ready"] * 4
    check_all_is_there_once(storage_url)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    "kind",
    [
        "sqlite",
        pytest.param("postgres", marks=pytest.mark.postgres),
        pytest.param("mariadb", marks=pytest.mark.mariadb),
    ],
)
def test_eight_processes_twenty_times(kind, file, tmp_path, request):
    for turn in range(20):
        if kind == "sqlite":
            url = f"sqlite:///{tmp_path / str(turn) / 'study.db'}"
        else:
            url = request.getfixturevalue(f"{kind}_server").new_database()
        assert run_together(begin, 8, file, url, tmp_path / f"turn{turn}") == ["ready"] * 8
        check_all_is_there_once(url)
