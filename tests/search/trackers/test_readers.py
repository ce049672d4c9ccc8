"""Each tracker's own reader finds what a search wrote, although the search was interrupted."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from tiny import grown, write_tiny_study
from watching import Heard, ctrl_c, once

from dtme_search.reporting import draw_trial
from dtme_search.search import LoadedStudy, RunRow, front_numbers, optimize
from dtme_search.search.storage.rows import StoredEvaluation
from dtme_search.search.trial.retries import first_number

TRACKERS = ("tensorboard", "mlflow", "wandb")
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

    def shows_picture(self, number: int) -> bool:
        """Whether a trial is on the front and drew its conflicts."""
        drawn = self.folder.glob(f"runs/tiny/trials/{number:04d}/*.png")
        return number in self.front and any(drawn)


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> Found:
    for name in TRACKERS:
        pytest.importorskip(name)
    folder = tmp_path_factory.mktemp("tracked")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        patch.setenv("MLFLOW_EXPERIMENT_NAME", "rooms")
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("WANDB_DIR", str(folder))
        patch.setenv("WANDB_ERROR_REPORTING", "false")
        patch.setenv("DO_NOT_TRACK", "true")
        patch.chdir(folder)
        try:
            return interrupted_and_continued(folder)
        finally:
            import wandb

            wandb.teardown()  # it keeps the first WANDB_DIR of a process


def interrupted_and_continued(folder: Path) -> Found:
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
        for plan in events.Tensors("plan.txt/text_summary"):
            assert b"modulate" in plan.tensor_proto.string_val[0]

    def test_pictures_are_those_of_the_front(self, found):
        for number, trial in found.trials.items():
            shown = self.read(found, f"trial-{number:04d}").Tags()["images"]
            assert shown == (["conflicts"] if found.shows_picture(number) else []), trial.run

    def test_the_study_has_baselines_and_trials(self, found):
        events = self.read(found, "study")
        for row in found.study.records.baselines():
            same([point.value for point in events.Scalars(f"baseline/{row.task}")], row.value)
        values = {point.step: point.value for point in events.Scalars("trial/delta_m_percent")}
        assert values == {
            trial.run.trial: pytest.approx(trial.run.delta_m_percent) for trial in found.trials.values()
        }
        assert {"study.yaml/text_summary", "tasks.txt/text_summary"} <= set(events.Tags()["tensors"])


class TestMLflow:
    @pytest.fixture(scope="class")
    @classmethod
    def runs(cls, found):
        from mlflow import MlflowClient

        client = MlflowClient(f"sqlite:///{found.folder}/mlflow.db")
        experiment = client.get_experiment_by_name("rooms").experiment_id
        return client, {run.info.run_name: run for run in client.search_runs([experiment])}

    def test_one_run_for_the_study_and_a_child_for_each_trial(self, found, runs):
        client, by_name = runs
        assert set(by_name) == {"tiny", *(f"tiny trial-{number:04d}" for number in found.trials)}
        study = by_name.pop("tiny")
        assert len(client.search_runs([study.info.experiment_id])) == 4, "none of a name twice"
        assert {run.data.tags["mlflow.parentRunId"] for run in by_name.values()} == {study.info.run_id}
        assert {run.info.status for run in (study, *by_name.values())} == {"FINISHED"}
        assert study.data.params["backbone"] == "vit_tiny_patch16_224"

    def test_what_was_logged_is_what_the_database_says(self, found, runs):
        client, by_name = runs
        for number, trial in found.trials.items():
            run = by_name[f"tiny trial-{number:04d}"]
            assert run.data.params["expansion.policy"] == POINTS[number]["expansion.policy"]
            assert run.data.tags["dtme.operations"] == trial.run.operations
            for row in trial.rows:
                for name, wanted in (("metric", row.value), ("loss", row.loss)):
                    points = client.get_metric_history(run.info.run_id, f"{name}/{row.task}")
                    same([point.value for point in points if point.step == row.step], wanted)
        trial, run = found.trials[1], by_name["tiny trial-0001"]
        for row in found.study.records.conflicts("tiny", trial.run.trial):
            points = client.get_metric_history(run.info.run_id, f"conflict_range/{row.task_a}-{row.task_b}")
            same([point.value for point in points if point.step == row.layer], row.range_rate)

    def test_texts_and_pictures_are_artifacts(self, found, runs):
        client, by_name = runs
        for number in found.trials:
            kept = {
                file.path for file in client.list_artifacts(by_name[f"tiny trial-{number:04d}"].info.run_id)
            }
            pictures = {"conflicts.png"} if found.shows_picture(number) else set()
            assert kept == {"config.yaml", "plan.txt"} | pictures


def records_of(file: Path) -> Iterator[object]:
    """W&B's own messages in a file of its offline folder, whose frames are those of a LevelDB log."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, message = file.read_bytes(), 7, b""
    assert data[:4] == b":W&B"
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
        _, length, kind = struct.unpack_from("<IHB", data, at)
        message += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield Record.FromString(message)
            message = b""


