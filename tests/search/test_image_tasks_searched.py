"""A study with a task about the whole image beside dense ones, from YAML to report."""

from __future__ import annotations

from tiny import write_tiny_study
from typer.testing import CliRunner

from dtme_search.cli.main import app
from dtme_search.search import optimize

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
        done = CliRunner().invoke(app, [*words.split(), *place, "--out", str(out)])
        assert done.exit_code == 0, done.output
        assert "room" in out.read_text()
    likeness = CliRunner().invoke(app, ["tasks", *place])
    assert likeness.exit_code == 0 and "room" in likeness.output
