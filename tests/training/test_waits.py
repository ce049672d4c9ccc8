"""How often the CPU waits for the device: never in a step, and rarely elsewhere."""

import pytest
import torch

from dtme_search.config import RunConfig
from dtme_search.data import build_data
from dtme_search.training import Trainer, evaluate
from tests.pretend_cuda import CUDA, pretend_cuda
from tests.tiny import TINY
from tests.training.runs import with_


@pytest.fixture
def device(monkeypatch):
    with pretend_cuda(monkeypatch) as waits:
        yield waits


def trainer_on_cuda(**changes):
    config = with_(RunConfig.model_validate(TINY), train__precision="float32", **changes)
    return Trainer.of_config(config, build_data(config.data, tuple(config.tasks), CUDA))


def test_a(device):
    trainer = trainer_on_cuda()
    print("setup", device)
    device.clear()
    batches = trainer.data.train_batches(4, 0)
    for _ in range(3):
        trainer._train_step(next(batches))
    print("steps", device)
    device.clear()
    print(evaluate(trainer.model, trainer.data, "holdout", trainer.config.train))
    print("eval", device)
    assert 0
