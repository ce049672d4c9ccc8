"""One suite over all decoders: what the protocol promises, whatever the architecture.

A new decoder is one entry in ``ENTRIES``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from dtme_search.config import ModelConfig
from dtme_search.errors import ConfigError
from dtme_search.models import build_model, check_model
from dtme_search.models.backbone import BackboneInfo
from dtme_search.models.decoders import DECODERS, DecoderContext, Level, find_decoder
from dtme_search.tasks import depth, edge, normals, semseg

SPECS = {spec.name: spec for spec in (semseg(("wall", "floor", "box")), depth(), normals(), edge())}
ALL = tuple(SPECS)
NUMBERS = Path(__file__).with_name("decoder_numbers.json")
WIDTH, GRID, PATCH = 12, (4, 8), 8
IMAGE_SIZE = (GRID[0] * PATCH, GRID[1] * PATCH)
INFO = BackboneInfo(
    num_layers=4,
    embed_dim=WIDTH,
    num_heads=2,
    num_parameters=0,
    num_prefix_tokens=1,
    patch_size=PATCH,
    grid=GRID,
)


@dataclass(frozen=True)
class Entry:
    """What the suite cannot find out by itself.

    Attributes:
        num_parameters: Of (levels, output channels of each task) at the width ``channels``.
        channels: ``model.decoder_channels``.
        options: Options of the decoder.
        mixes_tasks: Whether the outputs of a task depend on which others are active.
        auxiliary: Auxiliary outputs of each task.
        unread_levels: Levels that get no gradient, of four.
        unmoved: Parameters that get none, by the end of their names.
    """

    num_parameters: Callable[[int, tuple[int, ...]], int]
    channels: int = 8
    options: dict[str, Any] = field(default_factory=dict)
    mixes_tasks: bool = False
    auxiliary: int = 0
    unread_levels: tuple[int, ...] = ()
    unmoved: tuple[str, ...] = ()


ENTRIES = {
    # 3x3 conv without bias, BN scale and shift, 1x1 conv with bias
    "simple": Entry(lambda levels, outs: sum(9 * WIDTH * levels * 8 + 16 + 8 * out + out for out in outs)),
    "dpt": Entry(lambda levels, outs: dpt_parameters(levels, outs)),
    "invpt": Entry(
        lambda levels, outs: invpt_parameters(levels, outs),
        options={"mixing_channels": 8},
        mixes_tasks=True,
        auxiliary=1,
        unread_levels=(2,),
        # Softmax ignores what is constant over the keys, and BN what is constant over a batch.
        unmoved=("key.bias", "fuse.bias", "conv.bias"),
    ),
}


def dpt_parameters(_levels, outs):
    """By the paper's layers, P = 12, D = 8, inner widths 1, 3, 6, 12."""
    reassemble = sum((WIDTH + 1) * inner + 9 * inner * 8 for inner in (1, 3, 6, 12))
    resample = (16 * 1 * 1 + 1) + (4 * 3 * 3 + 3) + (9 * 12 * 12 + 12)
    unit, project = 2 * (9 * 8 * 8 + 8), 8 * 8 + 8
    end = 9 * 8 * 8 + 2 * 8
    return sum(reassemble + resample + 7 * unit + 4 * project + end + 8 * out + out for out in outs)


def invpt_parameters(_levels, outs):
    """By the table of the original, less what is dead there; P = 12, E = 8, D = 16, 8 and 4."""
    stages = [
        # norms, maps of queries, keys, values and output, MLP, fusion of 2 + 2 heads to 2
        4 * width + 4 * (width + 1) * width + 8 * width * width + 5 * width + (10 if width < 16 else 0)
        for width in (16, 8, 4)
    ]
    skips = 9 * WIDTH * 8 + 8 + 9 * WIDTH * 4 + 4
    preliminary = 9 * WIDTH * WIDTH + 2 * WIDTH + 9 * WIDTH * 8 + 2 * 8
    up_embeds = (9 * 16 * 8 + 9 * 8 * 8 + 4 * 8) + (9 * 8 * 4 + 9 * 4 * 4 + 4 * 4)
    # depthwise conv, its BN, the joint norm
    queries_and_norms = (9 + 2 + 2) * (16 + 8 + 4)
    reductions = (8 + 1) * 16 + (4 + 1) * 16
    end = 9 * 16 * 16 + 16 + 2 * 16
    of_each_task = preliminary + up_embeds + queries_and_norms + reductions + end
    return sum(stages) + skips + sum(of_each_task + invpt_outputs(out) for out in outs)


