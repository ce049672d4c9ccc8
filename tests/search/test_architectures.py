"""A study in which the architecture is a choice, from the file to predictions of the exported model."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tiny import write_tiny_study

from dtme_search.config import load_run_config
from dtme_search.errors import ConfigError
from dtme_search.reporting import export_trial
from dtme_search.search import optimize, train_final
from dtme_search.training import Predictor, restore_model

HEADS = "model.architecture_options.taskprompter.channel_heads"


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ({"model.architecture": {"choices": ["vit", "taskpromter"]}}, "'taskpromter'.*taskprompter"),
        ({"model.decoder": {"choices": ["simple", "simpel"]}}, "'simpel'.*simple"),
        (
            {
                "model.architecture": {"choices": ["vit", "taskprompter"]},
                HEADS: {"choices": [1, 9], "when": {"model.architecture": "taskprompter"}},
            },
            f"{HEADS}: 9: .*square number",
        ),
    ],
)
def test_a_choice_that_cannot_be_built_is_one_line_before_any_training(tmp_path, search, message):
    file = write_tiny_study(tmp_path, search=search)
    with pytest.raises(ConfigError, match=rf"study tiny: search.*{message}"):
        optimize(file, workdir=tmp_path / "runs", device="cpu")
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").rglob("trials/*"))


@pytest.mark.slow
def test_it_is_searched_exported_trained_and_predicts(tmp_path):
    file = write_tiny_study(
        tmp_path,
        {
            "tasks": {"depth": {}, "normals": {}},  # ten steps may find no edge, and nothing compares with 0
            "expansion.policy": "conflict",
            "expansion.start": 0.5,
            "model.decoder_channels": 8,
        },
        search={
            "model.architecture": {"choices": ["vit", "taskprompter"]},
            HEADS: {"choices": [1, 4], "when": {"model.architecture": "taskprompter"}},
        },
        trials=2,
        enqueue=[{"model.architecture": "vit"}, {"model.architecture": "taskprompter", HEADS: 4}],
    )
    study = optimize(file, workdir=tmp_path / "runs", device="cpu")
    assert [trial.state.name for trial in study.optuna.trials] == ["COMPLETE", "COMPLETE"]
    curves = [
        [row.value for row in study.records.evaluations(study.name, number) if row.task == "depth"]
        for number in (0, 1)
    ]
    assert len(curves[0]) == len(curves[1]) and curves[0] != curves[1]

    config = load_run_config(str(export_trial(study, 1, tmp_path / "best.yaml", force=True)))
    assert config.model.architecture == "taskprompter"
    assert config.model.architecture_options == {"taskprompter": {"channel_heads": 4}}
    assert config.expansion.policy == "fixed"
    options = {"workdir": tmp_path / "runs", "device": "cpu"}
    result = train_final(config, "best", with_baselines=False, **options)
    assert all(math.isfinite(value) for value in result.metrics.values())
    cpu = torch.device("cpu")
    model = restore_model(result.folder / "checkpoint.pt", config, result.specs, cpu)
    found = Predictor.of_model(model, result.specs, config, cpu)(np.zeros((50, 70, 3), np.uint8))
    assert {found.label(task).shape[:2] for task in config.tasks} == {(50, 70)}
