"""A study that finds out which auxiliary tasks are worth having."""

from __future__ import annotations

import json

import pytest
import yaml
from commands import invoke
from tiny import TINY, write_tiny_study

from dtme_search.config import RunConfig, load_study_config, run_fingerprint, set_path
from dtme_search.errors import ConfigError
from dtme_search.search import optimize

TASKS = {"depth": {}, "normals": {"role": "auxiliary"}, "edge": {"role": "auxiliary", "weight": 0.5}}
ROLES = {"choices": ["auxiliary", "absent"]}
SEARCH = {"tasks.normals.role": ROLES, "tasks.edge.role": ROLES}


def test_an_absent_task_is_no_task():
    absent = set_path(set_path(TINY, "tasks", TASKS), "tasks.edge.role", "absent")
    left_out = set_path(TINY, "tasks", {name: TASKS[name] for name in ("depth", "normals")})
    one, other = RunConfig.model_validate(absent), RunConfig.model_validate(left_out)
    assert one == other and run_fingerprint(one) == run_fingerprint(other)


def test_some_task_must_be_left():
    with pytest.raises(ValueError, match="at least one primary task"):
        RunConfig.model_validate(set_path(TINY, "tasks", {"depth": {"role": "absent"}}))


@pytest.mark.parametrize(
    ("path", "choices"),
    [
        ("tasks.depth.role", ["auxiliary", "absent"]),
        ("tasks.edge.role", ["primary", "absent"]),
        ("tasks.edge.role", ["primary", "auxiliary", "absent"]),
    ],
)
def test_which_tasks_count_cannot_be_searched(tmp_path, path, choices):
    file = write_tiny_study(tmp_path, {"tasks": TASKS}, search={path: {"choices": choices}})
    with pytest.raises(ConfigError, match="primary cannot be searched, because delta_m") as refused:
        load_study_config(file)
    assert path in str(refused.value) and "[auxiliary, absent]" in str(refused.value)


def test_a_study_of_roles(tmp_path):
    changes = {"tasks": TASKS, "train.num_steps": 4, "train.statistics.map_images": 4}
    points = [dict.fromkeys(SEARCH, "auxiliary"), dict.fromkeys(SEARCH, "absent")]
    points.append({"tasks.normals.role": "absent", "tasks.edge.role": "auxiliary"})
    file = write_tiny_study(tmp_path, changes, trials=3, search=SEARCH, enqueue=points)
    study = optimize(file, workdir=tmp_path / "runs", device="cpu")
    trained = [set(RunConfig.model_validate_json(run.config).tasks) for run in study.records.runs("tiny")]
    assert trained == [{"depth", "normals", "edge"}, {"depth"}, {"depth", "edge"}]
    # A trial of the primary task alone is its baseline.
    assert study.records.runs("tiny")[1].delta_m_percent == pytest.approx(0.0, abs=1e-9)
    rows = study.records.evaluations("tiny", 0)
    assert len(rows) == 6 and all(len(json.loads(row.scores)) == 4 for row in rows)

    out = tmp_path / "points.yaml"
    where = ["--study", "tiny", "--workdir", str(tmp_path / "runs")]
    shown = invoke("tasks", *where, "--groups", "2", "--write", out)
    assert shown.exit_code == 0, shown.output
    for text in ("depth, normals", "2 / 1", "1 / 2", "group 2", "It does not mean that one helps the other"):
        assert text in shown.output
    proposed = yaml.safe_load(out.read_text())["enqueue"]
    assert len(proposed) == 3 and all(set(point) == set(SEARCH) for point in proposed)
    report = invoke("report", *where, "--out", tmp_path / "report.html")
    assert report.exit_code == 0 and "Data map of trial" in (tmp_path / "report.html").read_text()