def invpt_outputs(out):
    """Preliminary predictor, mixing, predictor."""
    return (8 * out + out) + (8 + out + 1) * 16 + (16 * out + out)


def test_every_decoder_is_in_the_suite():
    assert set(ENTRIES) == set(DECODERS)


CASES = [
    (name, num_levels)
    for name in ENTRIES
    for num_levels in ([1, 4] if DECODERS[name].num_levels is None else [DECODERS[name].num_levels])
]
"""Decoder and how many levels it gets; one that fixes the number itself gets that alone."""


@pytest.fixture(params=CASES, ids=lambda case: f"{case[0]}-{case[1]}")
def case(request):
    return request.param


@pytest.fixture
def name(case):
    return case[0]


@pytest.fixture
def num_levels(case):
    return case[1]


@pytest.fixture
def entry(name):
    return ENTRIES[name]


def build(name, num_levels, tasks=ALL, seed=0, means=None):
    entry = ENTRIES[name]
    config = ModelConfig(decoder=name, decoder_channels=entry.channels, decoder_options={name: entry.options})
    kind, options = find_decoder(config)
    kind.check(INFO, entry.channels, options)
    specs = {task: SPECS[task] for task in tasks}
    context = DecoderContext(specs, INFO, num_levels, entry.channels, IMAGE_SIZE, means or {}, seed)
    return kind.build(context, options).double()


def levels_of(streams_of_levels, num_images=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    levels = []
    for streams in streams_of_levels:
        shape = (len(streams), num_images, WIDTH, *GRID)
        maps = torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)
        levels.append(Level(streams, maps))
    return levels


@pytest.fixture
def levels(num_levels):
    """One stream for all tasks in every level."""
    return levels_of([(ALL,)] * num_levels)


def test_predictions_have_image_size_and_finite_gradients(name, entry, num_levels, levels):
    decoder = build(name, num_levels)
    predictions = decoder(levels, ALL)
    assert list(predictions.outputs) == list(ALL)
    for task, output in predictions.outputs.items():
        assert output.shape == (2, SPECS[task].channels, *IMAGE_SIZE)
        further = predictions.auxiliary.get(task, ())
        assert len(further) == entry.auxiliary
        assert all(one.shape[:2] == output.shape[:2] for one in further)
    everything = [*predictions.outputs.values(), *sum(predictions.auxiliary.values(), ())]
    torch.stack([one.square().sum() for one in everything]).sum().backward()
    for index, level in enumerate(levels):
        if index not in entry.unread_levels:
            assert level.maps.grad.isfinite().all()
            assert level.maps.grad.abs().sum() > 0
    for parameter_name, parameter in decoder.named_parameters():
        assert parameter.grad is not None, f"{parameter_name} is dead"
        assert parameter.grad.isfinite().all()
        if not parameter_name.endswith(entry.unmoved or "-"):
            assert parameter.grad.abs().sum() > 0, parameter_name


def test_parameters_are_as_many_as_the_formula_says(name, entry, num_levels):
    for tasks in (ALL, ("depth",)):
        count = sum(parameter.numel() for parameter in build(name, num_levels, tasks).parameters())
        channels = tuple(SPECS[task].channels for task in tasks)
        assert count == entry.num_parameters(num_levels, channels)


def test_inputs_are_left_as_they_are(name, num_levels, levels):
    copies = [level.maps.detach().clone() for level in levels]
    build(name, num_levels)(levels, ALL)
    assert all(torch.equal(copy, level.maps) for copy, level in zip(copies, levels, strict=True))


def test_an_image_does_not_depend_on_its_batch_in_evaluation(name, num_levels, levels):
    decoder = build(name, num_levels).eval()
    first = [Level(level.streams, level.maps[:, :1]) for level in levels]
    alone, among_others = decoder(first, ALL), decoder(levels, ALL)
    for task in ALL:
        torch.testing.assert_close(alone.outputs[task], among_others.outputs[task][:1])


