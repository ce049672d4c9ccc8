"""The report: numbers equal to SQL's, the story true to them, a file that needs nothing else."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pandas as pd
import pytest

from dtme_search.errors import ExportError
from dtme_search.reporting import read_study_data, write_report
from dtme_search.reporting.document import (
    Bullets,
    Chart,
    Code,
    Heading,
    Paragraph,
    Table,
    to_html,
    to_markdown,
)
from dtme_search.reporting.effects import effects, holm
from dtme_search.reporting.figures import FIGURES, telling_figures
from dtme_search.reporting.story import story
from dtme_search.reporting.tables import confirmed_table


def sql(study, query: str) -> pd.DataFrame:
    return pd.read_sql(query, study.records.engine)


def tables(markdown: str) -> dict[str, pd.DataFrame]:
    """Heading -> the table that follows it."""
    found = {}
    for part in re.split(r"^## ", markdown, flags=re.MULTILINE)[1:]:
        lines = [line for line in part.splitlines() if line.startswith("|")]
        if lines:
            cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
            found[part.splitlines()[0]] = pd.DataFrame(cells[2:], columns=cells[0])
    return found


@pytest.fixture(scope="module")
def study(finished_study):
    return finished_study.study


@pytest.fixture(scope="module")
def written(study, tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("report")
    return {
        name: write_report(study, folder / f"r.{name}").read_text(encoding="utf-8") for name in ("md", "html")
    }


def test_the_list_of_trials_equals_sql(study, written):
    shown = tables(written["md"])["All trials"].set_index("trial")
    stored = sql(study, "SELECT * FROM dtme_runs WHERE study = 'tiny' AND state = 'complete'")
    assert len(shown) == 6 and len(stored) == 5
    for run in stored.itertuples():
        row = shown.loc[str(run.trial)]
        assert row["delta_m"] == f"{run.delta_m_percent:+.2f}"
        assert row["overhead"] == f"{run.param_overhead_percent:.3f}"
        assert row["step cost"].rstrip("?") == f"{run.step_cost_ratio:.2f}"
    gains = sql(
        study,
        "SELECT trial, task, gain_percent FROM dtme_evaluations WHERE study = 'tiny' AND step = 10",
    )
    for row in gains.itertuples():
        if row.trial in set(stored["trial"]):
            assert float(shown.loc[str(row.trial), row.task]) == pytest.approx(row.gain_percent, abs=0.06)


def test_the_baselines_and_tasks_equal_sql(study, written):
    shown = tables(written["md"])
    stored = sql(study, "SELECT * FROM dtme_baselines").set_index("task")
    assert shown["Baselines"]["task"].tolist() == ["semseg", "depth", "normals", "edge"]
    assert (
        shown["Baselines"].set_index("task")["single-task baseline"]["depth"]
        == f"{stored['value']['depth']:.4f} m"
    )
    data = read_study_data(study)
    best = int(data.best["trial"])
    value = sql(
        study,
        f"SELECT value FROM dtme_evaluations WHERE trial = {best} AND task = 'depth' ORDER BY step DESC",
    )["value"][0]
    cell = shown["Task by task"].set_index("task").loc["depth"][f"trial {best}"]
    assert cell.startswith(f"{value:.4f} m (")


def test_the_story_names_the_best_and_says_how_sure_it_is(study):
    told = story(read_study_data(study))
    best = sql(
        study, "SELECT * FROM dtme_runs WHERE feasible = 1 ORDER BY delta_m_percent DESC LIMIT 1"
    ).iloc[0]
    assert f"**trial {best['trial']}**" in told[1] and f"{best['delta_m_percent']:+.2f} %" in told[1]
    assert "4 complete, 1 failed, 1 above a limit" in told[0] or "1 above a limit" in told[0]
    assert any("chance is unknown" in text or "No grown network is better" in text for text in told)
    assert any("too few trials of each choice" in text for text in told)


def test_confirmed_trials_replace_the_value_of_the_search(confirmed_study, edit_run):
    edit_run(0, delta_m_percent=-3.0)
    edit_run(4, delta_m_percent=9.0)
    confirmed_study.optuna.get_trials(deepcopy=False)[4].values[0] = 9.0
    table = confirmed_table(confirmed_study).sort_values("trial")
    assert table["delta_m_mean"].tolist() == pytest.approx([-1.0, 1.0])
    assert table["delta_m_std"].tolist() == pytest.approx([0.1, 0.1])
    assert table["num_seeds"].tolist() == [3, 3]
    data = read_study_data(confirmed_study)
    told = " ".join(story(data))
    assert "+1.00 ± 0.10 %" in told and "it is +2.00 with a standard error of 0.06" in told
    assert "is more than the noise between seeds" in told


def test_a_difference_within_the_noise_is_called_so(study_copy, edit_run, confirm):
    edit_run(4, delta_m_percent=9.0)
    for number, values in ((0, (-1.0, 1.0)), (4, (1.5, -0.5))):
        confirm(number, values)
    told = " ".join(story(read_study_data(study_copy)))
    assert "cannot be distinguished from the noise between seeds" in told


def test_confirmed_trials_are_compared_seed_by_seed(study_copy, edit_run, confirm):
    """The spread over seeds is common to both: ten points of it do not hide a lead of one."""
    edit_run(4, delta_m_percent=9.0)
    confirm(0, (0.0, 10.0, 20.0))
    confirm(4, (1.0, 11.2, 20.9, 40.0))
    told = " ".join(story(read_study_data(study_copy)))
    assert "it is +1.03 with a standard error of 0.09: it is more than the noise" in told


def test_doubtful_trials_are_named(study_copy, edit_run):
    edit_run(4, dead_tasks="depth,edge")
    last = story(read_study_data(study_copy))[-1]
    assert "**1 trial of 5 should not be trusted**: depth and edge do not" in last


class Loader(HTMLParser):
    """Everything that a page would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.fetched += [value for name, value in attrs if name in ("src", "href") and value]


