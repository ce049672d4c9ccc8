"""timm backbones: which are taken, what is said about the others, and weights that must fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from dtme_search.config import ModelConfig
from dtme_search.errors import ConfigError
from dtme_search.models import build_model, describe_backbone
from dtme_search.models.backbone import build_backbone
from dtme_search.models.building import feature_levels
from dtme_search.tasks import depth

TINY = {"embed_dim": 32, "depth": 2, "num_heads": 2, "patch_size": 8}
SMALL = {"embed_dim": 32, "depth": 2, "num_heads": 2}

# name, prefix tokens: the kinds of rotary positions that timm has (DINOv3, EVA, mixed).
ROTARY = [
    ("vit_small_patch16_dinov3", 5),
    ("vit_small_patch16_dinov3_qkvb", 5),
    ("eva02_tiny_patch14_224", 1),
    ("vit_small_patch16_rope_mixed_224", 1),
    ("vit_small_patch16_rope_ape_224", 1),
]

# name, options, image size, prefix tokens, patch size, grid
BACKBONES = [
    ("vit_tiny_patch16_224", TINY, (32, 48), 1, 8, (4, 6)),
    ("vit_tiny_patch16_224.augreg_in21k", SMALL, (32, 48), 1, 16, (2, 3)),
    ("deit3_small_patch16_224", SMALL, (32, 48), 1, 16, (2, 3)),
    ("deit_tiny_distilled_patch16_224", SMALL, (32, 48), 2, 16, (2, 3)),
    ("vit_small_patch14_reg4_dinov2", SMALL, (28, 42), 5, 14, (2, 3)),
    ("vit_base_patch16_clip_224", SMALL, (32, 48), 1, 16, (2, 3)),
    ("vit_base_patch16_siglip_224", SMALL, (32, 48), 0, 16, (2, 3)),
    ("vit_base_patch16_xp_224", SMALL, (32, 48), 1, 16, (2, 3)),
    ("vit_small_patch16_18x2_224", SMALL, (32, 48), 1, 16, (2, 3)),
    *[(name, SMALL, (32, 48), prefix, 16, (2, 3)) for name, prefix in ROTARY if "patch14" not in name],
]


def config(name: str = "vit_tiny_patch16_224", options: dict | None = None, **others: object) -> ModelConfig:
    return ModelConfig(backbone=name, backbone_options=TINY if options is None else options, **others)


@pytest.mark.parametrize(("name", "options", "image_size", "prefix", "patch", "grid"), BACKBONES)
def test_plain_backbones_are_described_and_run(name, options, image_size, prefix, patch, grid):
    info = describe_backbone(config(name, options), image_size)
    assert (info.num_layers, info.embed_dim) == (2, 32)
    assert (info.num_prefix_tokens, info.patch_size, info.grid) == (prefix, patch, grid)
    model = build_model(config(name, options, drop_path=0.2), {"depth": depth()}, image_size, seed=0).eval()
    backbone = model.backbone
    assert sum(parameter.numel() for parameter in backbone.parameters()) == info.num_parameters
    assert len(backbone.drop_paths) > 0
    images = torch.randn(2, 3, *image_size, generator=torch.Generator().manual_seed(0))
    tokens = backbone.embed(images)
    assert tokens.shape == (2, prefix + grid[0] * grid[1], 32)
    for block in backbone.blocks:
        tokens = block(tokens)
    torch.testing.assert_close(backbone.norm(tokens), backbone.vit.forward_features(images))
    assert model(images)["depth"].shape == (2, 1, *image_size)


def test_a_description_costs_no_weights_and_comes_from_memory_the_second_time(monkeypatch):
    import timm

    first = describe_backbone(ModelConfig(backbone="vit_large_patch16_384"), (96, 96))
    assert first.num_parameters > 300_000_000
    assert first.num_layers == 24
    monkeypatch.setattr(timm, "create_model", None)
    assert describe_backbone(ModelConfig(backbone="vit_large_patch16_384"), (96, 96)) is first


@pytest.mark.parametrize(
    ("num_layers", "concat4"),
    [(24, (6, 12, 18, 24)), (12, (3, 6, 9, 12)), (6, (2, 3, 5, 6)), (3, (1, 2, 3, 3)), (1, (1, 1, 1, 1))],
)
def test_levels_end_at_the_last_layer(num_layers, concat4):
    assert feature_levels(num_layers, 4) == concat4
    assert feature_levels(num_layers, 1) == (num_layers,)


BAD = [
    (config("vit_tiny_patch16_223"), "got 'vit_tiny_patch16_223'. Did you mean 'vit_tiny_patch16_224'"),
    (config("convnext_tiny"), "must be a plain ViT .* got 'convnext_tiny'"),
    (config("swin_tiny_patch4_window7_224"), "must be a plain ViT"),
    (config("vit_tiny_r_s16_p8_224"), "must be a plain ViT"),
    (
        config("vit_tiny_patch16_224.augreg"),
        "no weights 'augreg' .* Did you mean 'vit_tiny_patch16_224.augreg_in21k'",
    ),
    (config(options={"embed_dims": 32}), "embed_dims: .* no such option. Did you mean 'embed_dim'"),
    (config(options={"embed_dim": "32"}), "embed_dim must be of type int .* got '32'"),
    (config(options={"embed_dim": 32, "num_heads": 3}), "cannot build 'vit_tiny_patch16_224' .* divisible"),
    (config(options={"norm_layer": "group"}), "backbone_options: timm cannot build"),
    (config(options={"depth": 0}), "depth must be at least 1, got 0"),
    (config(options={"img_size": 224}), "img_size must be left out: data.image_size sets it"),
    (config(options={"attn_drop_rate": 0.1}), "attn_drop_rate must be left out: .* use model.drop_path"),
]


@pytest.mark.parametrize(("bad", "message"), BAD)
def test_a_bad_backbone_gives_one_line(bad, message):
    with pytest.raises(ConfigError, match=message) as caught:
        describe_backbone(bad, (32, 48))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("image_size", "nearest"),
    [((65, 96), [64, 96]), ((70, 93), [72, 96]), ((3, 8), [8, 8]), ((31, 33), [32, 32])],
)
def test_an_image_size_between_patches_is_refused_with_the_nearest(image_size, nearest):
    with pytest.raises(ConfigError) as caught:
        build_backbone(config(), image_size, seed=0)
    assert f"multiple of the patch size 8 of vit_tiny_patch16_224, got {list(image_size)}" in str(
        caught.value
    )
    assert str(caught.value).startswith("data.image_size")
    assert str(nearest) in str(caught.value)


@pytest.fixture
def weights() -> dict[str, torch.Tensor]:
    """Of a tiny model at 32 x 32, with a position embedding that is linear in row and column."""
    state = build_backbone(config(), (32, 32), seed=5).vit.state_dict()
    row, column = torch.meshgrid(torch.arange(4.0), torch.arange(4.0), indexing="ij")
    state["pos_embed"][0, 1:, 0] = row.flatten()
    state["pos_embed"][0, 1:, 1] = column.flatten()
    return state


@pytest.mark.parametrize("form", ["tiny.safetensors", "tiny.pt", "wrapped.pth"])
def test_checkpoints_load_and_the_position_embedding_is_resampled(tmp_path, weights, form):
    path = tmp_path / form
    if form.endswith(".safetensors"):
        save_file(weights, path)
    elif form == "wrapped.pth":
        head = {"module.head.weight": torch.zeros(10, 32), "module.head.bias": torch.zeros(10)}
        torch.save(
            {"state_dict": {f"module.{name}": t for name, t in weights.items()} | head, "epoch": 3}, path
        )
    else:
        torch.save(weights, path)
    vit = build_backbone(config(checkpoint=str(path)), (32, 64), seed=0).vit
    for name, tensor in vit.state_dict().items():
        if name != "pos_embed":
            assert torch.equal(tensor, weights[name]), name
    grid = vit.pos_embed[0, 1:].reshape(4, 8, 32)
    assert torch.equal(vit.pos_embed[0, 0], weights["pos_embed"][0, 0])
    torch.testing.assert_close(grid[:, :, 0], torch.arange(4.0)[:, None].expand(4, 8))
    # Twice as many columns: inside, neighbours are half a step apart.
    torch.testing.assert_close(grid[0, 2:6, 1].diff(), torch.full((3,), 0.5), rtol=0.1, atol=0.0)


def test_a_checkpoint_of_the_same_size_that_is_not_square_loads_as_it_is(tmp_path):
    state = build_backbone(config(), (16, 48), seed=5).vit.state_dict()
    torch.save(state, tmp_path / "same.pt")
    vit = build_backbone(config(checkpoint=str(tmp_path / "same.pt")), (16, 48), seed=0).vit
    assert torch.equal(vit.pos_embed, state["pos_embed"])
    with pytest.raises(ConfigError, match="position embedding cannot be resampled to 4x4 patches"):
        build_backbone(config(checkpoint=str(tmp_path / "same.pt")), (32, 32), seed=0)


def test_a_norm_behind_average_pooling_becomes_the_final_norm(tmp_path, weights):
    weights["fc_norm.weight"] = weights.pop("norm.weight") + 1
    weights["fc_norm.bias"] = weights.pop("norm.bias")
    torch.save(weights, tmp_path / "gap.pt")
    vit = build_backbone(config(checkpoint=str(tmp_path / "gap.pt")), (32, 32), seed=0).vit
    assert torch.equal(vit.norm.weight, weights["fc_norm.weight"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 3}, r"12 missing \(blocks.2.norm1.weight, .*, \.\.\.\)"),
        ({"qkv_bias": False}, r"1 unexpected \(blocks.1.attn.qkv.bias\)"),
        ({"embed_dim": 64}, r"of another shape \(cls_token \(1, 1, 32\) instead of \(1, 1, 64\), "),
    ],
)
def test_a_checkpoint_that_does_not_fit_names_its_keys(tmp_path, weights, options, message):
    path = tmp_path / "tiny.pt"
    weights["blocks.1.attn.qkv.bias"] += 1
    torch.save(weights, path)
    with pytest.raises(ConfigError, match=message) as caught:
        build_backbone(config(options=TINY | options, checkpoint=str(path)), (32, 32), seed=0)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def broken_file(folder: Path, kind: str) -> Path:
    path = folder / f"weights{'.safetensors' if kind == 'broken safetensors' else '.pt'}"
    if kind in {"broken safetensors", "broken pt"}:
        path.write_bytes(b"not weights at all")
    elif kind == "code inside":
        torch.save(nn.Linear(2, 2), path)
    elif kind == "no state dict":
        torch.save([torch.zeros(2)], path)
    elif kind == "other suffix":
        path = folder / "weights.npz"
        path.touch()
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("broken safetensors", "cannot be read as weights"),
        ("broken pt", "cannot be read as weights"),
        ("code inside", "cannot be read as weights"),
        ("no state dict", "must hold a state dict"),
        ("other suffix", "must end in .safetensors"),
        ("missing", "no such file"),
    ],
)
def test_an_unreadable_checkpoint_gives_one_line(tmp_path, kind, message):
    path = broken_file(tmp_path, kind)
    with pytest.raises(ConfigError, match=message) as caught:
        build_backbone(config(checkpoint=str(path)), (32, 32), seed=0)
    assert str(caught.value).startswith("model.checkpoint")
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_pretrained_offline_with_an_empty_cache_says_what_to_do(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ConfigError) as caught:
        build_backbone(config("test_vit", {}, pretrained=True), (32, 48), seed=0)
    message = str(caught.value)
    assert message.startswith("model.pretrained: the weights of 'test_vit' could not be downloaded")
    assert "model.checkpoint: PATH" in message
    assert "model.pretrained: false" in message
    assert "\n" not in message


@pytest.fixture
def published(monkeypatch):
    """The hub, answering with weights of the model as published (160 x 160 pixels, classifier included)."""
    import timm

    model = timm.create_model("test_vit")
    nn.init.normal_(model.norm.weight)
    monkeypatch.setattr(
        "timm.models._builder.load_state_dict_from_hf",
        lambda *_, **__: {name: tensor.clone() for name, tensor in model.state_dict().items()},
    )
    return model


def test_pretrained_weights_all_arrive_at_the_image_size(published):
    vit = build_backbone(config("test_vit", {}, pretrained=True), (32, 48), seed=0).vit
    expected = published.state_dict()
    assert vit.pos_embed.shape == (1, 1 + 2 * 3, 64)
    assert not hasattr(vit.head, "weight")
    for name, tensor in vit.state_dict().items():
        if name != "pos_embed":
            assert torch.equal(tensor, expected[name]), name


@pytest.mark.parametrize(("option", "value"), [("depth", 8), ("embed_dim", 32), ("class_token", False)])
def test_pretrained_weights_that_do_not_fit_the_options_are_refused(published, option, value):
    with pytest.raises(
        ConfigError, match=f"cannot load weights for 'test_vit' with options .*{option}"
    ) as caught:
        build_backbone(config("test_vit", {option: value}, pretrained=True), (32, 48), seed=0)
    assert "Remove model.backbone_options" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_pretrained_without_published_weights_is_refused():
    with pytest.raises(ConfigError, match="No pretrained weights exist for vit_base_patch16_xp_224"):
        build_backbone(config("vit_base_patch16_xp_224", SMALL, pretrained=True), (32, 48), seed=0)
