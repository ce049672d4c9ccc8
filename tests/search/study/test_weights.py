"""Trained networks of a study: the front's stay, give the recorded numbers again, and outlive a kill."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import optuna
import pytest
from commands import invoke
from PIL import Image
from tiny import grown, write_tiny_study

from dtme_search.errors import DtmeSearchError, StorageError
from dtme_search.search import LoadedStudy, front_numbers, load_study, optimize
from dtme_search.search.manage.removal import leftovers, of_spare
from dtme_search.search.storage.trials import KEPT_ATTR
from dtme_search.search.study.weights import trained_trial, trim_weights
from dtme_search.search.trial.result import Result
from dtme_search.search.trial.retries import first_number
from dtme_search.search.workspace import Workspace
from dtme_search.training import weights

CHANGES = {"tasks": {"semseg": {}, "edge": {}}, "train.num_steps": 4}
POINTS = [
    {"expansion.policy": "none"},
    grown("modulate", "none", "none"),
    grown("none", "none", "both"),
    grown("both", "expand", "both"),
    grown("both", "both", "both"),
]


def search(folder: Path, points=POINTS, **fields) -> LoadedStudy:
    fields = {"trials": len(points), "enqueue": points, **fields}
    return optimize(write_tiny_study(folder, CHANGES, **fields), workdir=folder / "runs", device="cpu")


def kept(folder: Path) -> set[int]:
    """Trials with a network in the folder of the study; no network is there without its tasks or torn."""
    trials = folder / "runs" / "tiny" / "trials"
    found = {path.name for path in trials.glob("*/weights*")} | {
        path.name for path in trials.glob("*/tasks.json")
    }
    assert found <= {"weights.pt", "tasks.json"}
    numbers = {int(path.parent.name) for path in trials.glob("*/weights.pt")}
    assert numbers == {int(path.parent.name) for path in trials.glob("*/tasks.json")}
    return numbers


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    search(folder, objectives={"delta_m_percent": "maximize"}).records.engine.dispose()
    return folder


def loaded(folder: Path) -> LoadedStudy:
    return load_study("tiny", workdir=folder / "runs")


def test_the_front_stays_and_nothing_else(done):
    study = loaded(done)
    assert kept(done) == front_numbers(study)
    assert 0 < len(kept(done)) < len(POINTS)
    assert leftovers(study, Workspace(done / "runs" / "tiny")) == []


@pytest.mark.parametrize("mode", ["all", "none"])
def test_all_or_none(tmp_path, mode):
    search(tmp_path, POINTS[:2], keep_weights=mode)
    assert kept(tmp_path) == ({0, 1} if mode == "all" else set())


def test_another_rule_holds_from_the_next_start_on_and_changes_no_result(tmp_path):
    before = search(tmp_path, POINTS[:2], keep_weights="all")
    after = search(tmp_path, POINTS[:2], keep_weights="none")
    assert kept(tmp_path) == set()
    assert [run.fingerprint for run in before.records.runs("tiny")] == [
        run.fingerprint for run in after.records.runs("tiny")
    ]
    assert len(after.optuna.trials) == 2


def test_never_more_than_the_front_and_what_runs(tmp_path, monkeypatch):
    seen, save = [], Result.save

    def counted(self: Result, path: Path) -> None:
        assert (path.parent / "weights.pt").is_file(), "the network is there before the result"
        seen.append(len(kept(tmp_path) - {self.row.trial} - front_numbers(loaded(tmp_path))))
        save(self, path)

    monkeypatch.setattr(Result, "save", counted)
    search(tmp_path, reuse={"equal_work": False})
    assert seen == [0] * len(POINTS)


def test_evaluate_gives_the_recorded_numbers_again_exactly(done):
    study = loaded(done)
    for number in kept(done):
        ran = invoke(
            "evaluate", "--study", "tiny", "--trial", number, "--workdir", done / "runs", "--format", "json"
        )
        assert ran.exit_code == 0, ran.output
        values = json.loads(ran.stdout)
        last = [row for row in study.records.last_evaluations("tiny") if row.trial == number]
        (run,) = study.records.runs("tiny", number)
        assert values["split"] == "holdout" and values["delta_m_percent"] == run.delta_m_percent
        assert {name: task["value"] for name, task in values["tasks"].items()} == {
            row.task: row.value for row in last
        }
        assert {name: task["gain_percent"] for name, task in values["tasks"].items()} == {
            row.task: row.gain_percent for row in last
        }


def test_evaluate_says_nothing_untrue_of_the_hold_out(done):
    place = ("--study", "tiny", "--trial", min(kept(done)), "--workdir", done / "runs")
    assert "seen the hold-out" not in invoke("evaluate", *place).output
    on_test = invoke("evaluate", *place, "--split", "test")
    assert on_test.exit_code == 0 and "delta_m" not in on_test.output


def test_predict_draws_with_a_trial_and_with_its_folder(done, tmp_path):
    number = max(kept(done))
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(tmp_path / "photo.png")
    place = ("--study", "tiny", "--trial", number, "--workdir", done / "runs")
    one = invoke("predict", tmp_path / "photo.png", *place, "--out", tmp_path / "one", "--raw")
    folder = done / "runs" / "tiny" / "trials" / f"{number:04d}"
    two = invoke("predict", folder, tmp_path / "photo.png", "--out", tmp_path / "two", "--raw")
    assert one.exit_code == two.exit_code == 0, one.output + two.output
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert len(names) == 3
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_equal_work_leads_to_the_network_of_the_trial_that_did_it(tmp_path):
    # No layer grows, so the second point trains what the first one trained.
    study = search(tmp_path, [POINTS[0], grown("none", "none", "none")])
    assert study.optuna.trials[1].user_attrs["origin_trial"] == 0
    assert kept(tmp_path) == {0}
    assert trained_trial(study, 1) == trained_trial(study, 0)


def test_what_is_not_there_is_told_in_one_line(done, tmp_path, monkeypatch):
    study = loaded(done)
    gone = min(set(range(len(POINTS))) - front_numbers(study))
    with pytest.raises(StorageError, match=r"was not kept \(keep_weights: front\).* export .*--trial"):
        trained_trial(study, gone)
    with pytest.raises(StorageError, match="no trial has the number 99"):
        trained_trial(study, 99)
    for words in (["--study", "tiny"], ["--trial", "0"], []):
        ran = invoke("evaluate", *words, "--workdir", done / "runs")
        assert isinstance(ran.exception, DtmeSearchError), words
    # The same study seen from another folder: where the network was written it still lies.
    number = min(kept(done))
    url = f"sqlite:///{done / 'runs' / 'tiny' / 'study.db'}"
    elsewhere = load_study("tiny", storage=url, workdir=tmp_path)
    assert trained_trial(elsewhere, number).path.parent.parent.parent == done / "runs" / "tiny"
    monkeypatch.setattr("socket.gethostname", lambda: "elsewhere")
    path = trained_trial(study, number).path
    path.rename(tmp_path / "away.pt")
    try:
        with pytest.raises(StorageError, match=r"lies on .* and this is elsewhere\. Run the command there"):
            trained_trial(study, number)
    finally:
        (tmp_path / "away.pt").rename(path)


def test_the_folder_of_another_study_of_the_name_is_not_taken_for_it(done, tmp_path):
    study, number = loaded(done), min(kept(done))
    path = Workspace(tmp_path / "tiny").weights(number)
    path.parent.mkdir(parents=True)
    content = weights.torch.load(trained_trial(study, number).path, weights_only=True)
    weights.torch.save({**content, "fingerprint": "other"}, path)
    url = f"sqlite:///{done / 'runs' / 'tiny' / 'study.db'}"
    elsewhere = load_study("tiny", storage=url, workdir=tmp_path)
    assert trained_trial(elsewhere, number).path != path


def test_clean_knows_the_networks_that_are_not_kept(tmp_path):
    study = search(tmp_path, POINTS[:3], keep_weights="all", reuse={"trunks": False})
    (front, *_), runs = sorted(front_numbers(study)), tmp_path / "runs"
    study.optuna.set_user_attr(
        "dtme:study", study.config.model_copy(update={"keep_weights": "front"}).model_dump_json()
    )
    (runs / "tiny" / "trials" / f"{front:04d}" / "weights.pt.1.partial").write_bytes(b"torn")
    removal = of_spare("tiny", workdir=runs)
    assert {path.name for path in removal.files} >= {"weights.pt.1.partial"}
    removal.carry_out()
    assert kept(tmp_path) == front_numbers(study)


@pytest.mark.parametrize("moment", ["save", "write_down"])
def test_a_kill_between_writing_and_telling_leaves_nothing_wrong(tmp_path, moment):
    """Once before the result is on disk, once after it; a torn file is there, too."""
    points = POINTS[:3]
    (tmp_path / "undisturbed").mkdir()
    undisturbed = search(tmp_path / "undisturbed", points)
    plain = getattr(Result, moment)

    def die(self: Result, *words: object) -> None:
        if self.row.trial == 1:
            folder = tmp_path / "runs" / "tiny" / "trials" / "0001"
            (folder / "weights.pt.77.partial").write_bytes(b"torn")
            os._exit(9)
        plain(self, *words)

    if (child := os.fork()) == 0:
        setattr(Result, moment, die)
        search(tmp_path, points)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    study = search(tmp_path, points)
    complete = study.optuna.get_trials(states=(optuna.trial.TrialState.COMPLETE,))
    values = sorted(trial.values for trial in complete)
    assert values == sorted(trial.values for trial in undisturbed.optuna.trials)
    front = front_numbers(study)
    assert kept(tmp_path) == {first_number(study.optuna.trials[number]) for number in front}
    for number in front:
        assert trained_trial(study, number).path.is_file()


def test_a_disk_that_does_not_take_a_network_costs_the_network_only(tmp_path, monkeypatch, caplog):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("dtme_search.search.trial.kept.save_weights", full)
    study = search(tmp_path, POINTS[:1])
    assert [trial.state.name for trial in study.optuna.trials] == ["COMPLETE"]
    assert KEPT_ATTR not in study.optuna.trials[0].user_attrs and "are not kept: " in caplog.text


def test_trimming_takes_nothing_from_a_trial_that_runs(tmp_path):
    study = search(tmp_path, POINTS[:2], keep_weights="all")
    running = study.optuna.ask()
    workspace = Workspace(tmp_path / "runs" / "tiny")
    path = workspace.weights(running.number)
    path.parent.mkdir()
    path.write_bytes(b"being written")
    path.with_name("tasks.json").write_text("[]")
    none = LoadedStudy(
        study.config.model_copy(update={"keep_weights": "none"}), study.optuna, study.records, study.place
    )
    trim_weights(none, workspace)
    assert kept(tmp_path) == {running.number}
