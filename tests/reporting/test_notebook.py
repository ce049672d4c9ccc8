"""A study in a notebook."""

from __future__ import annotations

import pytest
from pandas.testing import assert_frame_equal

import dtme_search
from dtme_search.reporting import StudyView, front_table, trials_table


@pytest.fixture(scope="module")
def view(finished_study) -> StudyView:
    return dtme_search.load_study("tiny", workdir=finished_study.workdir)


def test_results_and_front_are_the_tables(view, finished_study):
    assert_frame_equal(view.results(), trials_table(finished_study.study))
    assert_frame_equal(view.front(), front_table(finished_study.study))


def test_the_plan_of_a_trial(view):
    assert view.plan(4).operations() == ("none", "modulate", "both")
    assert view.plan(0).is_empty
    for number in (2, 99):
        with pytest.raises(ValueError, match=f"must be a complete trial, got {number}"):
            view.plan(number)


def test_figures_are_objects_by_name(view):
    figures = view.figures()
    assert list(figures) == [
        "front",
        "rungs",
        "layers",
        "start",
        "conflicts",
        "importance",
        "gradients",
        "data-map",
        "cost",
    ]
    assert figures["front"].layout.title.text == "Gain and cost of every trial"


def test_it_shows_what_came_out(view, tmp_path):
    assert repr(view) == "StudyView('tiny', 5 of 5 trials)"
    shown = view._repr_html_()
    assert "<table" in shown and "The best feasible trial" in shown and "<script" not in shown
    assert any("The best feasible trial" in text for text in view.story())
    assert view.report(tmp_path / "r.md").read_text().startswith("# Study tiny")
