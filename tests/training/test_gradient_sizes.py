"""Schedules that follow gradients, in real steps: sizes by a plain loop, resuming, what a plateau leaves."""

from __future__ import annotations

import pytest
import torch
from device import DEVICE
from runs import assert_same_run, trainer, with_
from tiny import TINY

from dtme_search.config import RunConfig
from dtme_search.data import build_data
from dtme_search.models import build_model
from dtme_search.training import TrainingInterrupted
from dtme_search.training.forward import TaskLosses
from dtme_search.training.gradient_sizes import fisher_traces, gradient_norms
from dtme_search.training.growth import resolved_config

TASKS = ("semseg", "depth", "normals", "edge")
AUXILIARY = {
    "tasks": {"semseg": {}, "depth": {}, "normals": {"role": "auxiliary"}, "edge": {"role": "auxiliary"}}
}


@pytest.fixture(scope="module")
def config() -> RunConfig:
    return with_(RunConfig.model_validate(TINY), model__drop_path=0.2, **AUXILIARY)


@pytest.fixture(scope="module")
def data(config):
    return build_data(config.data, TASKS, DEVICE)


@pytest.fixture
def losses(config, data):
    model = build_model(config.model, data.specs, data.image_size, seed=0).train()
    return TaskLosses(config.train, model, data)


@pytest.fixture(scope="module")
def batch(data):
    return next(iter(data.train_batches(4, seed=1)))


def squared_norm(losses, batch, task) -> float:
    losses.model.zero_grad()
    losses(batch, (task,))[task].backward()
    return sum(float(each.grad.double().square().sum()) for each in losses.model.backbone.parameters())


def test_the_norm_is_that_of_the_batch(losses, batch):
    before = {name: value.clone() for name, value in losses.model.state_dict().items()}
    torch.manual_seed(4)
    found = gradient_norms(losses, batch, ("normals", "edge"), 1)
    for name, value in losses.model.state_dict().items():
        assert torch.equal(value, before[name]), name
    for task in ("normals", "edge"):
        torch.manual_seed(4)
        assert found[task] == pytest.approx(squared_norm(losses, batch, task) ** 0.5, rel=1e-4)


def test_the_fisher_trace_is_a_mean_over_images(losses, batch):
    drawn = torch.get_rng_state()
    found = fisher_traces(losses, batch, ("normals", "edge"), 3)
    assert losses.model.training and torch.equal(torch.get_rng_state(), drawn)
    losses.model.eval()
    images = batch.split(4)[:3]
    for task in ("normals", "edge"):
        expected = sum(squared_norm(losses, image, task) for image in images) / 3
        assert found[task] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("kind", ["inverse_gradient_norm", "fisher_trace"])
def test_a_stopped_run_goes_on_bit_for_bit(config, data, tmp_path, kind):
    """Looks at steps 0, 3, 6 and 9; the run is stopped between two of them."""
    config = with_(config, schedule={"kind": kind, "every": 3, "images": 2})
    straight = trainer(config, data)
    expected = straight.run()
    weights = straight.state.schedule.weights(9)
    assert weights["normals"] + weights["edge"] == pytest.approx(2.0) and weights["edge"] != pytest.approx(
        1.0
    )
    stop = [False]
    run = trainer(config, data, tmp_path, should_stop=lambda: stop[0] or run.state.step >= 5)
    with pytest.raises(TrainingInterrupted):
        run.run()
    resumed = trainer(config, data, tmp_path)
    assert_same_run(straight, expected, resumed, resumed.run())


def test_what_a_plateau_found_is_written_out(config, data):
    """The run that is told trains to the same model, and looks at no evaluation."""
    config = with_(
        config, train__num_evaluations=5, schedule={"kind": "diminish", "patience": 1}, train__lr=1e-12
    )
    searched = trainer(config, data)
    result = searched.run()
    assert result.plateau_step is not None and result.plateau_step < 10
    told = resolved_config(config, result.plan, result.plateau_step)
    assert told.schedule.patience is None
    again = trainer(told, data)
    assert_same_run(searched, result, again, again.run())
