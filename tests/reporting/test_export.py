"""From a trial to a file that trains it again; what must not leave stays."""

from __future__ import annotations

import pytest
from optuna.trial import TrialState

from dtme_search.config import RunConfig, load_run_config
from dtme_search.errors import ExportError
from dtme_search.reporting import best_trial, export_best, export_front, export_trial, front_table


def resolved(study, number: int) -> RunConfig:
    return RunConfig.model_validate_json(study.records.runs("tiny")[number].config)


@pytest.mark.parametrize("number", [0, 1, 3, 4])
def test_an_export_loads_as_the_resolved_config(finished_study, tmp_path, number):
    path = export_trial(finished_study.study, number, tmp_path / "new" / "best.yaml")
    config = load_run_config(str(path))
    assert config == resolved(finished_study.study, number)
    kept = finished_study.workdir / "tiny" / "trials" / f"{number:04d}" / "resolved.yaml"
    assert config == load_run_config(str(kept))
    assert config.expansion.policy == ("none" if number == 0 else "fixed")
    if number == 4:
        alone = (("semseg",), ("depth",), ("normals",), ("edge",))
        assert config.expansion.plan.modulate == {1: alone, 2: alone}
        assert config.expansion.plan.expand == {2: alone}
        assert config.expansion.start == 0.5


def test_the_header_says_what_the_number_means(finished_study, tmp_path):
    study = finished_study.study
    run = study.records.runs("tiny")[4]
    text = export_trial(study, 4, tmp_path / "best.yaml").read_text()
    header = "\n".join(line for line in text.splitlines() if line.startswith("#"))
    assert text.startswith("# Trial 4 of study tiny")
    assert f"delta_m {run.delta_m_percent:+.2f} % on the holdout" in header
    assert "10 steps, seed 0, one run" in header
    assert all(f"{task} " in header for task in ("semseg", "depth", "normals", "edge"))
    assert f"{run.param_overhead_percent:.4f} %" in header and ".MB" in header
    assert "NOT TO BE TRUSTED" not in header


def test_best_is_the_feasible_trial_with_the_highest_delta_m(finished_study, tmp_path):
    study = finished_study.study
    runs = [run for run in study.records.runs("tiny") if run.feasible]
    expected = max(runs, key=lambda run: run.delta_m_percent).trial
    assert best_trial(study) == expected
    path = export_best(study, tmp_path / "best.yaml")
    assert load_run_config(str(path)) == resolved(study, expected)


def test_the_front_is_one_file_per_trial(finished_study, tmp_path):
    study = finished_study.study
    paths = export_front(study, tmp_path / "front")
    numbers = sorted(front_table(study)["trial"])
    assert [path.name for path in paths] == [f"tiny-trial-{number:04d}.yaml" for number in numbers]
    for number, path in zip(numbers, paths, strict=True):
        assert load_run_config(str(path)) == resolved(study, number)


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (5, r"trial 5 exceeds a limit \(param_overhead_percent at most 2\.5\)"),
        (2, r"trial 2 must be complete, got failed\."),
        (6, r"trial must be one of 0\.\.5, got 6"),
        (-1, r"trial must be one of 0\.\.5, got -1"),
    ],
)
def test_what_may_not_be_exported(finished_study, tmp_path, number, reason):
    with pytest.raises(ExportError, match=f"^study tiny: {reason}"):
        export_trial(finished_study.study, number, tmp_path / "best.yaml")
    assert not list(tmp_path.iterdir())


def test_an_infeasible_trial_can_be_forced_an_unfinished_one_cannot(finished_study, tmp_path):
    study = finished_study.study
    path = export_trial(study, 5, tmp_path / "best.yaml", force=True)
    assert load_run_config(str(path)) == resolved(study, 5)
    with pytest.raises(ExportError, match="must be complete"):
        export_trial(study, 2, tmp_path / "other.yaml", force=True)


def test_dead_tasks_are_refused_and_marked_when_forced(study_copy, edit_run, tmp_path):
    edit_run(4, dead_tasks="depth,edge")
    with pytest.raises(ExportError, match=r"not to be trusted: depth and edge do not clearly beat .*--force"):
        export_trial(study_copy, 4, tmp_path / "best.yaml")
    path = export_trial(study_copy, 4, tmp_path / "best.yaml", force=True)
    assert "# NOT TO BE TRUSTED: depth and edge do not" in path.read_text()
    assert load_run_config(str(path)) == resolved(study_copy, 4)


def test_a_front_with_a_doubtful_trial_leaves_no_file_at_all(study_copy, edit_run, tmp_path):
    last = max(front_table(study_copy)["trial"])
    edit_run(last, dead_tasks="depth")
    with pytest.raises(ExportError, match=f"trial {last} is not to be trusted"):
        export_front(study_copy, tmp_path / "front")
    assert not (tmp_path / "front").exists()
    assert export_front(study_copy, tmp_path / "front", force=True)


def test_an_empty_study_has_nothing_to_export(empty_study, tmp_path):
    for export in (export_best, export_front):
        with pytest.raises(
            ExportError, match=r"^study empty: no trial is finished\. Run: dtme-search optimize"
        ):
            export(empty_study, tmp_path / "out")
    with pytest.raises(ExportError, match="one of its trials, and it has none yet, got 0"):
        export_trial(empty_study, 0, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_study_without_a_feasible_trial_says_so(study_copy, monkeypatch, tmp_path):
    infeasible = [study_copy.optuna.trials[5]]
    monkeypatch.setattr(study_copy.optuna, "get_trials", lambda deepcopy=True, states=None: infeasible)
    assert infeasible[0].state == TrialState.COMPLETE
    with pytest.raises(ExportError, match="none of 1 finished trials is within the limits"):
        export_best(study_copy, tmp_path / "out")


def test_a_place_that_cannot_be_written_is_one_line(finished_study, tmp_path):
    with pytest.raises(ExportError, match=r"cannot be written: Is a directory\. Give another --out"):
        export_trial(finished_study.study, 4, tmp_path)
