"""What TaskPrompter promises beyond its numbers: prompts, streams, growth, weights, sizes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from dtme_search.config import ModelConfig
from dtme_search.errors import ConfigError
from dtme_search.models import build_model, check_model
from dtme_search.tasks import depth, edge, normals, semseg

SPECS = {spec.name: spec for spec in (semseg(("wall", "floor", "box")), depth(), normals(), edge())}
ALL = tuple(SPECS)
IMAGE_SIZE = (32, 64)
TINY = {"embed_dim": 32, "depth": 4, "num_heads": 2, "patch_size": 8}


def config_of(options=None, **fields):
    fields = {"backbone_options": TINY, "decoder_channels": 8} | fields
    options = {"branch_channels": 6, "channel_heads": 4} | (options or {})
    return ModelConfig(architecture="taskprompter", architecture_options={"taskprompter": options}, **fields)


@pytest.fixture
def make():
    def make(options=None, tasks=ALL, seed=0, **fields):
        specs = {task: SPECS[task] for task in tasks}
        return build_model(config_of(options, **fields), specs, IMAGE_SIZE, seed=seed).double()

    return make


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(2)
    return torch.randn(3, 3, *IMAGE_SIZE, generator=generator, dtype=torch.float64)


def grow(model, plan):
    """Grow, and move the new parameters off their start."""
    generator = torch.Generator().manual_seed(1)
    for parameter in model.grow(plan, token_std=0.02, seed=0):
        noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
        parameter.data.add_(noise, alpha=0.3)
    return model


def test_every_parameter_is_alive(make, images):
    model = make()
    torch.stack([output.square().sum() for output in model(images).values()]).sum().backward()
    idle = [name for name, parameter in model.named_parameters() if not gradient_of(parameter)]
    # Batch norm takes away what these add.
    assert all(name.endswith(("fuse.1.bias", "conv.bias")) for name in idle)
    assert make().train(False)(images)["depth"].shape == (3, 1, *IMAGE_SIZE)


def gradient_of(parameter):
    return parameter.grad is not None and parameter.grad.abs().max() > 1e-12


def test_modulation_starts_as_the_identity_and_leaves_prompts_alone(make, make_plan, images):
    model = make().eval()
    before = model(images)
    model.grow(make_plan({0: ALL, 2: ["semseg edge", "depth"]}, {}, num_layers=4), token_std=0.02, seed=0)
    torch.testing.assert_close(model(images), before, rtol=0.0, atol=1e-9)

    seen = []
    model.backbone.blocks[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model.modulations["0"].weight.data.fill_(3.0)
    model(images)
    num_streams = len(ALL)
    prompts = seen[0].reshape(num_streams, 3, -1, 32)[:, :, : len(ALL)]
    assert torch.equal(prompts, model.backbone.prompts.expand_as(prompts))
    patches = seen[0].reshape(num_streams, 3, -1, 32)[:, :, len(ALL) :]
    torch.testing.assert_close(patches[0], 3.0 * model.backbone.embed_patches(images))


def test_shared_streams_equal_one_stream_per_task(make, make_plan, images):
    plan = make_plan({1: ["semseg edge", "depth normals"]}, {2: ["depth"], 3: list(ALL)}, num_layers=4)
    model = grow(make(drop_path=0.5), plan).train()
    results = []
    for share in (True, False):
        torch.manual_seed(3)
        results.append(model(images, share_streams=share))
    torch.testing.assert_close(*results, rtol=1e-9, atol=1e-9)


def test_task_tokens_are_seen_but_not_decoded(make, make_plan, images):
    """They change what a block gives, and are neither read nor carried on."""
    model = grow(make().eval(), make_plan({}, {1: ["depth"]}, num_task_tokens=3, num_layers=4))
    plain = make().eval()(images)
    lengths, scored = [], []
    for block in model.backbone.blocks:
        block.register_forward_hook(lambda _, inputs, output: lengths.append(inputs[0].shape[1]))
        block.register_forward_hook(
            lambda _, inputs, output: scored.append([s.shape[1:] for s in output[1:]])
        )
    grown = model(images)
    num_patches, num_tokens = 4 * 8, len(ALL) + 4 * 8
    assert lengths == [num_tokens, num_tokens, num_tokens + 3, num_tokens, num_tokens]
    rows = [(len(ALL), 2, num_patches), (len(ALL), 2, len(ALL)), (len(ALL), 32, 2, 2)]
    assert scored == [rows] * 5
    assert not torch.equal(grown["depth"], plain["depth"])


@pytest.mark.parametrize("reweighting", [False, True])
def test_a_task_reads_its_own_rows_in_its_own_stream(make, make_plan, images, reweighting):
    """Without reweighting a task depends on no other stream; with it on the patches of all."""
    plan = make_plan({0: list(ALL)}, {}, num_layers=4)
    model = grow(make({"reweighting": reweighting}).eval(), plan)
    loss = model(images)["depth"].square().sum()
    weights = model.modulations["0"].weight
    (gradient,) = torch.autograd.grad(loss, weights)
    assert [bool(row.abs().sum() > 0) for row in gradient] == [reweighting or task == "depth" for task in ALL]


def test_tasks_that_are_switched_off_cost_nothing_and_are_not_exchanged(make, images):
    model = make()
    some = model(images, ["edge", "depth"])
    torch.stack([output.square().sum() for output in some.values()]).sum().backward()
    assert list(some) == ["depth", "edge"]
    idle = [
        name for name in dict(model.decoders.named_parameters()) if {"semseg", "normals"} & {*name.split(".")}
    ]
    assert idle
    assert all(model.decoders.get_parameter(name).grad is None for name in idle)
    plain = make({"reweighting": False}).eval()
    torch.testing.assert_close(plain(images, ["depth"])["depth"], plain(images)["depth"])


def test_a_task_starts_the_same_whichever_others_there_are(make):
    every, alone, other = (
        make(tasks=tasks, seed=seed).state_dict() for tasks, seed in ((ALL, 0), (("depth",), 0), (ALL, 1))
    )
    assert torch.equal(alone.pop("backbone.prompts")[0], every["backbone.prompts"][ALL.index("depth")])
    assert all(torch.equal(tensor, every[name]) for name, tensor in alone.items())
    assert not torch.equal(every["backbone.prompts"], other["backbone.prompts"])


def test_prompts_start_around_one_and_never_beyond_two(make):
    prompts = make(backbone_options=TINY | {"embed_dim": 512}).backbone.prompts
    assert prompts.abs().max() <= 2.0
    # N(1, 1) cut off at -2 and 2 has mean 0.72 and standard deviation 0.79.
    assert prompts.mean().item() == pytest.approx(0.72, abs=0.06)
    assert prompts.std().item() == pytest.approx(0.79, abs=0.06)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224"])
def test_weights_of_a_plain_vit_fill_the_backbone(tmp_path, name):
    """Every weight but those of class and distillation token, whose positions go with them."""
    import timm

    # distilled models refuse any other pooling
    pooling = {"global_pool": "token"} if "distilled" in name else {}
    sizes = {"img_size": (32, 64), "embed_dim": 32, "depth": 4, "num_heads": 2}
    torch.manual_seed(5)
    vit = timm.create_model(name, num_classes=0, **sizes, **pooling)
    torch.save(vit.state_dict(), tmp_path / "vit.pt")
    config = config_of(
        backbone=name,
        backbone_options={name: value for name, value in sizes.items() if name != "img_size"},
        checkpoint=str(tmp_path / "vit.pt"),
        decoder_channels=8,
    )
    model = build_model(config, SPECS, IMAGE_SIZE, seed=0)
    images = torch.randn(1, 3, *IMAGE_SIZE)
    embedded = vit.eval()._pos_embed(vit.patch_embed(images))[:, vit.num_prefix_tokens :]
    torch.testing.assert_close(model.backbone.embed(images)[:, len(SPECS) :], embedded)
    ours = {key.replace(".block.", "."): value for key, value in model.backbone.vit.state_dict().items()}
    theirs = vit.state_dict()
    shared = [key for key in theirs if key in ours and key != "pos_embed"]
    assert {key for key in theirs if key not in ours} <= {"cls_token", "dist_token"}
    assert all(torch.equal(ours[key], theirs[key]) for key in shared)


def test_prompts_and_patches_are_dropped_apart(make, images):
    model = make(drop_path=0.9).train()
    assert len(model.backbone.drop_paths) == 4 * 3, "the first block has no stochastic depth"
    torch.manual_seed(0)
    model(images)
    masks = torch.stack([drop_path.mask_B for drop_path in model.backbone.drop_paths[-4:]])
    assert len(masks.unique(dim=0)) > 1


def test_another_image_size_is_one_line(make, images):
    with pytest.raises(
        ValueError, match=r"bound to the image size \(32, 64\) it was built for, got .*\(64, 32\)"
    ):
        make()(images.transpose(-1, -2))


BAD = [
    (
        {"channel_heads": 9},
        {},
        r"channel_heads must be a square number .* 4x8 patches, got 9. Use .*\[1, 4, 16\]",
    ),
    ({"channel_heads": 2}, {}, "got 2. Use one of"),
    ({"channel_heads": 0}, {}, "got 0. Use one of"),
    ({"branch_channels": 0}, {}, "branch_channels must be at least 1, got 0"),
    ({"chanel_heads": 1}, {}, "channel_heads"),
    ({"reweighting": "some"}, {}, "reweighting"),
]


@pytest.mark.parametrize(("options", "fields", "message"), BAD)
def test_wrong_options_are_refused_before_anything_is_built(options, fields, message):
    with pytest.raises(ConfigError, match=message):
        check_model(config_of(options, **fields), IMAGE_SIZE)


def test_an_unknown_architecture_is_refused_with_the_nearest_name():
    with pytest.raises(ConfigError, match=r"model.architecture: .* 'taskprompte'.*taskprompter"):
        check_model(ModelConfig(architecture="taskprompte"), IMAGE_SIZE)
    with pytest.raises(ConfigError, match=r"model.architecture_options: .*'prompter'"):
        check_model(ModelConfig(architecture_options={"prompter": {}}), IMAGE_SIZE)


def test_rotary_positions_are_refused():
    config = config_of(backbone="eva02_tiny_patch14_224", backbone_options={})
    with pytest.raises(ConfigError, match=r"taskprompter needs .* rotary positions"):
        check_model(config, (56, 56))


def test_tasks_may_have_names_that_torch_takes_itself(images):
    specs = {name: replace(SPECS["depth"], name=name) for name in ("values", "type", "training")}
    model = build_model(config_of(), specs, IMAGE_SIZE, seed=0).double()
    assert list(model(images)) == list(specs)
    assert list(model(images, ["type"])) == ["type"]


def test_blocks_of_another_kind_are_refused():
    with pytest.raises(ConfigError, match=r"taskprompter needs blocks with norm1.*ParallelThingsBlock"):
        build_model(config_of(backbone="vit_small_patch16_18x2_224"), SPECS, IMAGE_SIZE, seed=0)


def test_it_runs_under_bfloat16_autocast_and_predicts_in_float32(make, make_plan, images):
    model = grow(make(drop_path=0.5), make_plan({0: ALL}, {1: ALL}, num_layers=4)).float().train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = model(images.float())
        torch.stack([output.mean() for output in outputs.values()]).sum().backward()
    assert {output.dtype for output in outputs.values()} == {torch.float32}
    assert model.backbone.prompts.grad.dtype == torch.float32
    assert all(gradient.isfinite().all() for p in model.parameters() if (gradient := p.grad) is not None)
