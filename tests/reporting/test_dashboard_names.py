"""optuna-dashboard still names its attributes as this package expects."""

import optuna
from optuna_dashboard import save_note

from dtme_search.reporting.dashboard_names import TRIAL_NOTE, is_version, note_version, pieces_of
from dtme_search.search.storage.optuna_internals import id_of_study, id_of_trial, storage_of


def test_notes_are_where_they_are_looked_for():
    study = optuna.create_study()
    trial = study.ask()
    save_note(study, "of the study")
    save_note(trial, "of the trial")
    attributes = storage_of(study).get_study_system_attrs(id_of_study(study))
    version = note_version(id_of_trial(trial))
    assert version in attributes and is_version(version)
    (text,) = (value for key, value in attributes.items() if key.startswith(pieces_of(version)))
    assert text == "of the trial"
    of_trials = {key for key in attributes if TRIAL_NOTE.match(key)}
    assert of_trials == {key for key in attributes if key.startswith(f"dashboard:{id_of_trial(trial)}:")}
    assert len(of_trials) == 2 and TRIAL_NOTE.match(version)["trial"] == str(id_of_trial(trial))
