"""How often the CPU waits for the device: never in a step, rarely elsewhere."""

import pytest
from pretend_cuda import CPU, CUDA, pretend_cuda
from runs import with_
from tiny import TINY

from dtme_search.config import RunConfig
from dtme_search.data import build_data
from dtme_search.training import Trainer, evaluate
from dtme_search.training.growth import Growth

GROWN = {
    "expansion__policy": "per_layer",
    "expansion__layers": ["none", "modulate", "both"],
    "expansion__start": 0.0,
}
READS_OF_AN_EVALUATION = 16
"""Once for all images: four tasks, a few numbers each."""
READS_OF_A_MEASUREMENT = 12
"""Losses twice, covariances finite, eigenvalues (and their check), counts twice."""


@pytest.fixture
def waits(monkeypatch):
    with pretend_cuda(monkeypatch) as counted:
        yield counted


def trainer_on(device, **changes):
    config = with_(RunConfig.model_validate(TINY), train__precision="float32", **changes)
    return Trainer.of_config(config, build_data(config.data, tuple(config.tasks), device))


@pytest.mark.parametrize(
    "changes",
    [{}, {"model__drop_path": 0.3}, {"train__grad_clip": 1.0}, GROWN],
    ids=["plain", "drop path", "clipped", "grown"],
)
def test_a_training_step_never_waits(waits, changes):
    trainer = trainer_on(CUDA, **changes)
    batches = trainer.data.train_batches(trainer.config.train.batch_size, trainer.config.seed)
    batch = next(batches)
    trainer._begin_step()
    trainer._train_step(batch)  # the first one brings the ways of the streams to the device
    assert (trainer.model.plan is not None) == bool(changes == GROWN)
    waits.clear()
    for _ in range(3):
        trainer._train_step(next(batches))
    assert not waits


def test_pretended_waits_are_seen(waits):
    trainer = trainer_on(CUDA)
    waits.clear()
    losses = trainer.losses(next(trainer.data.train_batches(4, 0)), tuple(trainer.config.tasks))
    assert not waits
    assert all(float(loss.detach()) > 0 for loss in losses.values())
    assert waits.total() == len(losses)


def test_an_evaluation_waits_once_per_batch_and_gives_the_numbers_of_the_cpu(waits):
    trainer = trainer_on(CUDA, train__eval_batch_size=2)
    waits.clear()
    metrics = evaluate(trainer.model, trainer.data, "holdout", trainer.config.train)
    num_batches = -(-len(trainer.data.splits.holdout) // 2)
    assert num_batches > 1
    assert waits.total() <= num_batches + READS_OF_AN_EVALUATION
    on_cpu = trainer_on(CPU, train__eval_batch_size=2)
    expected = evaluate(on_cpu.model, on_cpu.data, "holdout", on_cpu.config.train)
    assert metrics == pytest.approx(expected, rel=1e-6)


def test_a_measurement_waits_as_rarely_for_many_batches_and_layers(waits):
    trainer = trainer_on(CUDA, expansion__num_images=12, expansion__policy="conflict")
    growth = Growth(trainer.config, trainer.model, trainer.data, trainer.losses, tuple(trainer.config.tasks))
    waits.clear()
    report = growth.measure()
    assert len(report.range_dims) == 3
    assert waits.total() <= READS_OF_A_MEASUREMENT