def test_tasks_that_share_a_stream_get_what_they_get_from_streams_of_their_own(name, num_levels, levels):
    """Shared in the first half of the levels, on their own behind it; equal maps in equal streams."""
    decoder = build(name, num_levels).train()
    own = [
        level
        if index < num_levels // 2
        else Level(tuple((task,) for task in ALL), level.maps.expand(len(ALL), -1, -1, -1, -1))
        for index, level in enumerate(levels)
    ]
    expected, found = decoder(levels, ALL), decoder(own, ALL)
    torch.testing.assert_close(found.outputs, expected.outputs, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(found.auxiliary, expected.auxiliary, rtol=1e-9, atol=1e-11)


def test_a_task_reads_its_own_stream_of_every_level(name, entry, num_levels):
    groups = [(ALL,), *[(("semseg", "edge"), ("depth",), ("normals",))] * 3][-num_levels:]
    levels = levels_of(groups)
    predictions = build(name, num_levels).eval()(levels, ALL)
    loss = predictions.outputs["depth"].square().sum()
    gradients = torch.autograd.grad(loss, [level.maps for level in levels], allow_unused=True)
    for index, (level, gradient) in enumerate(zip(levels, gradients, strict=True)):
        if index in entry.unread_levels:
            continue
        for stream, of_stream in zip(level.streams, gradient, strict=True):
            reads = "depth" in stream or entry.mixes_tasks
            assert (of_stream.abs().sum() > 0) == reads


def test_tasks_that_are_not_asked_for_are_not_computed(name, entry, num_levels, levels):
    decoder = build(name, num_levels)
    some = ("depth", "edge")
    asked = [Level((some,), level.maps) for level in levels]
    predictions = decoder(asked, some)
    assert list(predictions.outputs) == list(some)
    assert set(predictions.auxiliary) <= set(some)
    total = torch.stack([output.square().sum() for output in predictions.outputs.values()]).sum()
    total.backward()
    idle = [
        parameter_name
        for parameter_name, parameter in decoder.named_parameters()
        if {"semseg", "normals"} & set(parameter_name.split("."))
    ]
    assert idle
    assert all(decoder.get_parameter(one).grad is None for one in idle)
    if not entry.mixes_tasks:
        torch.testing.assert_close(predictions.outputs["depth"], decoder(levels, ALL).outputs["depth"])


def test_a_task_starts_the_same_whichever_others_there_are(name, num_levels):
    every, alone, other = (
        build(name, num_levels, tasks, seed).state_dict()
        for tasks, seed in ((ALL, 0), (("depth",), 0), (ALL, 1))
    )
    assert all(torch.equal(tensor, every[key]) for key, tensor in alone.items())
    assert any(not torch.equal(tensor, other[key]) for key, tensor in every.items())


def test_the_global_random_state_is_left_alone(name, num_levels):
    before = torch.random.get_rng_state()
    build(name, num_levels)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_mean_is_where_predictions_start(name, num_levels, levels):
    mean = torch.tensor([2.7, -0.4, 100.0])
    output = build(name, num_levels, means={"normals": mean})(levels, ALL).outputs["normals"]
    offset = output.mean(dim=(0, 2, 3)) - mean
    assert offset.abs().max() < 1.0
    assert output.std(dim=(0, 2, 3)).min() > 0, "the image must still show"


def test_a_mean_of_another_size_is_refused(name, num_levels):
    with pytest.raises(ValueError, match=r"output_mean must have shape \(3,\), got \(2,\)"):
        build(name, num_levels, means={"normals": torch.zeros(2)})


def test_outputs_are_float32_under_autocast(name, num_levels, levels):
    decoder = build(name, num_levels).float()
    single = [Level(level.streams, level.maps.float()) for level in levels]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        predictions = decoder(single, ALL)
    assert {output.dtype for output in predictions.outputs.values()} == {torch.float32}


TINY = {"embed_dim": 32, "depth": 4, "num_heads": 2, "patch_size": 8}


@pytest.fixture
def model_of(name, num_levels, entry):
    """The decoder on a real backbone."""

    def make(**fields):
        config = ModelConfig(
            backbone_options=TINY,
            decoder=name,
            decoder_channels=entry.channels,
            decoder_options={name: entry.options},
            levels="last" if num_levels == 1 else "concat4",
            **fields,
        )
        return build_model(config, SPECS, (32, 64), seed=0).double()

    return make


def test_a_model_with_it_grows_at_the_identity(model_of, make_plan):
    images = torch.randn(2, 3, 32, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    model = model_of().eval()
    before = model.forward_with_auxiliary(images)
    plan = make_plan({1: list(ALL), 3: ["semseg edge", "depth"]}, {}, num_layers=4)
    model.grow(plan, token_std=0.02, seed=0)
    after = model.forward_with_auxiliary(images)
    torch.testing.assert_close(after.outputs, before.outputs, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(after.auxiliary, before.auxiliary, rtol=1e-9, atol=1e-9)


def test_a_grown_model_with_it_gives_the_same_with_and_without_shared_streams(model_of, make_plan):
    images = torch.randn(2, 3, 32, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    model = model_of(drop_path=0.5).train()
    plan = make_plan({1: ["semseg edge", "depth normals"]}, {2: ["depth"]}, num_layers=4)
    generator = torch.Generator().manual_seed(1)
    for parameter in model.grow(plan, token_std=0.02, seed=0):
        parameter.data.add_(torch.randn(parameter.shape, generator=generator), alpha=0.3)
    results = []
    for share_streams in (True, False):
        torch.manual_seed(3)
        outputs = model(images, share_streams=share_streams)
        loss = torch.stack([output.square().mean() for output in outputs.values()]).sum()
        # What no output depends on (an unread level's last blocks) has no gradient in either way.
        results.append((outputs, torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)))
    torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-9, atol=1e-11)
    for shared, own in zip(results[0][1], results[1][1], strict=True):
        torch.testing.assert_close(shared, own, rtol=1e-7, atol=1e-9)


@pytest.fixture(scope="module")
def specs():
    return {"depth": depth(), "normals": normals()}


def test_a_model_starts_regression_at_the_training_mean(specs):
    options = {"embed_dim": 32, "depth": 1, "num_heads": 2, "patch_size": 8}
    model = build_model(
        ModelConfig(backbone_options=options, decoder_channels=16),
        specs,
        (16, 24),
        seed=0,
        output_means={"depth": torch.tensor([3.0])},
    )
    outputs = model(torch.randn(2, 3, 16, 24, generator=torch.Generator().manual_seed(0)))
    assert outputs["depth"].mean().item() == pytest.approx(3.0, abs=0.7)
    assert outputs["normals"].mean().item() == pytest.approx(0.0, abs=0.7)
    head = sum(parameter.numel() for parameter in model.decoders["normals"].parameters())
    assert head == 9 * 32 * 16 + 2 * 16 + 16 * 3 + 3


def test_a_mean_of_an_unknown_task_is_refused(specs):
    with pytest.raises(ValueError, match="output_means must name some of"):
        build_model(ModelConfig(), specs, (16, 16), seed=0, output_means={"dept": torch.zeros(1)})


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"decoder": "simpel"}, r"model\.decoder: no decoder is named 'simpel'\. Did you mean 'simple'\?"),
        (
            {"decoder_options": {"simpel": {}}},
            r"model\.decoder_options: no decoder is named 'simpel'\. Did you mean 'simple'\?",
        ),
        (
            {"decoder_options": {"simple": {"depth": 3}}},
            r"model\.decoder_options\.simple: depth is unknown\.",
        ),
    ],
)
def test_unknown_decoders_and_options_are_refused_before_anything_is_built(fields, complaint):
    with pytest.raises(ConfigError, match=complaint):
        check_model(ModelConfig(**fields), (32, 32))