def test_the_html_is_one_file_with_every_figure_that_tells_something(study, written):
    page = written["html"]
    loader = Loader()
    loader.feed(page)
    assert loader.fetched == []
    assert "default-src 'none'" in page
    told = {figure.key for figure, _ in telling_figures(read_study_data(study))}
    assert {figure.key for figure in FIGURES if f'id="{figure.key}"' in page} == told
    assert "1-front" in told
    assert len(page) < 6_000_000


def test_an_empty_study_has_a_report_too(empty_study, tmp_path):
    text = write_report(empty_study, tmp_path / "new" / "r.md").read_text()
    assert "no trials yet" in text


def test_a_place_that_cannot_be_written_is_one_line(study, tmp_path):
    with pytest.raises(ExportError, match=r"cannot be written: Is a directory\. Give another --out"):
        write_report(study, tmp_path)


BLOCKS = [
    Heading("A & B", 1),
    Paragraph("`x < y` is **strong** <script>"),
    Bullets(["one", "two"]),
    Table(("a", "b"), [("-1.5 %", "x|y")]),
    Code("echo <1>"),
]


def test_both_forms_say_the_same():
    text = to_markdown(BLOCKS)
    assert text.startswith("# A & B\n\n`x < y` is **strong**") and "| -1.5 % | x\\|y |" in text
    page = to_html("T", BLOCKS)
    assert (
        "<h1>A &amp; B</h1>" in page
        and "<code>x &lt; y</code> is <strong>strong</strong> &lt;script&gt;" in page
    )
    assert '<td class="number">-1.5 %</td><td>x|y</td>' in page and "echo &lt;1&gt;" in page
    assert "<script" not in page, "no figure, no script"


def test_figures_bring_their_script_once(study):
    data = read_study_data(study)
    charts = [Chart(figure.key, figure.draw(data), figure.caption) for figure in FIGURES[:2]]
    assert to_html("T", charts).count("plotly.js v") <= 2
    assert to_markdown(charts) == "\n"


def test_holm_multiplies_the_smallest_most():
    assert holm([0.04, 0.001, 0.9]) == pytest.approx([0.08, 0.003, 0.9])
    assert holm([]) == [] and holm([0.7, 0.9]) == [1.0, 1.0]


def test_an_effect_that_is_there_is_found_and_noise_is_not(study):
    """Thirty trials: the start decides, the policy does not, the learning rate goes up with delta_m."""
    from dataclasses import replace

    data = read_study_data(study)
    starts = [0.0, 0.5] * 15
    policies = ["conflict", "per_layer", "none"] * 10
    rates = [0.001 * (1 + (7 * index) % 30) for index in range(30)]
    gains = [2.0 * start + 0.01 * ((index * 11) % 7) for index, start in enumerate(starts)]
    trials = pd.DataFrame(
        {
            "trial": range(30), "state": "complete", "feasible": True, "on_front": False, "dead_tasks": "",
            "delta_m_percent": gains, "layers": "...",
        }
    )  # fmt: skip
    parameters = pd.DataFrame(
        {"start": starts, "policy": policies, "rate": rates, "rare": [1.0, *[None] * 29]}
    )
    found = {
        effect.parameter: effect for effect in effects(replace(data, trials=trials, parameters=parameters))
    }
    assert found.keys() == {"start", "policy", "rate"}
    assert found["start"].is_distinguishable and found["start"].best == "0.5"
    assert found["start"].difference == pytest.approx(1.0, abs=0.05)
    assert not found["policy"].is_distinguishable and not found["rate"].is_distinguishable
    rising = trials.assign(delta_m_percent=rates)
    again = effects(replace(data, trials=rising, parameters=parameters))
    assert next(e for e in again if e.parameter == "rate").best == "more"
