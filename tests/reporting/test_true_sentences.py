"""Reports and `show` of ten kinds of studies: each sentence and number against SQL, and no word too many."""

from __future__ import annotations

import re
from dataclasses import dataclass

import made_studies
import pandas as pd
import pytest
from test_report import tables

from dtme_search.cli.render import print_study
from dtme_search.cli.screen import Screen
from dtme_search.reporting import best_trial, trials_table, write_report
from dtme_search.search import LoadedStudy

GROWS = ("expansion", "seeds", "failed")
OF_GROWTH = re.compile(r"grew|grow|unexpanded|layers|modulation|expansion|overhead\b|conflict", re.IGNORECASE)


@dataclass(frozen=True)
class Told:
    """A study, what is told of it, and what the database holds."""

    name: str
    study: LoadedStudy
    report: str
    html: str
    show: str

    def sql(self, query: str) -> pd.DataFrame:
        return pd.read_sql(query, self.study.records.engine)

    @property
    def runs(self) -> pd.DataFrame:
        complete = "SELECT * FROM dtme_runs WHERE state = 'complete' ORDER BY trial"
        return self.sql(complete).set_index("trial", drop=False)

    @property
    def story(self) -> str:
        return self.report.partition("## Findings")[2].partition("\n## ")[0]

    @property
    def best(self) -> int:
        return int(re.search(r"\*\*trial (\d+)\*\*", self.story)[1])


@pytest.fixture(scope="module", params=made_studies.KINDS)
def told(request, tmp_path_factory) -> Told:
    folder = tmp_path_factory.mktemp(request.param)
    study = made_studies.make(request.param, folder)
    report, html = (write_report(study, folder / f"r.{end}").read_text() for end in ("md", "html"))
    screen = Screen()
    screen.console.width = 100
    with screen.console.capture() as captured:
        print_study(screen, study)
    return Told(request.param, study, report, html, captured.get())


@pytest.fixture
def finished(told) -> Told:
    if told.name == "failed":
        pytest.skip("has no result")
    return told


def test_the_counts_are_those_of_the_database(told):
    states = told.sql("SELECT state, COUNT(*) AS n FROM dtme_runs GROUP BY state").set_index("state")["n"]
    counted = ", ".join(f"{number} {state}" for state, number in states.items())
    assert f"Of {states.sum()} planned trials there are {counted}." in told.story
    assert told.show.startswith(f"Study {told.name}: {counted}; {states.sum()} planned.")


def test_the_setting_is_that_of_all_trials(told):
    steps = told.sql("SELECT MIN(total_steps) AS low, MAX(total_steps) AS high FROM dtme_runs").iloc[0]
    words = str(steps["low"]) if steps["low"] == steps["high"] else f"{steps['low']} to {steps['high']}"
    assert f" for {words} steps " in told.report
    for path in told.study.config.search:
        assert f"`{path}`" in told.report
    assert ("depth (in some trials)" in told.report) is (told.name == "auxiliary")


def test_nothing_is_said_of_growth_where_nothing_could_grow(told):
    if told.name in GROWS:
        pytest.skip("could grow")
    said = told.report.replace("minimize overhead", "")
    assert OF_GROWTH.findall(said) == []
    assert OF_GROWTH.findall(told.show.replace("overhead (minimize)", "")) == []
    assert "Operation by layer" not in told.html and "Gain by expansion start" not in told.html


def test_a_study_without_a_result_says_so_and_nothing_more(told):
    if told.name != "failed":
        pytest.skip("has a result")
    assert "2 failed. No trial is finished, so there is no result yet." in told.story
    assert "delta_m" not in told.report.replace("maximize delta_m", "")
    assert "limits" not in told.report and "<h2>Figures" not in told.html
    assert tables(told.report)["All trials"]["error"].tolist() == ["DivergedError: loss of depth is nan"] * 2
    assert "no trial is finished" in told.show and "Best:" not in told.show


def test_the_best_trial_is_the_best_of_the_database(finished):
    runs = finished.runs
    row = runs.loc[finished.best]
    table = trials_table(finished.study).set_index("trial")
    by = "expected_delta_m" if finished.name == "seeds" else "delta_m_percent"
    assert table.loc[finished.best, by] == table[by].max()
    assert finished.best == best_trial(finished.study)
    assert ("expected over seeds" in finished.story) is (finished.name == "seeds")
    assert f"delta_m **{row['delta_m_percent']:+.2f} %**" in finished.story
    assert f"Best: trial {finished.best}, delta_m {row['delta_m_percent']:+.2f} %" in finished.show
    warned = "values of one seed each, so luck is part of it" in finished.story
    assert warned is (len(runs) >= 5) and ("This is one seed." in finished.story) is not warned


