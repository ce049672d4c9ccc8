"""Measured step costs that the counted operations contradict are marked, in every view."""

import pytest

from dtme_search.cli.render import print_study
from dtme_search.cli.screen import Screen
from dtme_search.reporting import best_trial, read_study_data, trials_table
from dtme_search.reporting.costs import cost_doubt, doubtful_costs, marked_costs
from dtme_search.reporting.document import to_markdown
from dtme_search.reporting.report import report_blocks


@pytest.mark.parametrize(
    ("measured", "counted", "doubtful"),
    [(0.03, 1.17, True), (1.17, 1.17, False), (0.58, 1.17, True), (0.6, 1.17, False), (1.8, 1.17, True),
     (1.7, 1.17, False), (9.0, None, False)],
)  # fmt: skip
def test_more_than_half_of_the_counted_ratio_is_doubtful(study_copy, edit_run, measured, counted, doubtful):
    for number in range(6):
        edit_run(number, step_cost_ratio=1.0, step_flops_ratio=1.0)
    edit_run(4, step_cost_ratio=measured, step_flops_ratio=counted)
    table = trials_table(study_copy)
    assert doubtful_costs(table)["trial"].tolist() == ([4] if doubtful else [])
    assert bool(cost_doubt(table)) is doubtful


def test_show_and_report_mark_it_and_say_why(study_copy, edit_run, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    best = best_trial(study_copy)
    for number in range(6):
        edit_run(number, step_cost_ratio=1.0, step_flops_ratio=1.0)
    edit_run(best, step_cost_ratio=0.098, step_flops_ratio=1.171)
    marks = marked_costs(trials_table(study_copy)).set_index("trial")["step_cost_ratio"]
    assert marks[best] == "0.10?" and list(marks).count("1.00") == 5
    sentence = f"trial {best} differs by more than half from the one counted from its operations (1.17)"
    report = to_markdown(report_blocks(read_study_data(study_copy), with_figures=False))
    assert sentence in report and "| 0.10? |" in report
    print_study(Screen(), study_copy)
    shown = capsys.readouterr().out
    assert "0.10?" in shown and sentence[:40] in shown


def test_several_are_told_in_one_sentence(study_copy, edit_run):
    for number in range(6):
        edit_run(number, step_cost_ratio=0.1 if number in (0, 4) else 1.5, step_flops_ratio=1.5)
    sentence = cost_doubt(trials_table(study_copy))
    assert (
        "in trials 0 and 4 differs" in sentence
        and "counted from their operations (1.50 and 1.50)" in sentence
    )