@pytest.mark.parametrize("size", [(96, 128), (128, 224), (480, 640)])
def test_sizes_that_invpt_cannot_split_are_refused_with_the_nearest_that_it_can(size):
    config = ModelConfig(decoder="invpt", backbone_options={"embed_dim": 48, "depth": 4, "num_heads": 2})
    with pytest.raises(ConfigError) as refused:
        check_model(config, size)
    message = str(refused.value)
    assert message.startswith(
        f"data.image_size must be a multiple of 64 (4 patches) for model.decoder invpt, got {list(size)}."
    )
    offered = [[int(side) for side in found] for found in re.findall(r"\[(\d+), (\d+)\]", message)[1:]]
    assert offered and len({tuple(one) for one in offered}) == len(offered)
    for one in offered:
        check_model(config, tuple(one))
        assert all(abs(near - side) < 64 for near, side in zip(one, size, strict=True))


@pytest.mark.parametrize(
    ("channels", "options", "complaint"),
    [
        (20, {}, r"must add up to a multiple of 8, got 22\."),
        (24, {"mixing_channels": 3}, r"must add up to a multiple of 8, got 27\."),
        (
            None,
            {"mixing_channels": 0},
            r"model\.decoder_options\.invpt: mixing_channels must be at least 1, got 0",
        ),
        (None, {"mixing": 8}, r"invpt: mixing is unknown\. Did you mean 'mixing_channels'\?"),
    ],
)
def test_widths_that_invpt_cannot_split_are_refused(channels, options, complaint):
    config = ModelConfig(decoder="invpt", decoder_channels=channels, decoder_options={"invpt": options})
    with pytest.raises(ConfigError, match=complaint):
        check_model(config, (64, 64))


