"""Weights as people have them: other names, other wrappings, other grids, more blocks."""

from __future__ import annotations

import logging

import pytest
import torch

from dtme_search.config import ModelConfig
from dtme_search.errors import ConfigError
from dtme_search.models import build_model
from dtme_search.models.backbone import build_backbone
from dtme_search.models.pretrained import _say
from dtme_search.tasks import depth

TINY = {"embed_dim": 32, "depth": 2, "num_heads": 2, "patch_size": 8}
SMALL = {"embed_dim": 32, "depth": 2, "num_heads": 2}


def vit_of(name="vit_tiny_patch16_224", options=TINY, size=(32, 48), seed=0, **others):
    model = ModelConfig(backbone=name, backbone_options=options, **others)
    return build_backbone(model, size, seed=seed).vit


def random_weights(*arguments, **others):
    generator = torch.Generator().manual_seed(3)
    state = vit_of(*arguments, **others).state_dict()
    return {name: torch.randn(tensor.shape, generator=generator) for name, tensor in state.items()}


@pytest.fixture
def load(tmp_path, caplog):
    """Loads what is given into a model; gives its state and the line that was said."""

    def loaded(content, *arguments, **others):
        _say.cache_clear()
        caplog.clear()
        file = tmp_path / "weights.pt"
        torch.save(content, file)
        with caplog.at_level(logging.WARNING, "dtme_search"):
            vit = vit_of(*arguments, checkpoint=str(file), **others)
        return vit.state_dict(), caplog.messages[-1]

    return loaded


def assert_same(state, weights):
    assert state.keys() == weights.keys()
    for name, tensor in state.items():
        torch.testing.assert_close(tensor, weights[name], rtol=0.0, atol=0.0, msg=name)


@pytest.mark.parametrize(
    ("wrappers", "prefix"),
    [
        ((), ""),
        (("state_dict",), "module."),
        (("state_dict",), "model."),
        (("state_dict",), "backbone."),
        (("teacher",), "backbone."),
        (("teacher",), "module.backbone."),
        (("model_state_dict",), ""),
        (("model",), "_orig_mod."),
        (("model_ema", "state_dict"), "module."),
    ],
)
def test_wrappers_and_prefixes_are_taken_off(load, wrappers, prefix):
    weights = random_weights()
    content = {prefix + name: tensor for name, tensor in weights.items()}
    content |= {f"{prefix}head.weight": torch.zeros(3, 32)}
    for wrapper in reversed(wrappers):
        content = {wrapper: content, "epoch": 3}
    assert_same(load(content)[0], weights)


def test_a_checkpoint_of_this_program_gives_its_backbone(load):
    model = build_model(ModelConfig(backbone_options=TINY), {"depth": depth()}, (32, 48), seed=7)
    state, _ = load({"format": 1, "fingerprint": "f", "step": 3, "model": model.state_dict(), "plan": None})
    assert_same(state, model.backbone.vit.state_dict())


def test_two_networks_in_one_file_are_not_guessed_between(load):
    weights = random_weights()
    both = {f"{one}.{name}": tensor for one in ("student", "momentum") for name, tensor in weights.items()}
    with pytest.raises(ConfigError, match=r"got names that begin with 'momentum.' and 'student.'"):
        load(both)


def in_names_of_transformers(weights, kind):
    """The same weights as ``ViTModel``, ``Dinov2WithRegistersModel`` or ``DINOv3ViTModel`` name them."""
    outside = {
        "cls_token": "embeddings.cls_token",
        "pos_embed": "embeddings.position_embeddings",
        "reg_token": "embeddings.register_tokens",
        "patch_embed.proj.": "embeddings.patch_embeddings." + ("" if kind == "dinov3" else "projection."),
        "norm.": "norm." if kind == "dinov3" else "layernorm.",
    }
    inside = {
        "ls1.gamma": "layer_scale1.lambda1",
        "ls2.gamma": "layer_scale2.lambda1",
        "gamma_1": "layer_scale1.lambda1",
        "gamma_2": "layer_scale2.lambda1",
        "attn.proj.": "attention.o_proj." if kind == "dinov3" else "attention.output.dense.",
    }
    if kind == "vit":
        inside |= {"norm1.": "layernorm_before.", "norm2.": "layernorm_after."}
        inside |= {"mlp.fc1.": "intermediate.dense.", "mlp.fc2.": "output.dense."}
    if kind == "dinov3":
        inside |= {"mlp.fc1.": "mlp.up_proj.", "mlp.fc2.": "mlp.down_proj."}
    layer = "layer" if kind == "dinov3" else "encoder.layer"
    names = ("q_proj", "k_proj", "v_proj") if kind == "dinov3" else ("query", "key", "value")
    attention = "attention" if kind == "dinov3" else "attention.attention"
    renamed = {}
    for name, tensor in weights.items():
        if not name.startswith("blocks."):
            new = next(
                theirs + name.removeprefix(ours) for ours, theirs in outside.items() if name.startswith(ours)
            )
            renamed[new] = tensor
            continue
        _, number, rest = name.split(".", 2)
        if rest.startswith("attn.qkv."):
            for part, one in zip(tensor.chunk(3), names, strict=True):
                renamed[f"{layer}.{number}.{attention}.{one}.{rest.rpartition('.')[2]}"] = part
            continue
        if rest in ("attn.q_bias", "attn.v_bias"):
            renamed[f"{layer}.{number}.{attention}.{rest[5]}_proj.bias"] = tensor
            continue
        for ours, theirs in inside.items():
            rest = rest.replace(ours, theirs)
        renamed[f"{layer}.{number}.{rest}"] = tensor
    return renamed | {"embeddings.mask_token": torch.zeros(1, 32), "pooler.dense.weight": torch.zeros(32, 32)}


