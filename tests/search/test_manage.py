"""Studies that are there, and nothing of a deleted one that stays."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from sqlalchemy import text
from tiny import write_tiny_study

from dtme_search.errors import DtmeSearchError, StorageError
from dtme_search.reporting import trials_table
from dtme_search.search import front_numbers, known_studies, load_study, optimize
from dtme_search.search.manage.leftovers import find_leftovers
from dtme_search.search.manage.removal import of_spare, of_study, of_trials
from dtme_search.search.manage.renaming import rename_study
from dtme_search.search.storage.records import records_for
from dtme_search.search.storage.removal import count_rows, delete_trials, own_tables, ownerless
from dtme_search.search.storage.removal import rename_study as rename_rows
from dtme_search.search.storage.rows import RunRow
from dtme_search.search.storage.studies import open_storage
from dtme_search.search.storage.trials import own_trials
from dtme_search.search.study.presence import present

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
    tables = [table.name for table in own_tables()]
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


def test_a_total_below_what_is_finished_is_not_what_the_study_planned(begun):
    _, place, file = begun
    assert optimize(file, device="cpu", trials=1, **place).config.trials == 2
    assert load_study("tiny", **place).config.trials == 2


def test_a_deleted_study_leaves_no_row_and_no_file_but_its_baselines(begun):
    study, place, file = begun
    assert rows_of(study)["dtme_runs"] == 2
    baselines = len(study.records.baselines())
    removal = of_study("tiny", **place)
    assert removal.rows["trials"] == removal.rows["dtme_runs"] == 2 and removal.size_mb > 0
    assert rows_of(study)["dtme_runs"] == 2, "nothing goes before it is carried out"
    removal.carry_out()
    assert set(rows_of(study).values()) == {0}
    assert not list((place["workdir"] / "tiny").glob("trials/*"))
    with pytest.raises(StorageError, match="no study"):
        load_study("tiny", **place)
    assert len(study.records.baselines()) == baselines
    optimize(file, device="cpu", trials=1, **place)


def test_a_study_in_its_own_folder_goes_with_the_folder(tmp_path):
    file = write_tiny_study(tmp_path, ALONE, search=SEARCH, trials=1)
    optimize(file, workdir=tmp_path / "runs", device="cpu")
    of_study("tiny", workdir=tmp_path / "runs").carry_out()
    assert not (tmp_path / "runs" / "tiny").exists()


def test_a_study_with_a_running_trial_is_not_deleted(begun):
    study, place, _ = begun
    trial = study.optuna.ask()
    study.optuna._storage.record_heartbeat(trial._trial_id)
    with pytest.raises(StorageError, match=r"none of its trials may be running, got 2\. Stop its workers"):
        of_study("tiny", **place)
    assert rows_of(study)["dtme_runs"] == 2


def test_what_optuna_deleted_does_not_come_back_in_the_next_study_of_the_name(begun):
    study, place, file = begun
    optuna.delete_study(study_name="tiny", storage=study.optuna._storage)
    again = optimize(file, device="cpu", trials=1, **place)
    assert [run.trial for run in again.records.runs("tiny")] == [0]
    assert trials_table(again)["trial"].tolist() == [0]
    assert [path.name for path in (place["workdir"] / "tiny" / "trials").iterdir()] == ["0000"]
    shutil.rmtree(place["workdir"])


@pytest.mark.parametrize("what", [of_study, of_spare, lambda name, **place: of_trials(name, [0], **place)])
def test_what_somebody_works_on_is_refused_in_one_line(begun, what):
    study, place, _ = begun
    with present(study.records.engine, "tiny", "optimize"), pytest.raises(StorageError) as refused:
        what("tiny", **place)
    assert "it must not be in use, got process " in str(refused.value) and "\n" not in str(refused.value)


def test_a_trial_whose_result_another_one_took_over_goes_with_it(begun):
    _, place, _ = begun
    with pytest.raises(StorageError, match=r"trial 1 took over .* of trial 0\. Delete both: --trial 0"):
        of_trials("tiny", [0], **place)
    assert of_trials("tiny", [0, 1], **place).rows["trials"] == 2


def test_a_deleted_trial_is_nowhere_and_another_one_takes_its_place(tmp_path):
    file = write_tiny_study(tmp_path, ALONE, search=SEARCH, trials=2, reuse={"equal_work": False})
    place = {"workdir": tmp_path / "runs", "storage": f"sqlite:///{tmp_path / 'shared.db'}"}
    optimize(file, device="cpu", **place)
    with pytest.raises(StorageError, match="no trial has the number 7"):
        of_trials("tiny", [7], **place)
    folder = place["workdir"] / "tiny"
    artifacts = len(list((folder / "artifacts").iterdir()))
    removal = of_trials("tiny", [0], **place)
    assert removal.rows["trials"] == removal.rows["dtme_runs"] == 1
    removal.carry_out()
    left = load_study("tiny", **place)
    assert trials_table(left)["trial"].tolist() == [1] and front_numbers(left) == {1}
    assert {run.trial for run in left.records.runs("tiny")} == {1}
    assert {row.trial for row in left.records.evaluations("tiny")} == {1}
    assert [path.name for path in (folder / "trials").iterdir()] == ["0001"]
    assert 0 < len(list((folder / "artifacts").iterdir())) < artifacts
    assert [trial.values is None for trial in left.optuna.get_trials()] == [True, False]
    with pytest.raises(StorageError, match="no trial has the number 0"):
        of_trials("tiny", [0], **place)
    again = optimize(file, device="cpu", **place)
    assert trials_table(again)["trial"].tolist() == [1, 2], "the total is reached again, numbers go on"


def test_a_renamed_study_goes_on_under_its_new_name(tmp_path):
    file = write_tiny_study(tmp_path, ALONE, search=SEARCH, trials=1)
    runs = tmp_path / "runs"
    before = optimize(file, workdir=runs, device="cpu").records.runs("tiny")
    for bad in ("tiny", "a/b", ".."):
        with pytest.raises(DtmeSearchError):
            rename_study("tiny", bad, workdir=runs)
    renamed, to_change = rename_study("tiny", "other", workdir=runs)
    assert renamed.name == "other" and to_change == file
    assert [replace(run, study="tiny") for run in renamed.records.runs("other")] == before
    assert sorted(path.name for path in runs.iterdir() if path.is_dir()) == ["other"]
    assert renamed.optuna.study_name == "other"
    Path(file).write_text(Path(file).read_text().replace("name: tiny", "name: other"))
    assert trials_table(optimize(file, workdir=runs, device="cpu", trials=2))["trial"].tolist() == [0, 1]


def test_cleaning_keeps_results_and_what_goes_on(begun):
    _, place, file = begun
    folder = place["workdir"] / "tiny"
    spare = [folder / "trunks" / "a" / "snapshot.pt", folder / "workers" / "0.log"]
    spare += [folder / "trials" / "0001" / "checkpoint.pt", folder / "trials" / "0042" / "config.yaml"]
    spare += [folder / "artifacts" / "of-nobody"]
    for path in spare:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    kept = {path for path in folder.rglob("*") if path.is_file()} - set(spare)
    of_spare("tiny", **place).carry_out()
    assert {path for path in folder.rglob("*") if path.is_file()} - set(folder.glob("work/*")) == {
        path for path in kept if path.parent.name not in ("work",)
    }
    optimize(file, device="cpu", trials=3, **place)


@pytest.fixture
def on_server(storage_url, tmp_path):
    """The tables of a study with three trials, one of them complete, on each kind of database."""
    storage = open_storage(storage_url)
    records = records_for(storage)
    records.create_tables()
    study = optuna.create_study(study_name="s", storage=storage, directions=["maximize"])
    for number in range(3):
        study.add_trial(optuna.create_trial(value=float(number), intermediate_values={1: 0.5}))
        records.save_run(RunRow(study="s", trial=number, state="complete", fingerprint=f"f{number}"))
    yield study, records
    storage.remove_session()
    storage.engine.dispose()


def test_rows_are_counted_renamed_and_removed_on_every_database(on_server):
    study, records = on_server
    engine = records.engine
    assert count_rows(engine, "s") == {"dtme_runs": 3} and count_rows(engine, "s", [1]) == {"dtme_runs": 1}
    delete_trials(engine, "s", [1, 2])
    found = optuna.load_study(study_name="s", storage=study._storage._backend)
    assert [trial.state.name for trial in found.get_trials()] == ["COMPLETE", "FAIL", "FAIL"]
    assert [trial.number for trial in own_trials(found)] == [0] and found.best_trial.number == 0
    rename_rows(engine, "s", "t")
    assert count_rows(engine, "s") == {} and count_rows(engine, "t") == {"dtme_runs": 1}
    assert optuna.get_all_study_names(study._storage._backend) == ["t"] and ownerless(engine) == {}
    optuna.delete_study(study_name="t", storage=study._storage._backend)
    assert ownerless(engine) == {"t": 1}


def test_what_nobody_owns_is_found_and_removed(begun):
    study, place, _ = begun
    assert find_leftovers(**place) == []
    ghost = replace(study.records.runs("tiny")[0], study="ghost")
    study.records.save_run(ghost)
    lost = place["workdir"] / "tiny" / "trials" / "0042" / "config.yaml"
    lost.parent.mkdir()
    lost.write_text("x")
    rows, files = find_leftovers(**place)
    assert rows.what == "leftovers of study ghost, which no longer exists" and rows.rows == {"dtme_runs": 1}
    assert list(files.files) == [lost.parent]
    with present(study.records.engine, "tiny", "optimize"):
        assert [each.what for each in find_leftovers(**place)] == [rows.what], (
            "its files may be in the making"
        )
    before = rows_of(study)
    for each in (rows, files):
        each.carry_out()
    assert find_leftovers(**place) == [] and not lost.exists() and rows_of(study) == before
