"""Rotary positions: a model equals timm's, and they reach every block of every stream."""

import pytest
import torch

from dtme_search.config import ModelConfig
from dtme_search.models import build_model
from dtme_search.tasks import depth, edge, normals
from dtme_search.token_space import ExpansionPlan

SPECS = {spec.name: spec for spec in (depth(), normals(), edge())}
TASKS = tuple(SPECS)
ROTARY = [
    "vit_small_patch16_dinov3",
    "vit_small_patch16_dinov3_qkvb",
    "eva02_tiny_patch14_224",
    "vit_small_patch16_rope_mixed_224",
    "vit_small_patch16_rope_ape_224",
]


def model_of(name):
    size = (28, 42) if "patch14" in name else (32, 48)
    options = {"embed_dim": 32, "depth": 3, "num_heads": 2}
    model = build_model(ModelConfig(backbone=name, backbone_options=options), SPECS, size, seed=0).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.backbone.parameters():
            # Fresh layer scales of 1e-5 would hide what the blocks do.
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model, torch.randn(2, 3, *size, generator=generator)


def tokens_of(model, images):
    tokens = model.backbone.embed(images)
    for block in model.backbone.blocks:
        tokens = block(tokens)
    return model.backbone.norm(tokens)


@pytest.mark.parametrize("name", ROTARY)
def test_the_backbone_equals_timm_when_not_grown(name):
    model, images = model_of(name)
    assert model.info.has_rotary_positions
    expected = model.backbone.vit.forward_features(images)
    torch.testing.assert_close(tokens_of(model, images), expected, rtol=0.0, atol=1e-6)
    # Without positions it would be another one.
    for block in model.backbone.blocks:
        block._forward_pre_hooks.clear()
    assert not torch.allclose(tokens_of(model, images), expected, atol=1e-3)


@pytest.mark.parametrize("name", ROTARY)
def test_streams_of_a_grown_model_equal_one_stream_per_task(name):
    model, images = model_of(name)
    groups = (("depth",), ("normals", "edge"))
    model.grow(
        ExpansionPlan(
            TASKS, 3, {"modulate": {1: groups}, "expand": {1: groups[:1], 2: groups}}, {"num_task_tokens": 2}
        ),
        token_std=0.5,
        seed=0,
    )
    with torch.no_grad():
        for modulation in model.modulations.values():
            modulation.weight.add_(torch.randn(modulation.weight.shape))
    shared, own = model(images), model(images, share_streams=False)
    for task in TASKS:
        torch.testing.assert_close(shared[task], own[task], rtol=0.0, atol=1e-5)


def test_task_tokens_are_not_turned():
    """Their keys and queries meet those of patches as class tokens do: without a place."""
    model, images = model_of("vit_small_patch16_dinov3")
    block, vit = model.backbone.blocks[0], model.backbone.vit
    tokens = model.backbone.embed(images)
    task_tokens = torch.randn(2, 1, 32, generator=torch.Generator().manual_seed(2))
    behind = block(torch.cat((tokens, task_tokens), 1))
    # The same token before the patches, where timm's own code does not turn it.
    before = torch.cat((task_tokens, tokens), 1)
    block.attn.num_prefix_tokens += 1
    expected = block(before, rope=vit.rope.get_embed())
    torch.testing.assert_close(behind[:, :-1], expected[:, 1:])
    torch.testing.assert_close(behind[:, -1:], expected[:, :1])
