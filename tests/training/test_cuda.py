"""Whole runs on a CUDA device."""

import pytest
import torch
from runs import CPU, assert_same_run, trainer, with_
from tiny import TINY

from dtme_search.config import RunConfig
from dtme_search.data import build_data
from dtme_search.training import TrainingInterrupted
from dtme_search.training.growth import Growth
from dtme_search.training.runtime import run_numerics

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
CUDA = torch.device("cuda:0")
GROWN = {
    "expansion__policy": "per_layer",
    "expansion__layers": ["none", "modulate", "both"],
    "expansion__start": 0.5,
}


@pytest.fixture(scope="module")
def data():
    config = RunConfig.model_validate(TINY)
    return {device: build_data(config.data, tuple(config.tasks), device) for device in (CPU, CUDA)}


def config_with(**changes):
    return with_(RunConfig.model_validate(TINY), **changes)


@pytest.mark.parametrize("changes", [{}, GROWN], ids=["plain", "grown"])
def test_a_run_gives_the_numbers_of_the_cpu(data, changes):
    config = config_with(train__precision="float32", **changes)
    expected = trainer(config, data[CPU]).run().metrics
    assert dict(trainer(config, data[CUDA]).run().metrics) == pytest.approx(dict(expected), rel=2e-2)


def test_a_deterministic_run_repeats_itself_and_resumes(data, tmp_path):
    config = config_with(train__deterministic="always", train__checkpoint_seconds=0.0, **GROWN)
    first, second = trainer(config, data[CUDA]), trainer(config, data[CUDA])
    result = first.run()
    assert_same_run(first, result, second, second.run())
    stopped = trainer(config, data[CUDA], tmp_path, should_stop=lambda: stopped.state.step == 7)
    with pytest.raises(TrainingInterrupted):
        stopped.run()
    resumed = trainer(config, data[CUDA], tmp_path)
    assert_same_run(first, result, resumed, resumed.run())


@pytest.mark.parametrize("changes", [{}, {**GROWN, "expansion__start": 0.0}], ids=["plain", "grown"])
@pytest.mark.parametrize("precision", ["float32", "auto"])
def test_a_training_step_never_waits(data, changes, precision):
    run = trainer(config_with(train__precision=precision, **changes), data[CUDA])
    run.model.train()
    with run_numerics(run.config.train, CUDA):
        batches = run.data.train_batches(4, 0)
        for batch, _ in zip(batches, range(3), strict=False):
            run._begin_step()
            run._train_step(batch)
        torch.cuda.set_sync_debug_mode("error")
        try:
            for batch, _ in zip(batches, range(3), strict=False):
                run._train_step(batch)
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_conflicts_are_those_of_the_cpu_but_for_ties(data):
    config = config_with(train__precision="float32", expansion__policy="conflict")
    reports = []
    for device in (CPU, CUDA):
        run = trainer(config, data[device])
        run.model.train()
        with run_numerics(config.train, device):
            reports.append(Growth(config, run.model, run.data, run.losses, tuple(config.tasks)).measure())
    cpu, cuda = reports
    assert cuda.range_dims == cpu.range_dims
    for one, other in ((cpu.range_counts, cuda.range_counts), (cpu.null_counts, cuda.null_counts)):
        assert (one - other).abs().double().mean() < 0.02 * cpu.num_positions
