"""Studies that are there, and nothing of a deleted one that stays."""

from __future__ import annotations

import shutil

import optuna
import pytest
from sqlalchemy import inspect, text
from tiny import write_tiny_study

from dtme_search.errors import StorageError
from dtme_search.reporting import trials_table
from dtme_search.search import delete_study, known_studies, load_study, optimize

ALONE = {"tasks": {"depth": {}}, "train.num_steps": 2, "train.num_evaluations": 1}
SEARCH = {"expansion.variance_ratio": {"choices": [1.0, 2.0, 3.0]}}


@pytest.fixture
def begun(tmp_path):
    """A study with two trials, and how to go on with it."""
    file = write_tiny_study(tmp_path, ALONE, search=SEARCH, trials=2)
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    study = optimize(file, workdir=tmp_path / "runs", storage=url, device="cpu")
    return study, {"workdir": tmp_path / "runs", "storage": url}, file


def rows_of(study, name: str = "tiny") -> dict[str, int]:
    """Own table -> rows of the study."""
    tables = [
        table
        for table in inspect(study.records.engine).get_table_names()
        if table.startswith("dtme_")
        and "study" in {column["name"] for column in inspect(study.records.engine).get_columns(table)}
    ]
    with study.records.engine.connect() as connection:
        return {
            table: connection.execute(
                text(f"SELECT count(*) FROM {table} WHERE study = :name"), {"name": name}
            ).scalar_one()
            for table in tables
        }


def test_studies_are_listed_with_how_far_they_are(begun, tmp_path):
    _, place, _ = begun
    (found,) = known_studies(**place)
    assert (found.name, found.finished, found.planned, found.running) == ("tiny", 2, 2, 0)
    assert found.size_mb > 0 and found.last_activity is not None
    assert known_studies(workdir=tmp_path / "nothing") == []


def test_a_deleted_study_leaves_no_row_and_no_file_but_its_baselines(begun):
    study, place, file = begun
    assert rows_of(study)["dtme_runs"] == 2
    baselines = len(study.records.baselines())
    delete_study("tiny", **place)
    assert set(rows_of(study).values()) == {0}
    assert not list((place["workdir"] / "tiny").glob("trials/*"))
    with pytest.raises(StorageError, match="no study"):
        load_study("tiny", **place)
    assert len(study.records.baselines()) == baselines
    optimize(file, device="cpu", trials=1, **place)


def test_a_study_in_its_own_folder_goes_with_the_folder(tmp_path):
    file = write_tiny_study(tmp_path, ALONE, search=SEARCH, trials=1)
    optimize(file, workdir=tmp_path / "runs", device="cpu")
    delete_study("tiny", workdir=tmp_path / "runs")
    assert not (tmp_path / "runs" / "tiny").exists()


def test_a_study_with_a_running_trial_is_not_deleted(begun):
    study, place, _ = begun
    study.optuna.ask()
    with pytest.raises(StorageError, match=r"none of its trials must run, got 2\. Stop its workers"):
        delete_study("tiny", **place)
    assert rows_of(study)["dtme_runs"] == 2


def test_what_optuna_deleted_does_not_come_back_in_the_next_study_of_the_name(begun):
    study, place, file = begun
    optuna.delete_study(study_name="tiny", storage=study.optuna._storage)
    again = optimize(file, device="cpu", trials=1, **place)
    assert [run.trial for run in again.records.runs("tiny")] == [0]
    assert trials_table(again)["trial"].tolist() == [0]
    assert [path.name for path in (place["workdir"] / "tiny" / "trials").iterdir()] == ["0000"]
    shutil.rmtree(place["workdir"])
