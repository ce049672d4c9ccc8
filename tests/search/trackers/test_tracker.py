"""What every tracker has from its base: it disturbs no trial, is found by name, and is told no secrets."""

from __future__ import annotations

import logging
import threading
import time

import pytest
from tiny import grown, write_tiny_study

from dtme_search.cli.options import callbacks_of
from dtme_search.errors import ConfigError
from dtme_search.search import optimize
from dtme_search.search.trackers import background
from dtme_search.search.trackers.calling import TRACKERS, with_callbacks
from dtme_search.search.trackers.masking import masked, masked_text
from dtme_search.search.trackers.tracker import Tracker
from dtme_search.search.trial.listener import Listener

CHANGES = {"tasks": {"depth": {}, "edge": {}}, "train.num_steps": 4}


class Notes(Tracker):
    """Writes down what it is told."""

    def __init__(self):
        super().__init__()
        self.told = []
        self.threads = set()

    def note(self, what, run, *rest):
        self.threads.add(threading.current_thread())
        self.told.append((what, run.label, *rest))

    def begin(self, run, settings):
        self.note("begin", run, dict(settings))

    def values(self, run, values, step):
        self.note("values", run, step, dict(values))

    def text(self, run, name, text):
        self.note("text", run, name, text)

    def end(self, run, facts):
        self.note("end", run, facts.get("state"))


class Raises(Notes):
    def values(self, run, values, step):
        super().values(run, values, step)
        raise OSError("no route to\nhttps://ann:s3cret@host")


class Hangs(Notes):
    def __init__(self):
        super().__init__()
        self.until = threading.Event()

    def values(self, run, values, step):
        super().values(run, values, step)
        self.until.wait(60)


def one_trial(folder, *callbacks, **fields):
    fields = {"trials": 1, "enqueue": [grown()], **fields}
    file = write_tiny_study(folder, CHANGES, **fields)
    return optimize(file, workdir=folder / "runs", device="cpu", callbacks=callbacks)


def test_a_tracker_that_fails_or_hangs_disturbs_nothing(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(background, "LAST_SECONDS", 0.5)
    fails, hangs, works = Raises(), Hangs(), Notes()
    with caplog.at_level(logging.WARNING, "dtme_search"):
        study = one_trial(tmp_path, fails, hangs, works)
    hangs.until.set()
    assert [run.state for run in study.records.runs("tiny")] == ["complete"]
    for tracker in (fails, hangs):
        assert sum(each[0] == "values" for each in tracker.told) == 1, "it is off from then on"
    for tracker in (fails, hangs, works):
        assert threading.main_thread() not in tracker.threads and len(tracker.threads) == 1
    assert works.told[-1] == ("end", "study", "complete")
    assert ("end", "trial-0000", "complete") in works.told
    warned = sorted(record.message for record in caplog.records if "tracker" in record.message)
    assert warned == [
        "tracker Hangs: still busy after 0 s, so what it has not written is lost; it is off, the search "
        "continues",
        "tracker Raises: OSError: no route to https://ann:***@host; it is off, the search continues",
    ]


def test_a_tracker_that_falls_behind_is_given_up(monkeypatch, caplog):
    monkeypatch.setattr(background, "MOST_WAITING", 3)
    go, done = threading.Event(), []
    calls = background.Background("Slow")
    began = time.monotonic()
    calls.do(lambda: go.wait(60))
    for number in range(9):
        calls.do(lambda number=number: done.append(number))
    calls.finish()
    assert time.monotonic() - began < 5, "nothing waits for it"
    go.set()
    assert [record.message for record in caplog.records] == [
        "tracker Slow: does not keep up, 3 entries wait; it is off, the search continues"
    ]
    assert done == []


def test_what_was_told_comes_in_order_before_the_end():
    done = []
    calls = background.Background("Fast")
    for number in range(500):
        calls.do(lambda number=number: done.append(number))
    calls.finish()
    assert done == list(range(500))


def test_secrets_are_masked_in_all_that_is_told(tmp_path):
    works = Notes()
    description = "results in postgresql://ann:s3cret@host/db?password=s3cret"
    one_trial(tmp_path, works, description=description)
    texts = {(run, name): text for what, run, name, text in (t for t in works.told if t[0] == "text")}
    assert "postgresql://ann:***@host/db?password=***" in texts["study", "study.yaml"].replace("\n", "")
    assert "s3cret" not in str(works.told)
    assert "num_steps: 4" in texts["trial-0000", "config.yaml"]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ({"options": {"password": "x"}}, {"options": {"password": "***"}}),
        ({"hub_token": "x", "HF_TOKEN": "y"}, {"hub_token": "***", "HF_TOKEN": "***"}),
        ({"api_key": "x", "key": "y"}, {"api_key": "***", "key": "y"}),
        ({"token_std": 0.02, "tokens": 5}, {"token_std": 0.02, "tokens": 5}),
        ({"token_space": "range"}, {"token_space": "range"}),
        ({"secrets": ["x", "y"], "password": ""}, {"secrets": ["***", "***"], "password": ""}),
        ({"where": ("s3://a:b@c/d", "/data")}, {"where": ["s3://a:***@c/d", "/data"]}),
    ],
)  # fmt: skip
def test_masking(value, shown):
    assert masked(value) == shown


def test_masking_leaves_what_is_no_secret():
    for text in ("sqlite:///study.db", "a@b.org", "https://host/a?step=3", "conflict: 3 @ 4"):
        assert masked_text(text) == text


PARTS = """
from dtme_search import Callback
from dtme_search.search.trackers.tracker import TrackerKind

class Mine(Callback):
    def on_trial_end(self, trial, end):
        (trial.study.folder / "mine.txt").write_text(f"{trial.number} {end.state}")

PLUGINS = {"trackers": {"mine": TrackerKind(Mine)}}
"""


def test_a_tracker_of_the_study_s_own_file_is_found_by_name(tmp_path):
    file = tmp_path / "parts.py"
    file.write_text(PARTS)
    file.chmod(0o644)
    one_trial(tmp_path, "mine", plugins=["parts.py"])
    assert (tmp_path / "runs/tiny/mine.txt").read_text() == "0 complete"


@pytest.mark.parametrize(("name", "told"), [("tensorbord", "Did you mean 'tensorboard'?"), ("zz", "Known: ")])
def test_an_unknown_name(name, told):
    with pytest.raises(ConfigError, match=f"tracker: no tracker is named '{name}'") as refused:
        with_callbacks(Listener(), [name])
    assert told in str(refused.value)


@pytest.mark.parametrize(
    ("callback", "tracker", "told"),
    [
        (["tensorboard"], None, "--callback must be MODULE:NAME, got 'tensorboard'. For a tracker use"),
        (None, ["a:b"], "--tracker must be a name, got 'a:b'. For MODULE:NAME use --callback."),
    ],
)
def test_one_given_as_the_other_on_the_command_line(callback, tracker, told):
    with pytest.raises(ConfigError, match=told):
        callbacks_of(callback, tracker)
    assert callbacks_of(None, ["wandb", "mine"]) == ("wandb", "mine")


@pytest.mark.parametrize("name", list(TRACKERS))
def test_a_missing_package_is_named_before_anything_is_trained(name, tmp_path, monkeypatch):
    monkeypatch.setattr("dtme_search.search.trackers.tracker.find_spec", lambda _name: None)
    with pytest.raises(ConfigError) as refused:
        one_trial(tmp_path, name)
    assert str(refused.value) == (
        f"tracker '{name}' needs the package {name}, which is not installed. Install it with: "
        f"pip install 'dtme-search[{name}]'."
    )
    assert not (tmp_path / "runs").exists()
