"""One suite over all decoders: what the protocol promises, whatever the architecture.

A new decoder is one entry in ``ENTRIES``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
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
}


def test_every_decoder_is_in_the_suite():
    assert set(ENTRIES) == set(DECODERS)


@pytest.fixture(params=ENTRIES)
def name(request):
    return request.param


@pytest.fixture
def entry(name):
    return ENTRIES[name]


@pytest.fixture(params=["last", "concat4"])
def num_levels(request, name):
    """How many levels the decoder gets; one that fixes the number itself is tested with that alone."""
    if DECODERS[name].num_levels is None:
        return {"last": 1, "concat4": 4}[request.param]
    if request.param == "last":
        pytest.skip(f"{name} always gets {DECODERS[name].num_levels} levels")
    return DECODERS[name].num_levels


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
def model_of(name, entry):
    """The decoder on a real backbone."""

    def make(**fields):
        config = ModelConfig(
            backbone_options=TINY,
            decoder=name,
            decoder_channels=entry.channels,
            decoder_options={name: entry.options},
            levels="concat4",
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
