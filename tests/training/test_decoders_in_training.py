"""Every decoder in training: it resumes across its growth, goes on in parts, costs only what is active."""

from __future__ import annotations

import pytest
import torch
from device import DEVICE
from runs import assert_same_run, trainer, with_
from tiny import TINY

from dtme_search.config import RunConfig
from dtme_search.data import build_data
from dtme_search.models import MultiTaskViT
from dtme_search.models.decoders import DECODERS
from dtme_search.training import Trainer, TrainingInterrupted, run_within_memory

CHANNELS = {"simple": 24, "dpt": 8, "invpt": 64}


@pytest.fixture(params=DECODERS)
def config(request):
    return with_(
        RunConfig.model_validate(TINY),
        model__decoder=request.param,
        model__decoder_channels=CHANNELS[request.param],
        model__drop_path=0.2,
        model__levels="concat4",
        data__image_size=[32, 64],
        expansion__policy="conflict",
        expansion__start=0.5,
        tasks__edge={"role": "auxiliary", "weight": 0.5},
        schedule={"kind": "switch", "switch_at": 0.7},
    )


@pytest.fixture(scope="module")
def data():
    config = with_(RunConfig.model_validate(TINY), data__image_size=[32, 64])
    return build_data(config.data, tuple(config.tasks), DEVICE)


@pytest.mark.slow
@pytest.mark.parametrize("step", [3, 8])
def test_a_stopped_run_goes_on_bit_for_bit(config, data, tmp_path, step):
    """Stops lie before the growth and behind it, with a task switched off."""
    straight = trainer(config, data)
    expected = straight.run()
    assert expected.plan.num_parameters(24) > 0
    stopped = trainer(config, data, tmp_path, should_stop=lambda: stopped.state.step >= step)
    with pytest.raises(TrainingInterrupted, match=f"step {step} of 10"):
        stopped.run()
    resumed = trainer(config, data, tmp_path)
    assert_same_run(straight, expected, resumed, resumed.run())


@pytest.mark.slow
def test_a_batch_that_does_not_fit_goes_through_in_parts(config, data, tmp_path, monkeypatch):
    forward = MultiTaskViT.forward_with_auxiliary

    def limited(model, images, *arguments):
        if model.training and model.plan is not None and len(images) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(model, images, *arguments)

    monkeypatch.setattr(MultiTaskViT, "forward_with_auxiliary", limited)
    _, result = run_within_memory(lambda parts: Trainer.of_config(config, data, folder=tmp_path, parts=parts))
    assert result.parts == 2 and set(result.metrics) >= {"semseg", "depth", "normals"}


def test_a_switched_off_task_is_neither_decoded_nor_trained(config, data):
    run = trainer(config, data)
    batch = next(iter(data.train_batches(2, seed=0)))
    run.losses.backward(batch, {"semseg": 1.0, "normals": 1.0})
    of_edge = [
        parameter for name, parameter in run.model.decoders.named_parameters() if "edge" in name.split(".")
    ]
    assert of_edge and all(parameter.grad is None for parameter in of_edge)
