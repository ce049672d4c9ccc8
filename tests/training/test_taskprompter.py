"""TaskPrompter in training: it resumes across its growth, and its conflicts are those of the patches."""

from __future__ import annotations

import pytest
import torch
from device import DEVICE
from runs import assert_same_run, trainer, with_

from dtme_search.data import build_data
from dtme_search.token_space import conflict_rates, split_token_space
from dtme_search.training import TrainingInterrupted, conflicts_at_expansion
from dtme_search.training.losses import task_loss


@pytest.fixture
def config(tiny_config):
    return with_(
        tiny_config,
        model__architecture="taskprompter",
        model__architecture_options={"taskprompter": {"branch_channels": 8, "channel_heads": 4}},
        model__decoder_channels=8,
        model__drop_path=0.2,
        expansion__policy="conflict",
        expansion__start=0.5,
    )


@pytest.fixture(scope="module")
def data():
    from tiny import TINY

    from dtme_search.config import RunConfig

    return build_data(RunConfig.model_validate(TINY).data, ("semseg", "depth", "normals", "edge"), DEVICE)


@pytest.mark.slow
@pytest.mark.parametrize("step", [3, 8])
def test_a_stopped_run_goes_on_bit_for_bit(config, data, tmp_path, step):
    """Stops lie before and behind the growth; a task is switched off before the last of them."""
    config = with_(
        config,
        tasks__edge={"role": "auxiliary", "weight": 0.5},
        schedule={"kind": "switch", "switch_at": 0.7},
    )
    straight = trainer(config, data)
    expected = straight.run()
    assert expected.plan.num_parameters(24) > 0
    stopped = trainer(config, data, tmp_path, should_stop=lambda: stopped.state.step >= step)
    with pytest.raises(TrainingInterrupted, match=f"step {step} of 10"):
        stopped.run()
    resumed = trainer(config, data, tmp_path)
    assert_same_run(straight, expected, resumed, resumed.run())


def test_conflicts_are_those_at_the_patches(config, data):
    """Recomputed with nothing but autograd: prompts neither count nor enter the covariance."""
    config = with_(config, expansion__start=0.0, model__drop_path=0.0, expansion__analysis_batch_size=6)
    report, _ = conflicts_at_expansion(config, data)
    num_patches = 4 * 6
    assert report.num_positions == num_patches

    model = trainer(config, data).model.eval()
    (batch,) = data.analysis_batches(6, 6, config.seed)
    predictions, inputs = model.forward_with_layer_inputs(batch.images)
    tasks = list(config.tasks)
    losses = [
        task_loss(
            data.specs[task],
            predictions.outputs[task],
            batch.targets[task],
            batch.valid[task],
            edge_positive_weight=config.train.edge_positive_weight,
        )
        for task in tasks
    ]
    gradients = [torch.autograd.grad(loss, inputs, retain_graph=True) for loss in losses]
    for layer, tokens in enumerate(inputs):
        patches = tokens[:, len(tasks) :].detach().double().flatten(0, 1)
        space = split_token_space(patches.T @ patches / len(patches), config.expansion.variance_ratio)
        at_patches = torch.stack([of_task[layer][:, len(tasks) :] for of_task in gradients])
        expected = conflict_rates(at_patches.double(), space)
        for found, rates in zip((report.range_rates, report.null_rates), expected, strict=True):
            torch.testing.assert_close(found[layer].double(), rates, rtol=0.0, atol=2 / (6 * num_patches))