def test_what_won_is_named_with_its_values(finished):
    (trial,) = [each for each in finished.study.optuna.trials if each.number == finished.best]
    for path, value in trial.params.items():
        if not path.startswith("expansion.layers.") and path in finished.study.config.search:
            shown = f"{value:.4g}" if isinstance(value, float) else str(value)
            assert f"`{path}` {shown}" in finished.story
            assert re.search(rf"{re.escape(path)} +{re.escape(shown)}", finished.show)


def test_gains_are_those_of_the_database(finished):
    last = finished.sql(
        "SELECT task, gain_percent FROM dtme_evaluations e WHERE step = (SELECT MAX(step) FROM "
        f"dtme_evaluations WHERE trial = e.trial) AND trial = {finished.best} AND gain_percent IS NOT NULL"
    )
    several = finished.sql(
        f"SELECT COUNT(DISTINCT task) AS n FROM dtme_evaluations WHERE trial = {finished.best}"
    )["n"][0]
    sentence = next((line for line in finished.story.splitlines() if line.startswith("- In that trial")), "")
    assert bool(sentence) is bool(several > 1)  # one task shares nothing
    for row in last.itertuples() if sentence else ():
        _, _, verdict = sentence.partition(f"{row.task} {row.gain_percent:+.1f} %")
        assert verdict
        assert bool(re.search(r"\bgains?\b", verdict.partition(";")[0])) is (row.gain_percent > 0)


def test_the_difference_to_the_network_that_never_grew(finished):
    if finished.name not in GROWS:
        return
    runs = finished.runs
    never = runs[runs["operations"] == "none none none"].iloc[0]
    row = runs.loc[finished.best]
    points = row["delta_m_percent"] - never["delta_m_percent"]
    seed = "the same seed" if row["seed"] == never["seed"] else "another seed"
    sentence = (
        f"That is {points:+.2f} points relative to the network of {seed} that never grew "
        f"(trial {never['trial']}"
    )
    assert sentence in finished.story
    assert f"adds {row['param_overhead_percent']:.3f} % parameters" in finished.story
    assert f"as much as {row['step_cost_ratio']:.2f} unexpanded steps" in finished.story


def test_conflicts_are_those_of_the_database(finished):
    rates = finished.sql("SELECT AVG(range_rate) AS rate FROM dtme_conflicts GROUP BY layer")["rate"]
    assert ("share of tokens at which tasks conflict" in finished.story) is bool(len(rates))
    if len(rates):
        assert (
            f"range space from {100 * rates.min():.1f} % (layer 0) to {100 * rates.max():.1f} %"
            in finished.story
        )
        assert "null space 30.0 % at every layer" in finished.story


def test_what_helped_is_said_where_it_can_be(finished):
    known = "Associated with a better delta_m: less of `tasks.depth.weight`" in finished.story
    assert known is (finished.name == "weights")
    assert ("too few trials of each choice" in finished.story) is not known
    assert ("p = 0)" not in finished.report and "p < 0.0001" in finished.report) or not known


def test_every_number_of_the_list_of_trials_is_in_the_database(finished):
    shown = tables(finished.report)["All trials"].set_index("trial")
    runs = finished.runs
    assert len(shown) == len(runs)
    for run in runs.itertuples():
        row = shown.loc[str(run.trial)]
        assert row["delta_m"] == f"{run.delta_m_percent:+.2f}"
        assert row["step cost"] == f"{run.step_cost_ratio:.2f}"
        if "overhead" in row:
            assert row["overhead"] == f"{run.param_overhead_percent:.3f}"
    constant = [name for name in shown if (shown[name] == "").all()]
    assert constant == []


def test_auxiliary_tasks_are_shown_with_their_metric(finished):
    auxiliary = finished.sql(
        f"SELECT task FROM dtme_evaluations WHERE gain_percent IS NULL AND trial = {finished.best}"
    )
    named = "depth (auxiliary)" in finished.report
    assert named is bool(len(auxiliary)) and ("depth (auxiliary)" in finished.show) is named


def test_a_price_is_drawn_where_trials_differ_in_it(finished):
    costs, overheads = (
        finished.runs[name].nunique() > 1 for name in ("step_cost_ratio", "param_overhead_percent")
    )
    assert ("Gain and measured step cost of every trial" in finished.html) is costs
    assert ("Gain and cost of every trial" in finished.html) is overheads
    assert ("delta_m in percent (up) by overhead" in finished.show) is overheads
