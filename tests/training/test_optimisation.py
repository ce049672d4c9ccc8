"""Learning rates of a pretrained backbone and its decoders."""

import pytest
import torch
from device import DEVICE
from runs import trainer, with_
from tiny import TINY
from torch import nn

from dtme_search.config import RunConfig, TrainConfig
from dtme_search.data import build_data
from dtme_search.models import build_model
from dtme_search.tasks import depth
from dtme_search.training.optimisation import build_optimizer, parameter_groups, set_learning_rates

CONFIG = RunConfig.model_validate(TINY)


@pytest.fixture(scope="module")
def model():
    return build_model(CONFIG.model, {"depth": depth()}, CONFIG.data.image_size, seed=0)


def test_all_learn_alike_unless_asked_for(model):
    (group,) = parameter_groups(TrainConfig(lr=1e-3), model)
    assert [id(one) for one in group["params"]] == [id(one) for one in model.parameters()]
    assert (group["base_lr"], group["first_step"]) == (1e-3, 0)


def test_the_backbone_learns_at_its_multiple_and_early_layers_more_slowly(model):
    groups = parameter_groups(TrainConfig(lr=1.0, backbone_lr_multiplier=0.5, layer_decay=0.5), model)
    rate = {id(parameter): group["base_lr"] for group in groups for parameter in group["params"]}
    of = {name: rate[id(parameter)] for name, parameter in model.named_parameters()}
    assert len(rate) == len(of)
    assert {of[name] for name in of if not name.startswith("backbone.")} == {1.0}
    assert of["backbone.vit.norm.weight"] == 0.5
    assert [of[f"backbone.vit.blocks.{block}.norm1.weight"] for block in (2, 1, 0)] == [0.25, 0.125, 0.0625]
    assert of["backbone.vit.pos_embed"] == of["backbone.vit.patch_embed.proj.weight"] == 0.03125


def test_a_group_stands_still_until_its_first_step(model):
    train = TrainConfig(lr=1e-3, decoder_warmup_steps=3, poly_power=0.0)
    optimizer = build_optimizer(train, model, DEVICE)
    for step, expected in ((0, {0.0, 1e-3}), (2, {0.0, 1e-3}), (3, {1e-3})):
        set_learning_rates(optimizer, step, 10, train)
        assert {group["lr"] for group in optimizer.param_groups} == expected


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_the_backbone_is_trained_after_the_decoders_only(optimizer):
    config = with_(CONFIG, train__decoder_warmup_steps=6, train__num_steps=6, train__optimizer=optimizer)
    data = build_data(config.data, tuple(config.tasks), DEVICE)

    def weights(model: nn.Module) -> dict[str, torch.Tensor]:
        return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}

    def moved(config):
        run = trainer(config, data)
        before = weights(run.model)
        run.run()
        after = weights(run.model)
        return {name.startswith("backbone") for name in after if not torch.equal(after[name], before[name])}

    assert moved(config) == {False}
    assert moved(with_(config, train__num_steps=7)) == {False, True}
