"""Auxiliary outputs of a decoder are trained, measured and split into parts like final ones."""

from __future__ import annotations

import pytest
import torch
from tiny import TINY, with_paths

from dtme_search.config import RunConfig
from dtme_search.data import build_data
from dtme_search.models import resize
from dtme_search.training import Trainer
from dtme_search.training.losses import task_loss


@pytest.fixture(scope="module")
def trainer():
    changes = {
        "model.decoder": "invpt",
        "model.decoder_channels": 64,
        "model.backbone_options.depth": 4,
        "data.image_size": [32, 64],
    }
    config = RunConfig.model_validate(with_paths(TINY, changes))
    return Trainer.of_config(config, build_data(config.data, tuple(config.tasks), torch.device("cpu")))


@pytest.fixture
def batch(trainer):
    return next(iter(trainer.data.train_batches(4, seed=1)))


def test_each_adds_the_loss_of_its_task_once_more(trainer, batch):
    predictions = trainer.model.forward_with_auxiliary(batch.images)
    losses = trainer.losses.of(predictions, batch, tuple(trainer.config.tasks))
    for name, loss in losses.items():
        (preliminary,) = predictions.auxiliary[name]
        assert preliminary.shape[-2:] == (2, 4)
        by_hand = [
            task_loss(
                trainer.data.specs[name],
                output,
                batch.targets[name],
                batch.valid[name],
                edge_positive_weight=trainer.config.train.edge_positive_weight,
            )
            for output in (predictions.outputs[name], resize(preliminary, (32, 64)))
        ]
        assert all(one > 0 for one in by_hand)
        torch.testing.assert_close(loss, by_hand[0] + by_hand[1])


def test_parts_of_a_batch_add_up(trainer, batch):
    model = trainer.model.eval()
    weights = {"depth": 1.0, "edge": 2.0}
    found = []
    for parts in (1, 2):
        model.zero_grad()
        losses = trainer.losses.backward(batch, weights, parts)
        found.append((losses, [p.grad.clone() for p in model.backbone.parameters() if p.grad is not None]))
    torch.testing.assert_close(found[0][0], found[1][0])
    for whole, of_parts in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(whole, of_parts, rtol=1e-3, atol=1e-5)
