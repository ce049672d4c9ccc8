"""Databases of earlier releases, as those releases wrote them, opened by this one.

``schemas/`` holds one for each version of the tables: a study of three trials (unexpanded, grown by
conflicts, grown by hand). Whoever raises SCHEMA_VERSION adds the database that main wrote before.
"""

import gzip
import shutil
from pathlib import Path

import pytest
from sqlalchemy import inspect, text

from dtme_search.search import load_study
from dtme_search.search.storage.tables import METADATA, SCHEMA_VERSION

SCHEMAS = sorted(Path(__file__).with_name("schemas").glob("schema-*.db.gz"))


@pytest.fixture(params=SCHEMAS, ids=lambda path: path.name.partition(".")[0])
def old_study(request, tmp_path):
    file = tmp_path / "runs" / "old" / "study.db"
    file.parent.mkdir(parents=True)
    with gzip.open(request.param) as packed, file.open("wb") as plain:
        shutil.copyfileobj(packed, plain)
    study = load_study("old", workdir=tmp_path / "runs")
    yield study
    study.records.engine.dispose()


def test_what_was_measured_is_there(old_study):
    old_study.records.create_tables()
    runs = old_study.records.runs("old")
    assert [(run.trial, run.state, run.operations) for run in runs] == [
        (0, "complete", "none none none"),
        (1, "complete", "both both none"),
        (2, "complete", "none modulate both"),
    ]
    assert runs[0].delta_m_percent == pytest.approx(-4.995980812392215)
    assert len(old_study.records.baselines()) == 4
    assert len(old_study.records.evaluations("old", 1)) == 8
    assert {row.layer for row in old_study.records.plan("old", 2)} == {1, 2}
    assert len(old_study.optuna.trials) == 3


def test_its_tables_become_those_of_today(old_study):
    old_study.records.create_tables()
    present = inspect(old_study.records.engine)
    for table in METADATA.sorted_tables:
        assert {column["name"] for column in present.get_columns(table.name)} == set(table.c.keys())
    with old_study.records.engine.connect() as connection:
        assert connection.scalar(text("SELECT version FROM dtme_schema")) == SCHEMA_VERSION


def test_there_is_a_database_of_every_version():
    versions = {int(path.name.removeprefix("schema-").partition(".")[0]) for path in SCHEMAS}
    assert versions >= set(range(3, SCHEMA_VERSION)), (
        f"SCHEMA_VERSION is {SCHEMA_VERSION}: pack a study.db that the code before wrote as "
        f"schemas/schema-{SCHEMA_VERSION - 1}.db.gz"
    )
