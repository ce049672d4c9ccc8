"""Callbacks hear what trackers need, with one worker and with several, and cannot disturb a trial."""

import json
import logging
import os
from pathlib import Path

import pytest
from tiny import SEARCH, grown, write_tiny_study

from dtme_search import Callback, optimize
from dtme_search.errors import ConfigError
from dtme_search.search.trackers.calling import with_callbacks
from dtme_search.search.trial.listener import Listener
from dtme_search.token_space import ExpansionPlan

ROLES = {"tasks": {"semseg": {}, "depth": {}, "normals": {}, "edge": {"role": "auxiliary"}}}


class Remembers(Callback):
    def __init__(self):
        self.events = []

    def on_study_begin(self, study):
        self.events.append(("study", study.name))
        self.study = study

    def on_baseline_end(self, row, known):
        self.events.append(("baseline", row.task))

    def on_trial_begin(self, trial):
        self.events.append(("begin", trial.number))
        self.trial = trial

    def on_evaluation(self, trial, evaluation):
        self.events.append(("evaluation", trial.number, evaluation.step))
        self.evaluation = evaluation

    def on_trial_end(self, trial, end):
        self.events.append((end.state, trial.number))
        self.end = end

    def on_study_end(self, study, finished):
        self.events.append(("end", finished))


class Raises(Remembers):
    def on_evaluation(self, trial, evaluation):
        super().on_evaluation(trial, evaluation)
        raise KeyError("no tracker")


def study(folder: Path, **fields) -> str:
    values = {"trials": 1, "enqueue": [grown()], "sampler": {"name": "random"}, **fields}
    return write_tiny_study(folder, ROLES, objectives={"delta_m_percent": "maximize"}, **values)


def test_a_callback_hears_all_that_is_stored(tmp_path, caplog):
    heard, fails = Remembers(), Raises()
    with caplog.at_level(logging.WARNING, "dtme_search"):
        done = optimize(study(tmp_path), workdir=tmp_path / "runs", device="cpu", callbacks=[fails, heard])
    tasks = ["semseg", "depth", "normals"]
    assert heard.events == [
        ("study", "tiny"), *(("baseline", task) for task in tasks), ("begin", 0),
        ("evaluation", 0, 5), ("evaluation", 0, 10), ("complete", 0), ("end", 1),
    ]  # fmt: skip
    assert fails.events == heard.events
    warned = [record.message for record in caplog.records if "callback" in record.message]
    assert len(warned) == 1 and "Raises.on_evaluation: KeyError: 'no tracker'" in warned[0]

    (run,) = done.records.runs("tiny")
    last = {row.task: row for row in done.records.evaluations("tiny", 0) if row.step == 10}
    assert heard.end.run == run
    assert heard.evaluation.metrics == {task: row.value for task, row in last.items()} == heard.end.metrics
    assert set(heard.evaluation.metrics) == {*tasks, "edge"}  # auxiliary tasks, too
    assert heard.evaluation.losses == {task: row.loss for task, row in last.items()}
    assert set(heard.evaluation.gains_percent) == set(tasks)
    assert heard.evaluation.delta_m_percent == run.delta_m_percent
    assert heard.evaluation.step_cost_ratio == run.step_cost_ratio
    assert isinstance(heard.end.plan, ExpansionPlan) and heard.end.plan == heard.evaluation.plan
    assert " ".join(heard.end.plan.operations()) == run.operations
    assert heard.end.report is not None and heard.end.report.tasks == tuple(heard.trial.config.tasks)
    assert heard.trial.params == grown()
    assert heard.trial.config.model_dump_json() and heard.trial.config.expansion.policy == "conflict"
    assert {task: row.fingerprint for task, row in heard.trial.baselines.items()} == run.baseline_names()
    assert heard.study.tasks["depth"].unit == "m" and heard.study.folder == tmp_path / "runs/tiny"


def test_each_end_of_a_trial_is_heard(tmp_path):
    class Stops(Remembers):
        """Raises what would end a trial, were it not a callback's."""

        def on_trial_begin(self, trial):
            super().on_trial_begin(trial)
            raise TrainingInterrupted

    from dtme_search.training import TrainingInterrupted

    heard = Stops()
    search = {**SEARCH, "train.lr": {"choices": [1e-3, 1e30]}}
    fields = {"search": search, "baselines": {"recipe": "base"}, "trials": 1, "max_failures_in_a_row": 2}
    points = [{"expansion.policy": "none", "train.lr": lr} for lr in (1e30, 1e-3)]
    optimize(
        study(tmp_path, enqueue=points, **fields), workdir=tmp_path / "runs", device="cpu", callbacks=[heard]
    )
    ends = [event for event in heard.events if event[0] in ("failed", "complete")]
    assert ends == [("failed", 0), ("complete", 1)]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (
            "nowhere:Callback",
            "'nowhere:Callback' must name a callback as module:attribute, got ModuleNotFound",
        ),
        ("json", "no tracker is named 'json'. Known: "),
        ("json:dumps", "'json:dumps' must name a callback"),
        ("collections:OrderedDict", "must be a dtme_search.Callback, got a OrderedDict"),
        (object(), "must be a dtme_search.Callback, got a object"),
    ],
)
def test_what_is_no_callback_is_refused(given, told):
    with pytest.raises(ConfigError, match=r"callback|tracker") as refused:
        with_callbacks(Listener(), [given])
    assert told in str(refused.value)


def test_several_workers_need_import_paths(tmp_path):
    with pytest.raises(ConfigError, match=r"need import paths like .* got a Remembers"):
        optimize(study(tmp_path), workdir=tmp_path / "r", device="cpu", workers=2, callbacks=[Remembers()])
    assert not (tmp_path / "r").exists()


MODULE = """
import json, os
from dtme_search import Callback

class Notes(Callback):
    def on_evaluation(self, trial, evaluation):
        with open(trial.study.folder / f"notes-{os.getpid()}", "a") as file:
            file.write(json.dumps([trial.number, evaluation.step]) + "\\n")
"""


@pytest.mark.slow
def test_each_of_several_workers_calls_its_own(tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    (tmp_path / "notes_of_mine.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    file = study(tmp_path, trials=2, enqueue=[grown(), {"expansion.policy": "none"}])
    runs = tmp_path / "runs"
    callbacks = ["notes_of_mine:Notes", "tensorboard"]
    optimize(file, workdir=runs, device="cpu", workers=2, callbacks=callbacks)
    notes = list((runs / "tiny").glob("notes-*"))
    assert f"notes-{os.getpid()}" not in {note.name for note in notes}
    lines = [json.loads(line) for note in notes for line in note.read_text().splitlines()]
    assert sorted(lines) == [[0, 5], [0, 10], [1, 5], [1, 10]]
    written = {path.name for path in (runs / "tiny/tensorboard").iterdir()}
    assert written == {"study", "trial-0000", "trial-0001"}
