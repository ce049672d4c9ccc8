"""`--study pascal-small` and `--study taskonomy-small`, from small published copies to a trial."""

from __future__ import annotations

import pascal_folder
import pytest
import taskonomy_folder

from dtme_search.data.prepare import prepare
from dtme_search.search import optimize

FEW_STEPS = ("train.num_steps=4", "train.num_evaluations=1", "train.warmup_steps=0", "train.batch_size=2")


def search(name, root, tmp_path, *overrides):
    study = optimize(
        name,
        workdir=tmp_path / "runs",
        device="cpu",
        trials=1,
        data_root=str(root),
        overrides=(*FEW_STEPS, *overrides),
    )
    (trial,) = [trial for trial in study.optuna.trials if trial.state.is_finished()]
    return study, trial


@pytest.mark.slow
def test_pascal_context_from_its_release(tmp_path):
    ids = tuple(f"2008_{number:06d}" for number in range(3, 15))
    release = pascal_folder.write_release(tmp_path / "release", (60, 80), ids, ("2009_000001",))
    root = tmp_path / "prepared"
    prepare("pascal_context", release, root, jobs=1, on_progress=lambda done, total: None)
    study, trial = search("pascal-small", root, tmp_path, "data.image_size=[32, 48]")
    assert trial.state.name == "COMPLETE" and len(trial.values) == 2
    assert {each.task for each in study.records.baselines()} >= {
        *("semseg", "human_parts", "sal", "normals", "edge")
    }


@pytest.mark.slow
def test_taskonomy_behind_a_loader(tmp_path):
    root = taskonomy_folder.write_taskonomy(tmp_path / "taskonomy", size=(64, 64))
    _, trial = search(
        "taskonomy-small",
        root,
        tmp_path,
        "data.storage=loader",
        "data.loader_workers=0",
        "data.image_size=[32, 32]",
    )
    assert trial.state.name == "COMPLETE" and len(trial.values) == 2
