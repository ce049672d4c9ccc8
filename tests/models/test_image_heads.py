"""Heads of tasks about the whole image, beside every decoder and architecture."""

from __future__ import annotations

import pytest
import torch

from dtme_search.config import ModelConfig
from dtme_search.errors import ConfigError
from dtme_search.models import build_model, check_model
from dtme_search.tasks import depth, image_class, image_labels, image_value, semseg
from dtme_search.token_space import ExpansionPlan

DENSE = {spec.name: spec for spec in (semseg(("wall", "floor", "box")), depth())}
OF_IMAGE = {
    spec.name: spec
    for spec in (
        image_class("room", ("bath", "hall")),
        image_labels("signs", ("red", "old", "ill")),
        image_value("crop"),
    )
}
SPECS = {"semseg": DENSE["semseg"], **OF_IMAGE, "depth": DENSE["depth"]}
SIZE = (32, 64)
TINY = {"embed_dim": 32, "depth": 4, "num_heads": 2, "patch_size": 8}
NETWORKS = {
    "simple": {"decoder": "simple"},
    "concat4": {"decoder": "simple", "levels": "concat4"},
    "dpt": {"decoder": "dpt"},
    "invpt": {"decoder": "invpt", "decoder_options": {"invpt": {"mixing_channels": 8}}},
    "taskprompter": {"architecture": "taskprompter"},
    "class token": {"decoder": "simple", "image_head": "class"},
}


@pytest.fixture(params=NETWORKS)
def fields(request):
    return NETWORKS[request.param]


def model_of(fields, specs=SPECS, **more):
    config = ModelConfig(backbone_options=TINY, decoder_channels=8, **fields)
    return build_model(config, specs, SIZE, seed=0, **more).double()


def pictures(num_images=2):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(num_images, 3, *SIZE, generator=generator, dtype=torch.float64)


def test_outputs_have_one_pixel_and_come_in_order(fields):
    outputs = model_of(fields)(pictures())
    assert list(outputs) == list(SPECS)
    for task, spec in SPECS.items():
        assert outputs[task].shape == (2, spec.channels, *spec.label_size(SIZE))


def test_dense_tasks_are_what_they_are_without(fields):
    alone, beside = model_of(fields, DENSE).eval()(pictures()), model_of(fields).eval()(pictures())
    for task in DENSE:
        torch.testing.assert_close(beside[task], alone[task])


def test_a_network_of_nothing_else_works(fields):
    specs = {"room": SPECS["room"]}
    output = model_of(fields, specs)(pictures())["room"]
    assert output.shape == (2, 2, 1, 1)
    assert (output[0] != output[1]).any()


def test_some_tasks_alone_are_the_same(fields):
    model = model_of(fields).eval()
    every = model(pictures())
    for tasks in (["room"], ["crop", "depth"]):
        some = model(pictures(), tasks)
        assert set(some) == set(tasks)
        for task in tasks:
            if task in OF_IMAGE:
                torch.testing.assert_close(some[task], every[task])


def test_every_head_gets_a_gradient_from_its_own_loss_only(fields):
    model = model_of(fields)
    model(pictures())["room"].square().sum().backward()
    heads = {name: weight.grad for name, weight in model.decoders.heads.named_parameters()}
    assert all((grad is not None) == name.startswith("room.") for name, grad in heads.items())
    assert heads["room.weight"].abs().sum() > 0
    assert next(model.backbone.parameters()).grad is not None


def test_a_grown_network_gives_the_same_until_it_learns_and_a_head_reads_its_own_stream(fields):
    model = model_of(fields).eval()
    before = model(pictures())
    groups = {1: (("room",), ("semseg", "depth")), 3: (("signs",),)}
    plan = ExpansionPlan(tuple(SPECS), 4, {"modulate": groups, "expand": {}})
    model.grow(plan, token_std=0.02, seed=0)
    after, split = model(pictures()), model(pictures(), share_streams=False)
    for task in SPECS:
        torch.testing.assert_close(after[task], before[task], rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(after[task], split[task], rtol=1e-9, atol=1e-9)
    place = model.plan.at(1)["modulate"].index(("room",))
    with torch.no_grad():
        for parameter in model.operations_at(1)["modulate"].parameters():
            parameter[place] += torch.linspace(-1, 1, parameter.shape[-1], dtype=parameter.dtype)
    changed = model(pictures())
    assert not torch.allclose(changed["room"], after["room"])
    torch.testing.assert_close(changed["crop"], after["crop"], rtol=1e-9, atol=1e-9)


def test_numbers_start_at_their_mean():
    output = model_of({}, output_means={"crop": torch.tensor([100.0])})(pictures())["crop"]
    assert (output - 100).abs().max() < 5
    assert output[0] != output[1], "the image must still show"


def test_the_two_heads_read_what_they_say():
    """Patches changed after the last block: the class token does not notice."""
    for head, notices in (("mean", True), ("class", False)):
        model = model_of({"image_head": head}).eval()
        hook = model.backbone.blocks[-1].register_forward_hook(
            lambda _module, _given, tokens: torch.cat([tokens[:, :2], tokens[:, 2:].flip(2)], dim=1)
        )
        found = model(pictures())["room"]
        hook.remove()
        assert torch.allclose(found, model(pictures())["room"]) != notices


@pytest.mark.parametrize(
    "fields",
    [
        {"architecture": "taskprompter"},
        {"backbone_options": {**TINY, "class_token": False}},
        {"backbone": "vit_base_patch16_siglip_224"},
    ],
)
def test_a_class_token_that_is_not_there_is_told(fields):
    config = ModelConfig(**{"backbone_options": TINY, "image_head": "class", **fields})
    with pytest.raises(ConfigError, match=r"model\.image_head must be mean for .*, got class"):
        check_model(config, SIZE)
