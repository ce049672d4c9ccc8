"""Final training: all training ids, the test split named, baselines of its own, resumed for nothing."""

from __future__ import annotations

import json
import shutil
from typing import NamedTuple

import pytest
from tiny import TINY, with_paths, write_tiny_study
from watching import Heard, ctrl_c, once

from dtme_search.config import RunConfig, load_run_config
from dtme_search.errors import ConfigError, TrainingError
from dtme_search.search import FinalResult, evaluate_checkpoint, train_baselines, train_final
from dtme_search.search.storage.records import Records
from dtme_search.training import TrainingInterrupted, identity

ALONE = [["depth"], ["edge"]]
CHANGES = {"tasks": {"depth": {}, "edge": {}}, "model.drop_path": 0.2, "train.checkpoint_seconds": 0.0}


def config_of(**fields: object) -> RunConfig:
    return RunConfig.model_validate(with_paths(TINY, {**CHANGES, **fields}))


GROWING = config_of(expansion={"policy": "fixed", "start": 0.5, "plan": {"expand": {1: ALONE}}})


class Done(NamedTuple):
    """A finished training whose baselines are in a database that holds those of a search already."""

    result: FinalResult
    heard: Heard
    records: Records
    options: dict


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Done:
    folder = tmp_path_factory.mktemp("final")
    options = {"workdir": folder / "runs", "device": "cpu", "storage": f"sqlite:///{folder / 'all.db'}"}
    train_baselines(write_tiny_study(folder, CHANGES), **options)
    heard = Heard()
    result = train_final(GROWING, "best", listener=heard, **options)
    records = Records(options["storage"])
    yield Done(result, heard, records, options)
    records.engine.dispose()


def test_the_test_split_is_measured_and_named(done):
    result = done.result
    assert (result.split, result.num_images) == ("test", 4)
    assert result.metrics.keys() == result.specs.keys() == {"depth", "edge"}
    written = json.loads((result.folder / "metrics.json").read_text())
    assert written == {
        "split": "test",
        "size": "the labels' own size",
        "metrics": dict(result.metrics),
        "extra_metrics": {"edge": {"ods_f": result.extra_metrics["edge"]["ods_f"]}},
        "delta_m_percent": result.delta_m_percent,
        "against": result.against,
        "baselines": [row.plain() for row in result.baselines.values()],
    }
    assert load_run_config(str(result.folder / "config.yaml")) == GROWING


def test_baselines_are_trained_on_the_same_ids_and_are_other_rows_than_those_of_a_search(done):
    assert done.heard.trained == ["depth", "edge"]
    rows = done.records.baselines()
    assert [(row.task, row.split, row.num_images) for row in rows] == [
        ("depth", "holdout", 20), ("edge", "holdout", 20), ("depth", "test", 24), ("edge", "test", 24),
    ]  # fmt: skip
    assert len({row.fingerprint for row in rows}) == 4
    assert done.result.baselines == {row.task: row for row in rows if row.split == "test"}


def test_edges_are_also_measured_exactly_and_delta_m_stays_with_the_baselines_metric(done):
    result = done.result
    assert result.extra_metrics.keys() == {"edge"}
    assert 0 <= result.extra_metrics["edge"]["ods_f"] <= 1
    assert result.baselines["edge"].metric == "edge_f"
    assert done.heard.scored == [(0, 4), (4, 4)]


def test_delta_m_follows_from_metrics_and_baselines(done):
    result = done.result
    metrics, base = result.metrics, {task: row.value for task, row in result.baselines.items()}
    gains = {
        "depth": 100 * (base["depth"] - metrics["depth"]) / base["depth"],
        "edge": 100 * (metrics["edge"] - base["edge"]) / base["edge"],
    }
    assert result.gains_percent == pytest.approx(gains)
    assert result.delta_m_percent == pytest.approx(sum(gains.values()) / 2)
    assert set(result.dead_tasks) <= {"depth", "edge"} and "depth" in result.dead_tasks


