"""One suite for all operations of a layer: what they compute, add, start as, and are written down as."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import combinations

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from dtme_search.config import ExpansionConfig, ModelConfig
from dtme_search.errors import ConfigError
from dtme_search.models import build_model
from dtme_search.models.operations import LAYER_OPERATIONS, check_operations
from dtme_search.operations import CHOICES, LETTERS, OPERATIONS, legend, name_of, operations_of
from dtme_search.tasks import depth
from dtme_search.testing import check_operation
from dtme_search.token_space import ExpansionPlan, options_of

TASKS = ("semseg", "depth", "normals", "edge")
EACH = tuple((task,) for task in TASKS)
PAIRS = (("semseg", "edge"), ("depth", "normals"))
SOME = (("depth",), ("normals", "edge"))
LINEARS = {"qkv": (32, 96), "proj": (32, 32), "fc1": (32, 128), "fc2": (128, 32)}
"""Of the tiny model: P = 32."""


@dataclass(frozen=True)
class Case:
    """What an operation is to be.

    Attributes:
        name: Of the operation.
        parameters: One group in one layer, worked out by hand.
        apply: (model, layer, group, tokens (B, L, P)) -> what the block gives, without added tokens.
        options: Fields of ``expansion``.
        starts_as_identity: Whether growth changes no output.
    """

    name: str
    parameters: int
    apply: Callable[..., Tensor]
    options: Mapping[str, int | float | str] = field(default_factory=dict)
    starts_as_identity: bool = True


def modulated(model, layer: int, group: int, tokens: Tensor) -> Tensor:
    operation = model.modulations[str(layer)]
    return model.backbone.blocks[layer](operation.weight[group] * tokens + operation.bias[group])


def expanded(model, layer: int, group: int, tokens: Tensor) -> Tensor:
    added = model.expansions[str(layer)].tokens[group].expand(len(tokens), -1, -1)
    return model.backbone.blocks[layer](torch.cat((tokens, added), 1))[:, : tokens.shape[1]]


def adapted(model, layer: int, group: int, tokens: Tensor) -> Tensor:
    """The block with its weights W + alpha / r * B A, written down from the paper."""
    block, options = copy.deepcopy(model.backbone.blocks[layer]), model.plan.options
    places = {"qkv": block.attn.qkv, "proj": block.attn.proj, "fc1": block.mlp.fc1, "fc2": block.mlp.fc2}
    with torch.no_grad():
        for name, term in model.loras[str(layer)].terms.items():
            scale = options["lora_alpha"] / options["lora_rank"]
            places[name].weight += scale * term.up[group].T @ term.down[group].T
    return block(tokens)


CASES = {
    "modulate": Case("modulate", 2 * 32, modulated),
    "expand": Case("expand", 3 * 32, expanded, {"num_task_tokens": 3}, starts_as_identity=False),
    "lora": Case("lora", 4 * ((32 + 96) + (32 + 32)), adapted),
    "lora in the MLP": Case(
        "lora",
        2 * ((32 + 32) + (32 + 128) + (128 + 32)),
        adapted,
        {"lora_rank": 2, "lora_alpha": 6.0, "lora_targets": "proj+fc1+fc2"},
    ),
}


@pytest.fixture(params=CASES, ids=str)
def case(request) -> Case:
    return CASES[request.param]


def plan_of(case: Case, layers: Mapping[int, tuple], **others: Mapping[int, tuple]) -> ExpansionPlan:
    return ExpansionPlan(TASKS, 3, {case.name: layers, **others}, case.options)


@contextmanager
def forked_random_state() -> Iterator[None]:
    before = torch.random.get_rng_state()
    yield
    assert torch.equal(torch.random.get_rng_state(), before)


def test_every_operation_is_here():
    assert {case.name for case in CASES.values()} == set(OPERATIONS)
    assert list(LAYER_OPERATIONS) == list(OPERATIONS)
    assert {spec.letter for spec in OPERATIONS.values()}.isdisjoint(".*")
    assert len({kind.place for kind in LAYER_OPERATIONS.values()}) == len(OPERATIONS)
    for spec in OPERATIONS.values():
        defaults = {option: getattr(ExpansionConfig(), option) for option in spec.options}
        assert defaults == spec.options, "the registry knows the defaults of the config"


def test_it_keeps_the_rules_that_authors_of_operations_are_told(case):
    options = {**OPERATIONS[case.name].options, **case.options}
    check_operation(LAYER_OPERATIONS[case.name], options, name=case.name)


def test_growth_changes_no_output_or_little(make_model, images, case):
    model = make_model(levels="concat4").eval()
    before = model(images)
    with forked_random_state():
        model.grow(plan_of(case, {0: EACH, 2: SOME}), token_std=0.02, seed=0)
    after = model(images)
    for task, output in after.items():
        moved, spread = (output - before[task]).abs().max().item(), before[task].std().item()
        assert moved <= 1e-6 if case.starts_as_identity else 0 < moved < 0.1 * spread


def test_parameters_are_those_of_the_arithmetic(make_model, images, case):
    plan = plan_of(case, {0: EACH, 2: SOME})
    model = make_model(plan)
    assert model.info.linears == LINEARS
    added = sum(
        parameter.numel() for parameter in getattr(model, LAYER_OPERATIONS[case.name].place).parameters()
    )
    assert added == plan.num_parameters(32, LINEARS) == (4 + 2) * case.parameters
    assert plan.overhead_percent(32, model.info.num_parameters, LINEARS) == pytest.approx(
        100 * added / sum(parameter.numel() for parameter in model.backbone.parameters())
    )
    sum(output.square().mean() for output in model(images).values()).backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())


def test_products_of_lora_are_counted(make_model, images):
    """Of 3 images with 7 tokens each, twice r * (I + O) per token and map."""
    model = make_model().eval()
    counts = []
    for grows in (False, True):
        if grows:
            model.grow(plan_of(CASES["lora"], {0: (TASKS,)}), token_std=0.02, seed=0)
        with FlopCounterMode(display=False) as counter:
            model(images)
        counts.append(counter.get_total_flops())
    assert counts[1] - counts[0] == 2 * 3 * 7 * 4 * ((32 + 96) + (32 + 32))


@pytest.mark.parametrize("groups", [EACH, PAIRS, SOME, (TASKS,)], ids=["each", "pairs", "some", "one"])
def test_each_task_is_computed_as_defined(make_model, images, case, groups):
    model = make_model(plan_of(case, {0: groups, 2: groups})).eval()
    outputs = model(images)
    for task in TASKS:
        tokens = model.backbone.embed(images)
        index = next((index for index, group in enumerate(groups) if task in group), None)
        for layer, block in enumerate(model.backbone.blocks):
            acts = index is not None and layer != 1
            tokens = case.apply(model, layer, index, tokens) if acts else block(tokens)
        maps = model.backbone.norm(tokens)[:, 1:].unflatten(1, model.info.grid).permute(0, 3, 1, 2)
        torch.testing.assert_close(outputs[task], model.decoders[task]([maps]), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("other", sorted(OPERATIONS))
@pytest.mark.parametrize("drop_path", [0.0, 0.5])
def test_sharing_streams_changes_neither_outputs_nor_gradients(make_model, images, case, other, drop_path):
    """Beside each other operation at the same layer, too; with every task alone as a third way."""
    layers = {case.name: {0: SOME, 1: PAIRS, 2: EACH}} | (
        {other: {0: PAIRS, 1: (("semseg",), ("edge",))}} if other != case.name else {}
    )
    model = make_model(ExpansionPlan(TASKS, 3, layers, case.options), drop_path=drop_path).train()
    results = []
    for ways in ([None], [None], [(task,) for task in TASKS]):
        loss: Tensor | float = 0.0
        for tasks in ways:
            torch.manual_seed(3)
            outputs = model(images, tasks, share_streams=len(results) != 1)
            loss = loss + sum(output.square().sum() for output in outputs.values())
        results.append(torch.autograd.grad(loss, list(model.parameters())))
    for own in results[1:]:
        torch.testing.assert_close(results[0], own, rtol=1e-7, atol=1e-9)


def test_what_is_drawn_follows_the_seed_and_its_layer_alone(make_model, case):
    def grown(layers, seed):
        model = make_model()
        model.grow(plan_of(case, layers), token_std=0.5, seed=seed)
        return getattr(model, LAYER_OPERATIONS[case.name].place)["1"].state_dict()

    first, among, other = grown({1: EACH}, 7), grown({0: SOME, 1: EACH}, 7), grown({1: EACH}, 8)
    assert all(torch.equal(first[name], among[name]) for name in first)
    if case.name != "modulate":  # which draws nothing
        assert any(not torch.equal(first[name], other[name]) for name in first)


def test_a_copy_and_a_loaded_checkpoint_are_equal(make_model, images, case):
    plan = plan_of(case, {1: SOME, 2: EACH})
    trained, loaded = make_model(plan).eval(), make_model().eval()
    loaded.grow(ExpansionPlan.from_json(plan.to_json()), token_std=0.02, seed=9)
    loaded.load_state_dict(trained.state_dict())
    copied = copy.deepcopy(trained)
    for parameter in trained.parameters():  # neither of them holds on to these
        parameter.data.zero_()
    for task, output in copied(images).items():
        assert torch.equal(loaded(images)[task], output) and output.any()


def test_old_parameters_stay_under_their_names(make_model, case):
    plain, grown = make_model(), make_model()
    before = dict(grown.named_parameters())
    grown.grow(plan_of(case, {0: EACH}), token_std=0.02, seed=0)
    after = dict(grown.named_parameters())
    assert all(after[name] is parameter for name, parameter in before.items())
    assert set(plain.state_dict()) < set(grown.state_dict())
    place = LAYER_OPERATIONS[case.name].place
    assert all(name.startswith(f"{place}.0.") for name in set(after) - set(before))


def test_it_runs_under_bfloat16_autocast(make_model, images, case):
    model = make_model(plan_of(case, {0: EACH, 2: SOME})).float().train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = model(images.float())
        sum(output.mean() for output in outputs.values()).backward()
    exact = model(images.float())
    for task, output in outputs.items():
        assert output.dtype == torch.float32
        assert (output - exact[task]).abs().mean() < 0.05 * exact[task].abs().mean() + 0.01
    assert all(parameter.grad.dtype == torch.float32 for parameter in model.parameters())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_compiled_blocks_give_the_same(make_model, images, case):
    plain, compiled = make_model(drop_path=0.5).train(), make_model(drop_path=0.5).train()
    compiled.compile_blocks(backend="eager")
    layers = {"expand": {1: EACH, 2: (("depth",),)}, case.name: {0: SOME, 1: EACH, 2: (TASKS,)}}
    plan = ExpansionPlan(TASKS, 3, layers, case.options)
    for grows in (False, True):
        for model in (plain, compiled):
            if grows:
                model.grow(plan, token_std=0.02, seed=0)
        for training, tasks in ((True, None), (False, None), (True, ("depth",)), (False, ("semseg", "edge"))):
            results = []
            for model in (plain.train(training), compiled.train(training)):
                torch.manual_seed(5)
                with nullcontext() if training else torch.no_grad():
                    results.append(model(images, tasks))
            torch.testing.assert_close(*results, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("tasks", [None, ("semseg", "edge"), ("depth",)], ids=str)
def test_folding_leaves_the_outputs_of_the_tasks_and_what_they_do_not_share(make_model, images, case, tasks):
    model = make_model(plan_of(case, {0: (TASKS,), 1: PAIRS, 2: SOME}), levels="concat4").float().eval()
    images = images.float()
    before = model(images, tasks)
    model.fold(tasks)
    after = model(images, tasks)
    for task, output in before.items():
        torch.testing.assert_close(after[task], output, rtol=1e-5, atol=1e-5)
    folded = {None: {0}, ("semseg", "edge"): {0, 1}, ("depth",): {0, 1, 2}}[tasks]
    left = {0, 1, 2} - (folded if LAYER_OPERATIONS[case.name].kind.folds else set())
    assert set(model.plan.groups[case.name]) == left
    assert set(getattr(model, LAYER_OPERATIONS[case.name].place)) == {str(layer) for layer in left}


def test_folding_changes_the_weights_by_the_term_of_the_group(make_model, images):
    """Two by two by hand: scale 6 / 2, A = all 1, B = all 0.5 in one column."""
    case = CASES["lora in the MLP"]
    model = make_model(plan_of(case, {0: PAIRS}))
    block, term = model.backbone.blocks[0], model.loras["0"].terms["proj"]
    before = block.attn.proj.weight.detach().clone()
    with torch.no_grad():
        term.down.fill_(1.0)
        term.up.zero_()
        term.up[1, :, 4] = 0.5
    model.fold(("normals",))
    expected = torch.zeros_like(before)
    expected[4] = 3.0 * 2 * 0.5
    torch.testing.assert_close(block.attn.proj.weight - before, expected)
    assert type(block.attn.proj) is torch.nn.Linear and not len(model.loras)


@pytest.mark.parametrize(
    ("backbone", "maps"),
    [
        ("vit_small_patch14_reg4_dinov2", ["qkv", "proj", "fc1", "fc2"]),
        ("vit_small_patch16_dinov3", ["qkv", "proj", "fc1", "fc2"]),
        ("vit_small_patch16_dinov3_qkvb", ["proj", "fc1", "fc2"]),  # biases of its own pass qkv by
        ("eva02_tiny_patch14_224", ["proj", "fc1", "fc2"]),
        ("vit_base_patch16_xp_224", []),  # attention and MLP in one map
    ],
)
def test_maps_of_other_backbones_are_found_and_adapted(backbone, maps):
    size = (28, 42) if "patch14" in backbone else (32, 48)
    options = {"embed_dim": 32, "depth": 2, "num_heads": 2}
    model = build_model(
        ModelConfig(backbone=backbone, backbone_options=options), {"depth": depth()}, size, seed=0
    )
    assert list(model.info.linears) == maps
    if maps:
        images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
        groups = {"lora": {0: (("depth",),), 1: (("depth",),)}}
        before = model.eval()(images)["depth"]
        plan = ExpansionPlan(("depth",), 2, groups, {"lora_targets": "+".join(maps)})
        new = model.grow(plan, token_std=0.02, seed=0)
        assert (model(images)["depth"] - before).abs().max() <= 1e-6
        assert sum(parameter.numel() for parameter in new) == plan.num_parameters(32, model.info.linears)
        for parameter in new:
            parameter.data.fill_(0.1)
        model(images)["depth"].square().sum().backward()
        assert all(parameter.grad.any() for parameter in new), "every term acts"


def test_a_plan_is_written_and_read(case):
    plan = plan_of(case, {0: PAIRS, 2: SOME})
    assert ExpansionPlan.from_json(plan.to_json()) == plan == copy.deepcopy(plan)
    expansion = ExpansionConfig(policy="fixed", plan=plan.to_config(), **case.options)
    assert ExpansionPlan.from_config(expansion, TASKS, 3) == plan
    assert plan.operations() == (case.name, "none", case.name)
    assert case.name in plan.table() and case.name in plan.shown
    defaults = OPERATIONS[case.name].options
    changed = {name: "qkv" if isinstance(value, str) else value + 1 for name, value in defaults.items()}
    for name, value in changed.items():
        other = ExpansionPlan(TASKS, 3, plan.groups, {**case.options, name: value})
        assert other.fingerprint != plan.fingerprint
    without = ExpansionPlan(TASKS, 3, {}, changed)
    assert without.fingerprint == ExpansionPlan.empty(TASKS, 3).fingerprint, "options of nothing are nothing"


def test_sets_of_operations_have_one_name_and_letter():
    every = [set(some) for size in range(len(OPERATIONS) + 1) for some in combinations(OPERATIONS, size)]
    assert [set(operations_of(name_of(some))) for some in every] == every
    assert {name_of(some) for some in every} == set(CHOICES) == set(LETTERS)
    assert len(set(LETTERS.values()) - {"*"}) == len([x for x in LETTERS.values() if x != "*"])
    assert legend() == ". none, M modulation, E expansion, B both"
    assert legend("*") == ". none, M modulation, E expansion, B both, * own operation"
    assert legend("b.") == ". none, M modulation, E expansion, B both, b both + LoRA"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"lora_rank": 33}, "expansion.lora_rank must be at most 32, the width of qkv, got 33. Lower it."),
        ({"lora_rank": 33, "lora_targets": "fc2"}, "at most 32, the width of fc2"),
        (
            {"lora_targets": "qkv+fc1"},
            "lora_targets must name maps .* got 'fc1'. They have qkv, proj.",
        ),
    ],
)
@pytest.mark.parametrize("used", [True, False])
def test_options_that_do_not_fit_the_blocks_are_refused(fields, message, used):
    layers = {"policy": "per_layer", "layers": ("none", "both+lora")} if used else {}
    linears = {"qkv": (32, 96), "proj": (32, 32)} if "qkv+fc1" in fields.values() else LINEARS
    with pytest.raises(ConfigError, match=message):
        check_operations(ExpansionConfig(**layers, **fields), linears)
    check_operations(ExpansionConfig(**layers, lora_rank=32), LINEARS)


def test_what_no_run_uses_needs_no_map():
    check_operations(ExpansionConfig(), {})
    with pytest.raises(ConfigError, match="They have none"):
        check_operations(ExpansionConfig(range_operation="lora"), {})


def test_fields_of_operations_are_read_from_the_config():
    options = options_of(ExpansionConfig(lora_rank=7, num_task_tokens=5))
    assert options == {"num_task_tokens": 5, "lora_rank": 7, "lora_alpha": 4.0, "lora_targets": "qkv+proj"}
