"""Each tracker's own reader finds what a search wrote, although the search was interrupted."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest
from tiny import grown, write_tiny_study
from watching import Heard, ctrl_c, once

from dtme_search.reporting import draw_trial
from dtme_search.search import LoadedStudy, RunRow, front_numbers, optimize
from dtme_search.search.storage.rows import StoredEvaluation
from dtme_search.search.trial.retries import first_number

TRACKERS = ("tensorboard",)
CHANGES = {
    "tasks": {"semseg": {}, "depth": {}, "edge": {"role": "auxiliary"}},
    "train.checkpoint_seconds": 0.0,
}
POINTS = [grown("both", "none", "none", start=0.0), grown(), {"expansion.policy": "none"}]
"""The second is interrupted after its first evaluation and its growth."""


class Trial(NamedTuple):
    """What the database says of a trial, under the number that a tracker knows it by."""

    run: RunRow
    rows: list[StoredEvaluation]


class Found(NamedTuple):
    """A finished study, and the folder in which its trackers wrote."""

    study: LoadedStudy
    folder: Path
    trials: dict[int, Trial]
    front: set[int]


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> Found:
    for name in TRACKERS:
        pytest.importorskip(name)
    folder = tmp_path_factory.mktemp("tracked")
    changes = {"sampler": {"name": "random"}, "objectives": {"delta_m_percent": "maximize"}}
    file = write_tiny_study(folder, CHANGES, trials=3, enqueue=POINTS, **changes)
    options = {"workdir": folder / "runs", "device": "cpu", "callbacks": TRACKERS, "draw": draw_trial}
    heard = Heard()
    heard.act = once("trial_started", 1, lambda: setattr(heard, "act", once("trial_evaluated", 5, ctrl_c)))
    assert optimize(file, **options, listener=heard).stopped
    study = optimize(file, **options)
    first = {trial.number: first_number(trial) for trial in study.optuna.get_trials()}
    runs = [run for run in study.records.runs("tiny") if run.state == "complete"]
    trials = {first[run.trial]: Trial(run, study.records.evaluations("tiny", run.trial)) for run in runs}
    assert set(trials) == {0, 1, 2} and {run.trial for run in runs} == {0, 2, 3}, "trial 3 continues trial 1"
    return Found(study, folder, trials, {first[number] for number in front_numbers(study)})


def same(found: list[float], wanted: float) -> None:
    """Each process that heard of a number wrote the same one."""
    assert found and found == [pytest.approx(wanted)] * len(found)


class TestTensorBoard:
    def read(self, found: Found, label: str):
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        events = EventAccumulator(str(found.folder / "runs/tiny/tensorboard" / label))
        events.Reload()
        return events

    def test_a_run_for_the_study_and_each_trial(self, found):
        folders = {path.name for path in (found.folder / "runs/tiny/tensorboard").iterdir()}
        assert folders == {"study", "trial-0000", "trial-0001", "trial-0002"}

    def test_curves_are_those_of_the_database(self, found):
        for number, trial in found.trials.items():
            events = self.read(found, f"trial-{number:04d}")
            for row in trial.rows:
                for name, wanted in (("metric", row.value), ("loss", row.loss)):
                    points = events.Scalars(f"{name}/{row.task}")
                    values = [point.value for point in points if point.step == row.step]
                    assert values == [pytest.approx(wanted)], (number, name, row)
            assert [point.step for point in events.Scalars("delta_m_percent")] == [5, 10]
            last = events.Scalars("delta_m_percent")[-1]
            assert last.value == pytest.approx(trial.run.delta_m_percent)
            assert events.Scalars("step_cost_ratio")[-1].value == pytest.approx(trial.run.step_cost_ratio)

    def test_conflicts_and_plan(self, found):
        events = self.read(found, "trial-0001")
        rows = found.study.records.conflicts("tiny", found.trials[1].run.trial)
        assert rows
        for row in rows:
            points = events.Scalars(f"conflict_null/{row.task_a}-{row.task_b}")
            same([point.value for point in points if point.step == row.layer], row.null_rate)
        for plan in events.Tensors("plan/text_summary"):
            assert b"modulate" in plan.tensor_proto.string_val[0]

    def test_pictures_are_those_of_the_front(self, found):
        for number, trial in found.trials.items():
            shown = self.read(found, f"trial-{number:04d}").Tags()["images"]
            drawn = list((found.folder / f"runs/tiny/trials/{number:04d}").glob("*.png"))
            assert shown == (["conflicts"] if number in found.front and drawn else []), trial.run

    def test_the_study_has_baselines_and_trials(self, found):
        events = self.read(found, "study")
        for row in found.study.records.baselines():
            same([point.value for point in events.Scalars(f"baseline/{row.task}")], row.value)
        values = {point.step: point.value for point in events.Scalars("trial/delta_m_percent")}
        assert values == {
            trial.run.trial: pytest.approx(trial.run.delta_m_percent) for trial in found.trials.values()
        }
        assert {"study/text_summary", "tasks/text_summary"} <= set(events.Tags()["tensors"])