def test_evaluating_the_checkpoint_gives_the_same_metrics(done):
    again = evaluate_checkpoint(GROWING, done.result.folder / "checkpoint.pt", "test", device="cpu")
    assert again.metrics == done.result.metrics
    assert again.extra_metrics == done.result.extra_metrics
    assert (again.split, again.num_images) == ("test", 4)
    assert again.delta_m_percent == done.result.delta_m_percent  # the baselines of `train` are beside it
    assert again.gains_percent == done.result.gains_percent


def test_a_second_call_trains_nothing(done):
    checkpoint = done.result.folder / "checkpoint.pt"
    before = checkpoint.stat().st_mtime_ns
    heard = Heard()
    again = train_final(GROWING, "best", listener=heard, **done.options)
    assert again == done.result
    assert heard.trained == [] and heard.known == ["depth", "edge"]
    assert checkpoint.stat().st_mtime_ns == before


def test_baselines_of_another_arithmetic_are_not_taken(done, monkeypatch):
    monkeypatch.setattr(identity, "version", lambda _: "9.9.9")  # timm was updated
    heard = Heard()
    updated = train_final(GROWING, "best", listener=heard, **done.options)
    assert heard.trained == ["depth", "edge"] and updated.folder != done.result.folder


def test_a_schedule_that_follows_results_is_refused_before_anything_is_trained(tmp_path):
    tasks = {"depth": {}, "edge": {"role": "auxiliary"}}
    config = config_of(tasks=tasks, schedule={"kind": "switch", "patience": 1})
    heard = Heard()
    with pytest.raises(ConfigError, match=r"schedule\.patience must be empty in a final training"):
        train_final(config, "best", workdir=tmp_path, device="cpu", listener=heard)
    assert heard.trained == []


def test_another_config_of_the_same_name_gets_another_folder(done):
    other = train_final(config_of(seed=1), "best", with_baselines=False, **done.options)
    assert other.folder != done.result.folder and other.folder.parent == done.result.folder.parent
    assert other.baselines == {} and other.delta_m_percent is None
    written = json.loads((other.folder / "metrics.json").read_text())
    assert written["delta_m_percent"] is None and written["metrics"] != dict(done.result.metrics)


def test_a_stopped_training_goes_on_to_the_same_numbers(tmp_path):
    """Ctrl-C after the growth."""
    config = config_of(**{"expansion": GROWING.expansion.model_dump(mode="json"), "train.num_steps": 30})
    whole = train_final(config, "best", workdir=tmp_path / "whole", device="cpu", with_baselines=False)

    heard = Heard(once("progress", 20, ctrl_c))
    options = {"workdir": tmp_path / "cut", "device": "cpu", "with_baselines": False}
    with pytest.raises(TrainingInterrupted, match="stopped at step 20 of 30"):
        train_final(config, "best", listener=heard, **options)
    folder = tmp_path / "cut" / "train" / whole.folder.name
    assert (folder / "checkpoint.pt").is_file() and not (folder / "metrics.json").exists()
    assert train_final(config, "best", **options).metrics == whole.metrics


def test_a_measurement_can_be_stopped_and_repeated(done):
    with pytest.raises(TrainingInterrupted, match="stopped while the trained model was measured"):
        train_final(GROWING, "best", listener=Heard(once("scoring", 0, ctrl_c)), **done.options)
    assert train_final(GROWING, "best", **done.options) == done.result


def test_a_checkpoint_that_is_missing_or_belongs_elsewhere_is_one_line(done, tmp_path):
    with pytest.raises(TrainingError, match=r"no such checkpoint\. `dtme-search train` writes one\.$"):
        evaluate_checkpoint(GROWING, tmp_path / "checkpoint.pt", "test", device="cpu")
    shutil.copy(done.result.folder / "checkpoint.pt", tmp_path)
    narrower = config_of(**{"model.decoder_channels": 8})
    with pytest.raises(TrainingError, match="does not fit the config beside it") as caught:
        evaluate_checkpoint(narrower, tmp_path / "checkpoint.pt", "test", device="cpu")
    assert "\n" not in str(caught.value)