def values_of(items) -> dict[str, object]:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


class Offline(NamedTuple):
    """What one of W&B's offline folders holds."""

    run: object
    history: list[dict]
    summary: dict
    pictures: list[str]
    texts: set[str]


class TestWandB:
    @pytest.fixture(scope="class")
    @classmethod
    def folders(cls, found) -> list[Offline]:
        return [cls.read(file) for file in sorted((found.folder / "wandb").glob("offline-run-*/*.wandb"))]

    @staticmethod
    def read(file: Path) -> Offline:
        run, history, summary = None, [], {}
        for record in records_of(file):
            run = record.run if record.HasField("run") else run
            if record.HasField("history"):
                history.append(values_of(record.history.item))
            if record.HasField("summary"):
                summary |= values_of(record.summary.update)
        files = file.parent / "files"
        pictures = [path.name for path in files.rglob("*.png")]
        return Offline(run, history, summary, pictures, {path.name for path in files.iterdir()})

    def of_trial(self, found, folders, number) -> list[Offline]:
        return [each for each in folders if each.run.run_id == f"{found.study.id}-{number:04d}"]

    def test_one_run_for_the_study_and_one_for_each_trial_in_its_group(self, found, folders):
        ids = {found.study.id, *(f"{found.study.id}-{number:04d}" for number in found.trials)}
        assert {each.run.run_id for each in folders} == ids, "an interrupted one goes on under its id"
        assert {(each.run.run_group, each.run.project) for each in folders} == {("tiny", "dtme-search")}
        assert {(each.run.display_name, each.run.job_type) for each in folders} == {
            ("study", "study"),
            *((f"trial-{number:04d}", "trial") for number in found.trials),
        }

    def test_what_was_logged_is_what_the_database_says(self, found, folders):
        for number, trial in found.trials.items():
            parts = self.of_trial(found, folders, number)
            history = [row for part in parts for row in part.history]
            for row in trial.rows:
                for name, wanted in (("metric", row.value), ("loss", row.loss)):
                    at = [each for each in history if each.get("step") == row.step]
                    same([each[f"{name}/{row.task}"] for each in at], wanted)
            for row in found.study.records.conflicts("tiny", trial.run.trial):
                at = [each for each in history if each.get("layer") == row.layer]
                same([each[f"conflict_range/{row.task_a}-{row.task_b}"] for each in at], row.range_rate)
            summary = {name: value for part in parts for name, value in part.summary.items()}
            assert (summary["state"], summary["operations"]) == ("complete", trial.run.operations)

    def test_texts_and_pictures_are_files(self, found, folders):
        for number in found.trials:
            parts = self.of_trial(found, folders, number)
            assert {"config.yaml", "plan.txt"} <= {name for part in parts for name in part.texts}
            pictures = [name for part in parts for name in part.pictures]
            assert len(pictures) == found.shows_picture(number)

    def test_nothing_of_the_surroundings_is_published(self, folders):
        assert "wandb-metadata.json" not in {name for each in folders for name in each.texts}