@pytest.mark.parametrize("prefix", ["", "backbone."])
@pytest.mark.parametrize(
    ("kind", "name", "size"),
    [
        ("vit", "vit_tiny_patch16_224", (32, 48)),
        ("dinov2", "vit_small_patch14_dinov2", (28, 42)),
        ("dinov3", "vit_small_patch16_dinov3", (32, 48)),
        ("dinov3", "vit_small_patch16_dinov3_qkvb", (32, 48)),
    ],
)
def test_names_of_transformers_are_understood(load, kind, name, size, prefix):
    weights = random_weights(name, SMALL, size)
    content = {prefix + one: tensor for one, tensor in in_names_of_transformers(weights, kind).items()}
    state, said = load(content, name, SMALL, size)
    assert_same(state, weights)
    assert "names of transformers" in said and "left (" in said


@pytest.mark.parametrize("names", ["original", "transformers"])
def test_registers_of_dinov2_come_with_the_position_of_the_class_token(load, names):
    name, size = "vit_small_patch14_reg4_dinov2", (28, 42)
    weights = random_weights(name, SMALL, size)
    position = torch.randn(1, 1, 32)
    theirs = dict(weights)
    theirs["cls_token"] = weights["cls_token"] - position
    theirs["pos_embed"] = torch.cat((position, weights["pos_embed"]), 1)
    if names == "transformers":
        theirs = in_names_of_transformers(theirs, "dinov2")
    else:
        theirs["register_tokens"] = theirs.pop("reg_token")
        theirs["mask_token"] = torch.zeros(1, 32)
    state, _ = load(theirs, name, SMALL, size)
    torch.testing.assert_close(state.pop("cls_token"), weights.pop("cls_token"))
    assert_same(state, weights)


@pytest.mark.parametrize(
    ("source", "wanted"), [((16, 64), (32, 32)), ((32, 48), (48, 32)), ((16, 48), (64, 32))]
)
def test_positions_of_a_told_grid_are_resampled_as_timm_does(load, source, wanted):
    from timm.layers import resample_abs_pos_embed

    weights = random_weights(size=source)
    rows, new = ([side // 8 for side in size] for size in (source, wanted))
    state, said = load(weights, size=wanted, checkpoint_grid=tuple(rows))
    expected = resample_abs_pos_embed(weights["pos_embed"], new, rows, num_prefix_tokens=1)
    torch.testing.assert_close(state["pos_embed"], expected)
    assert f"position embedding of {rows[0]}x{rows[1]} resampled to {new[0]}x{new[1]} patches" in said


def test_a_grid_that_nothing_tells_is_assumed_aloud_or_asked_for(load):
    assert (
        "position embedding of 4x4 (assumed; else set model.checkpoint_grid)"
        in load(random_weights(size=(16, 64)), size=(32, 32))[1]
    )
    with pytest.raises(ConfigError, match=r"nothing says how its 24 patches lie. Set model.checkpoint_grid"):
        load(random_weights(size=(32, 48)), size=(32, 32))
    with pytest.raises(
        ConfigError, match=r"model.checkpoint_grid must give the 24 patches of .*, got \[5, 5\]"
    ):
        load(random_weights(size=(32, 48)), size=(32, 32), checkpoint_grid=(5, 5))


def test_another_patch_size_is_resampled_as_timm_does(load):
    from timm.layers import resample_patch_embed

    weights = random_weights(size=(32, 32))
    state, said = load(weights, options=TINY | {"patch_size": 16}, size=(64, 64))
    expected = resample_patch_embed(weights["patch_embed.proj.weight"], [16, 16])
    torch.testing.assert_close(state["patch_embed.proj.weight"], expected)
    assert "patch embedding resampled from 8 to 16 pixels" in said


def test_the_first_blocks_of_a_deeper_checkpoint_are_taken_aloud(load):
    weights = random_weights(options=TINY | {"depth": 4})
    state, said = load(weights)
    assert "only the first 2 blocks taken, without the final norm of the last" in said
    assert torch.equal(state.pop("norm.weight"), torch.ones(32))
    assert torch.equal(state.pop("norm.bias"), torch.zeros(32))
    assert_same(state, {name: weights[name] for name in state})


def test_more_blocks_than_asked_for_by_name_are_refused(load):
    weights = random_weights("vit_tiny_patch16_224", {"depth": 13, "embed_dim": 32, "num_heads": 2})
    with pytest.raises(ConfigError, match=r"12 unexpected \(blocks.12.norm1.weight"):
        load(weights, "vit_tiny_patch16_224", {"embed_dim": 32, "num_heads": 2})
