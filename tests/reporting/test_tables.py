"""Tables of a finished study against its rows."""

from __future__ import annotations

import optuna
import pandas as pd
import pytest
from optuna.trial import TrialState

from dtme_search.reporting import baselines_table, failed_table, front_table, trials_table
from dtme_search.reporting.tables import compact_layers

TASKS = ("semseg", "depth", "normals", "edge")


@pytest.fixture(scope="module")
def study(finished_study):
    return finished_study.study


def test_one_row_per_trial_in_order(study):
    table = trials_table(study)
    assert table["trial"].tolist() == [0, 1, 2, 3, 4, 5]
    assert table["state"].tolist() == ["complete", "complete", "failed", "complete", "complete", "complete"]
    assert table["start"].fillna(-1).tolist() == [-1, 0, -1, 0.5, 0.5, 0]
    assert table["layers"].tolist()[4:] == [".MB", "BBB"] and table["layers"][0] == "..."
    assert sorted(table["layers"][1]) != [".", ".", "."]
    assert table["feasible"].tolist() == [True, True, None, True, True, False]
    assert table["error"][2].startswith("DivergedError") and (table["error"].drop(2) == "").all()
    assert (table["seconds"] > 0).all()


def test_delta_m_is_the_mean_of_the_gains_beside_it(study):
    table = trials_table(study).dropna(subset=["delta_m_percent"])
    gains = table[[f"gain_{task}_percent" for task in TASKS]]
    assert len(table) == 5
    pd.testing.assert_series_equal(
        gains.mean(axis=1), table["delta_m_percent"], check_names=False, rtol=0, atol=1e-4
    )
    assert list(table.columns[:7]) == ["trial", "state", "delta_m_percent", *gains.columns]


def test_the_front_holds_what_no_feasible_trial_beats(study):
    table = trials_table(study)
    feasible = table[(table["state"] == "complete") & (table["feasible"] == True)]  # noqa: E712
    expected = {
        row.trial
        for row in feasible.itertuples()
        if not any(
            (other.delta_m_percent, -other.param_overhead_percent)
            != (row.delta_m_percent, -row.param_overhead_percent)
            and other.delta_m_percent >= row.delta_m_percent
            and other.param_overhead_percent <= row.param_overhead_percent
            for other in feasible.itertuples()
        )
    }
    front = front_table(study)
    assert set(front["trial"]) == expected and 5 not in expected
    assert front["delta_m_percent"].is_monotonic_decreasing
    assert set(table[table["on_front"]]["trial"]) == expected


def test_failures_are_listed_with_their_reason(study):
    (row,) = failed_table(study).to_dict("records")
    assert row["trial"] == 2 and "is not finite" in row["error"]


def test_stopped_trials_are_no_failures(study_copy, edit_run):
    """Killed and interrupted trials say nothing about their configuration."""
    for number, run_state in ((0, "running"), (1, "interrupted")):
        edit_run(number, trial=6 + number, state=run_state)
        study_copy.optuna.add_trial(optuna.create_trial(state=TrialState.FAIL))
    table = trials_table(study_copy)
    assert table["state"].tolist()[6:] == ["interrupted", "interrupted"]
    assert failed_table(study_copy)["trial"].tolist() == [2]


def test_a_trial_that_failed_before_its_run_began_says_why(study_copy):
    error = "ConfigError: trial 6: nothing fits.\nmore"
    study_copy.optuna.add_trial(optuna.create_trial(state=TrialState.FAIL, user_attrs={"error": error}))
    assert failed_table(study_copy)["error"].tolist()[1] == "ConfigError: trial 6: nothing fits."


def test_an_empty_study_has_empty_tables(empty_study):
    assert trials_table(empty_study).empty and front_table(empty_study).empty
    assert failed_table(empty_study).empty


def test_baselines_stand_beside_their_no_image_priors(study):
    table = baselines_table(study)
    rows = study.records.baselines()
    assert table["task"].tolist() == list(TASKS) and set(table["split"]) == {"holdout"}
    assert table["baseline"].tolist() == [row.value for row in rows]
    assert table["no_image_prior"].tolist() == [row.prior_value for row in rows]
    assert table["unit"].tolist() == ["fraction", "m", "deg", "fraction"]


def test_layers_are_one_letter_each():
    assert compact_layers("none modulate expand both") == ".MEB"
    assert compact_layers(None) == ""


def test_a_trial_that_was_interrupted_counts_once(study_copy, edit_run):
    """One attempt ended and is continued by one that waits, another by one that is complete."""
    for history in ([], [6], [], [8]):
        state = TrialState.FAIL if not history else TrialState.WAITING
        attrs = {"retry_history": history} if history else {}
        study_copy.optuna.add_trial(optuna.create_trial(state=state, system_attrs=attrs))
    table = trials_table(study_copy).set_index("trial")
    assert table.index.tolist()[6:] == [7, 9]
    assert table["state"].tolist()[6:] == ["interrupted", "interrupted"]