def test_preliminary_predictions_need_no_training():
    """Without intermediate supervision nothing but the losses changes."""
    config = ModelConfig(
        backbone_options=TINY,
        decoder="invpt",
        decoder_channels=64,
        decoder_options={"invpt": {"intermediate_supervision": False}},
    )
    images = torch.randn(1, 3, 32, 64, generator=torch.Generator().manual_seed(0))
    without = build_model(config, SPECS, (32, 64), seed=0).eval()
    assert without.forward_with_auxiliary(images).auxiliary == {}
    supervised = build_model(
        config.model_copy(update={"decoder_options": {}}), SPECS, (32, 64), seed=0
    ).eval()
    predictions = supervised.forward_with_auxiliary(images)
    assert set(predictions.auxiliary) == set(ALL)
    torch.testing.assert_close(without(images), predictions.outputs)


def numbers_of(name):
    """Outputs and gradients with weights and inputs that follow a formula, so that no generator is needed."""
    decoder = build(name, DECODERS[name].num_levels or 4).train()

    def wave(tensor, phase):
        steps = torch.arange(tensor.numel(), dtype=torch.float64).reshape(tensor.shape)
        return torch.sin(0.37 * steps + phase)

    for phase, key in enumerate(sorted(decoder.state_dict())):
        value = decoder.state_dict()[key]
        if value.is_floating_point():
            value.copy_(0.2 * wave(value, phase) + (1.0 if value.ndim == 1 and "bias" not in key else 0.0))
    levels = [
        Level((ALL,), wave(torch.empty(1, 2, WIDTH, *GRID), phase).requires_grad_()) for phase in range(4)
    ]
    predictions = decoder(levels, ALL)
    numbers = {}
    for task, output in predictions.outputs.items():
        for each in (output, *predictions.auxiliary.get(task, ())):
            numbers.setdefault(task, []).extend(
                [each.mean().item(), each.std().item(), each[1, 0, 1, 2].item()]
            )
    weighted = [
        (each * wave(each, 1.0)).sum()
        for task, output in predictions.outputs.items()
        for each in (output, *predictions.auxiliary.get(task, ()))
    ]
    torch.stack(weighted).sum().backward()
    numbers["gradients"] = [
        0.0 if level.maps.grad is None else level.maps.grad.norm().item() for level in levels
    ]
    return numbers


@pytest.mark.parametrize("decoder", ENTRIES)
def test_numbers_stay_what_they_are(decoder):
    """A change of these needs a new NUMERICS_VERSION; the file is ``{name: numbers_of(name)}``."""
    pinned = json.loads(NUMBERS.read_text(encoding="utf-8"))[decoder]
    found = numbers_of(decoder)
    assert set(found) == set(pinned)
    for key, values in found.items():
        assert values == pytest.approx(pinned[key], rel=1e-8, abs=1e-10), key


def test_every_decoder_and_option_has_its_words():
    page = (Path(__file__).parents[2] / "docs" / "architectures.md").read_text(encoding="utf-8")
    for name, kind in DECODERS.items():
        assert f"`{name}`" in page
        assert all(f"`{option}`" in page for option in kind.options.model_fields)


def test_skips_of_invpt_are_per_stream_from_the_first_grown_level_on(make_plan):
    config = ModelConfig(backbone_options=TINY, decoder="invpt", decoder_channels=64)
    model = build_model(config, SPECS, (32, 64), seed=0).eval()
    model.grow(make_plan({1: list(ALL)}, {}, num_layers=4), token_std=0.02, seed=0)
    rows = []
    for skip in model.decoders.skips:
        skip.register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))
    model(torch.zeros(3, 3, 32, 64))
    # Levels are taken after blocks 1, 2, 3 and 4; the second block is the first one with streams.
    assert rows == [3 * len(ALL), 3]
