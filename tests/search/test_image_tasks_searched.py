"""A study with a task about the whole image beside dense ones, from YAML to report."""

from __future__ import annotations

import csv
import json

from commands import invoke
from tiny import write_tiny_study

from dtme_search.data import build_dataset, split_ids
from dtme_search.errors import ConfigError
from dtme_search.search import optimize
from dtme_search.search.storage.studies import stored_base_config

TASKS = {"semseg": {}, "room": {}, "depth": {"role": "auxiliary"}}


def test_a_study_with_the_type_of_a_room(tmp_path):
    """Baselines, conflicts, a grown trial, figures, and a final training with its panels."""
    file = write_tiny_study(
        tmp_path,
        {"tasks": TASKS, "train.num_steps": 4, "train.statistics.map_images": 4},
        trials=2,
        search={"expansion.policy": {"choices": ["none", "conflict"]}},
        enqueue=[{"expansion.policy": "none"}, {"expansion.policy": "conflict"}],
    )
    study = optimize(file, workdir=tmp_path / "runs", device="cpu")
    runs = study.records.runs("tiny")
    assert len(runs) == 2 and all(run.delta_m_percent is not None for run in runs)
    rows = study.records.evaluations("tiny", 1)
    assert {row.task: row.metric for row in rows}["room"] == "accuracy"
    assert all(0 <= row.value <= 1 for row in rows if row.task == "room")
    pairs = {(row.task_a, row.task_b) for row in study.records.conflicts("tiny", 1)}
    assert ("semseg", "room") in pairs or ("room", "semseg") in pairs
    place = ["--study", "tiny", "--workdir", str(tmp_path / "runs")]
    outputs = {"report": tmp_path / "r.html", "export --best --force": tmp_path / "best.yaml"}
    for words, out in outputs.items():
        done = invoke(*words.split(), *place, "--out", out)
        assert done.exit_code == 0, done.output
        assert "room" in out.read_text()
    likeness = invoke("tasks", *place)
    assert likeness.exit_code == 0 and "room" in likeness.output
    assert "room: in trial 1, 4 training images were right in" in likeness.output

    done = invoke("tasks", *place, "--images", tmp_path / "map.csv")
    assert done.exit_code == 0, done.output
    table = list(csv.DictReader((tmp_path / "map.csv").read_text().splitlines()))
    assert len(table) == 2 * 3 * 4
    data = stored_base_config(study.optuna).data
    splits = split_ids(build_dataset(data), data, final=False)
    assert {row["image"] for row in table} <= set(splits.train)
    for row in table:
        hits = [json.loads(each.hits) for each in rows_of(study, row) if each.hits is not None]
        assert (row["correctness"] == "") == (row["task"] != "room") == (not hits)
        assert not hits or float(row["correctness"]) in {0.0, 0.5, 1.0}
    again = invoke("tasks", *place, "--images", tmp_path / "map.csv")
    assert isinstance(again.exception, ConfigError) and "already exists" in str(again.exception)


def rows_of(study, row):
    stored = study.records.evaluations("tiny", int(row["trial"]))
    return [each for each in stored if each.task == row["task"]]
