"""Runs of the tiny model, and what makes two of them the same."""

from __future__ import annotations

import torch
from device import DEVICE
from tiny import with_paths

from dtme_search.config import RunConfig
from dtme_search.training import Callbacks, Trainer

CPU = torch.device("cpu")
"""For what is about the CPU; everything else runs on ``DEVICE``."""


def with_(config: RunConfig, **fields: object) -> RunConfig:
    """Set dotted paths (written with ``__``)."""
    return RunConfig.model_validate(with_paths(config.model_dump(mode="json"), fields))


def trainer(config: RunConfig, data, folder=None, **callbacks) -> Trainer:
    if DEVICE.type != "cpu":  # there, too, equal runs are to give equal numbers
        config = with_(config, train__deterministic="always", train__precision="float32")
    return Trainer.of_config(config, data, folder=folder, callbacks=Callbacks(**callbacks))


def state(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


def assert_same_run(first: Trainer, first_result, second: Trainer, second_result) -> None:
    assert first_result.evaluations == second_result.evaluations
    assert first_result.plan == second_result.plan
    one, two = state(first), state(second)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
