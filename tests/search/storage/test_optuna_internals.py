"""Each private name of Optuna still does what this package needs it for."""

import optuna
import pytest
from optuna.storages import RDBStorage
from sqlalchemy import select
from sqlalchemy.orm import Session

from dtme_search.search.storage import optuna_internals as internals


@pytest.fixture
def study(tmp_path):
    storage = RDBStorage(f"sqlite:///{tmp_path / 'study.db'}")
    optuna.create_study(study_name="other", storage=storage)
    study = optuna.create_study(study_name="s", storage=storage)
    yield study
    storage.engine.dispose()


def test_a_study_has_a_number_in_its_database(study):
    assert internals.id_of_study(study) == 2
    listed = internals.storage_of(study).get_all_studies()
    assert [internals.id_of_frozen_study(each) for each in listed] == [1, 2]
    assert isinstance(listed[0], internals.FrozenStudy)


def test_a_trial_is_found_by_its_number_in_the_database(study):
    asked = study.ask()
    (frozen,) = study.get_trials()
    assert internals.id_of_trial(asked) == internals.id_of_trial(frozen)
    internals.running_trial(study, internals.id_of_trial(frozen)).set_user_attr("from", "elsewhere")
    assert study.get_trials()[0].user_attrs == {"from": "elsewhere"}


def test_a_trial_beats(study):
    number = internals.id_of_trial(study.ask())
    heart = internals.heartbeats_of(study)
    heart.record_heartbeat(number)
    heart.remove_session()
    assert not heart.get_trial(number).state.is_finished()


def test_the_database_lies_behind_a_cache(study):
    backend = internals.backend_of(study)
    assert isinstance(backend, RDBStorage)
    assert isinstance(internals.storage_of(study), internals.CachedStorage)
    assert [each.study_name for each in internals.CachedStorage(backend).get_all_studies()] == ["other", "s"]


def test_attributes_of_studies_lie_in_a_table(study):
    storage = internals.storage_of(study)
    storage.set_study_system_attr(internals.id_of_study(study), "dashboard:note_ver", 3)
    table = internals.StudyAttribute
    with Session(internals.backend_of(study).engine) as session:
        query = select(table.key, table.value_json).where(table.study_id == internals.id_of_study(study))
        assert ("dashboard:note_ver", "3") in [tuple(row) for row in session.execute(query)]


def test_a_study_can_be_shown_on_another_storage(study):
    class Elsewhere:
        pass

    elsewhere = Elsewhere()
    copied = internals.with_storage(study, elsewhere)
    assert internals.storage_of(copied) is elsewhere
    assert internals.storage_of(study) is not elsewhere
