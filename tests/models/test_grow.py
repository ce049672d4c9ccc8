"""Growth in mid-training: what changes at once, what is added, what is refused."""

from __future__ import annotations

import copy

import pytest
import torch

from dtme_search.token_space import ExpansionPlan

ALL = ["semseg", "depth", "normals", "edge"]


def test_modulation_starts_as_the_exact_identity(make_model, make_plan, images):
    model = make_model(levels="concat4").float().eval()
    before = model(images.float())
    model.grow(make_plan({0: ALL, 1: ["depth"], 2: ["semseg edge", "normals"]}, {}), token_std=0.02, seed=0)
    after = model(images.float())
    torch.testing.assert_close(after, before, rtol=0.0, atol=1e-6)


def test_expansion_keeps_outputs_close_and_shared_tokens_in_place(make_model, make_plan, images):
    model = make_model().eval()
    before = model(images)
    model.grow(make_plan({}, {0: ALL, 2: ["depth"]}, num_task_tokens=5), token_std=0.02, seed=0)
    after = model(images)
    for task in ALL:
        assert after[task].shape == before[task].shape
        assert after[task].isfinite().all()
        assert not torch.equal(after[task], before[task])
    # With a large std the same tokens show; with the small one the step must be far smaller.
    moved = (after["depth"] - before["depth"]).abs().max()
    assert moved < 0.1 * before["depth"].std()


def test_new_parameters_are_counted_ordered_and_trained(make_model, make_plan, images):
    plan = make_plan({2: ALL, 0: ["semseg edge"]}, {0: ["depth", "normals"], 1: ["edge"]}, num_task_tokens=3)
    model = make_model()
    old = set(model.parameters())
    new = model.grow(plan, token_std=0.02, seed=0)
    names = {parameter: name for name, parameter in model.named_parameters()}
    assert [names[parameter] for parameter in new] == [
        "modulations.0.weight",
        "modulations.0.bias",
        "expansions.0.tokens",
        "expansions.1.tokens",
        "modulations.2.weight",
        "modulations.2.bias",
    ]
    assert set(model.parameters()) == old | set(new)
    assert sum(parameter.numel() for parameter in new) == plan.num_parameters(embed_dim=32)
    assert {(parameter.dtype, parameter.device) for parameter in new} == {(torch.float64, images.device)}
    sum(output.square().mean() for output in model(images).values()).backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in new)


def test_task_tokens_follow_std_and_seed_of_their_layer_alone(make_model, make_plan):
    def tokens(modulate, expand, std, seed):
        model = make_model()
        model.grow(make_plan(modulate, expand, num_task_tokens=64), token_std=std, seed=seed)
        return model.expansions["1"].tokens

    first = tokens({}, {1: ALL}, 0.5, 7)
    assert first.std().item() == pytest.approx(0.5, rel=0.05)
    assert torch.equal(first, tokens({0: ALL}, {0: ["depth"], 1: ALL}, 0.5, 7))
    assert not torch.equal(first, tokens({}, {1: ALL}, 0.5, 8))
    assert torch.equal(tokens({}, {1: ALL}, 0.0, 7), torch.zeros_like(first))


def test_building_and_growing_leave_the_global_random_state_alone(make_model, make_plan):
    before = torch.random.get_rng_state()
    make_model().grow(make_plan({0: ALL}, {1: ALL}), token_std=0.02, seed=0)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_grown_state_dict_loads_into_a_model_grown_by_the_same_plan(make_model, make_plan, images):
    plan = make_plan({1: ["semseg edge"]}, {1: ALL, 2: ["depth"]})
    trained = make_model(plan).eval()
    resumed = make_model().eval()
    resumed.grow(plan, token_std=0.02, seed=9)
    resumed.load_state_dict(trained.state_dict())
    for task, output in trained(images).items():
        assert torch.equal(resumed(images)[task], output)


def test_optimiser_state_of_old_parameters_survives(make_model, make_plan, images):
    model = make_model()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def step():
        optimizer.zero_grad()
        sum(output.square().mean() for output in model(images).values()).backward()
        optimizer.step()

    step()
    moments = {parameter: state["exp_avg"].clone() for parameter, state in optimizer.state.items()}
    optimizer.add_param_group({"params": model.grow(make_plan({0: ALL}, {0: ALL}), token_std=0.02, seed=0)})
    assert all(
        torch.equal(optimizer.state[parameter]["exp_avg"], moments[parameter]) for parameter in moments
    )
    step()
    assert set(optimizer.state) == set(model.parameters())


def test_an_empty_plan_adds_nothing_and_counts_as_growth(make_model, images):
    model = make_model().eval()
    before = model(images)
    empty = ExpansionPlan.empty(ALL, 3)
    assert model.grow(empty, token_std=0.02, seed=0) == []
    assert model.plan == empty
    assert all(torch.equal(model(images)[task], before[task]) for task in ALL)
    with pytest.raises(ValueError, match="at most once"):
        model.grow(empty, token_std=0.02, seed=0)


@pytest.mark.parametrize(
    "plan",
    [ExpansionPlan.empty(ALL, 4), ExpansionPlan.empty(ALL[:3], 3), ExpansionPlan.empty([*ALL, "sal"], 3)],
)
def test_a_plan_for_another_model_is_refused(make_model, plan):
    with pytest.raises(ValueError, match="plan must be for tasks"):
        make_model().grow(plan, token_std=0.02, seed=0)


def test_a_grown_model_can_be_copied(make_model, make_plan, images):
    model = make_model(make_plan({0: ALL}, {1: ["depth"]})).eval()
    expected = model(images)["depth"]
    assert torch.equal(copy.deepcopy(model)(images)["depth"], expected)


def test_a_grown_model_runs_under_bfloat16_autocast_and_predicts_in_float32(make_model, make_plan, images):
    model = make_model(make_plan({0: ALL, 1: ["depth"]}, {1: ALL}), drop_path=0.5).float().train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = model(images.float())
        sum(output.mean() for output in outputs.values()).backward()
    assert {output.dtype for output in outputs.values()} == {torch.float32}
    assert model.modulations["0"].weight.grad.dtype == torch.float32
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


# torch.compile looks at .grad of activations and silences the warning itself, unless warnings are errors.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_compiled_blocks_give_the_same_before_and_after_growth(make_model, make_plan, images):
    plain, compiled = make_model(drop_path=0.5).train(), make_model(drop_path=0.5).train()
    compiled.compile_blocks(backend="eager")
    assert list(compiled.state_dict()) == list(plain.state_dict())
    for plan in (None, make_plan({1: ALL}, {1: ["depth"]})):
        results = []
        for model in (plain, compiled):
            if plan is not None:
                model.grow(plan, token_std=0.02, seed=0)
            torch.manual_seed(5)
            results.append(model(images))
        torch.testing.assert_close(*results, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("frozen", [False, True])
def test_layer_inputs_are_on_the_graph_of_every_task(make_model, images, frozen):
    model = make_model(levels="concat4").eval()
    model.backbone.requires_grad_(not frozen)
    predictions, layer_inputs = model.forward_with_layer_inputs(images)
    assert [tuple(tokens.shape) for tokens in layer_inputs] == [(3, 1 + 2 * 3, 32)] * 3
    for task, output in predictions.outputs.items():
        torch.testing.assert_close(output, model(images)[task])
        for gradient in torch.autograd.grad(output.square().sum(), layer_inputs, retain_graph=True):
            # The prefix token reaches the decoder only through attention, so not from the last layer's
            # own map; patches always do.
            assert gradient[:, 1:].abs().sum(-1).min() > 0


def test_gradients_at_layer_inputs_are_those_of_the_rest_of_the_network(make_model, images):
    model = make_model(levels="concat4").eval()
    predictions, layer_inputs = model.forward_with_layer_inputs(images)
    loss = predictions.outputs["normals"].square().sum()
    gradients = torch.autograd.grad(loss, layer_inputs)
    direction = torch.randn(layer_inputs[0].shape, generator=torch.Generator().manual_seed(0)).double()
    epsilon = 1e-6
    for layer, gradient in enumerate(gradients):
        shifted = [loss_from(model, images, layer, sign * epsilon * direction) for sign in (1, -1)]
        numeric = (shifted[0] - shifted[1]) / (2 * epsilon)
        torch.testing.assert_close(numeric, (gradient * direction).sum(), rtol=1e-5, atol=1e-8)


def loss_from(model, images, layer, shift):
    """The loss when the input of one layer is shifted, for every reader of that tensor."""
    hooks = []
    blocks = model.backbone.blocks
    if layer == 0:
        hooks.append(blocks[0].register_forward_pre_hook(lambda _, inputs: (inputs[0] + shift,)))
    else:
        hooks.append(blocks[layer - 1].register_forward_hook(lambda _, inputs, output: output + shift))
    with torch.no_grad():
        loss = model(images)["normals"].square().sum()
    for hook in hooks:
        hook.remove()
    return loss


def test_layer_inputs_are_refused_after_growth(make_model, make_plan, images):
    with pytest.raises(ValueError, match="before growth"):
        make_model(make_plan({0: ALL}, {})).forward_with_layer_inputs(images)


def test_initial_weights_depend_on_the_seed_and_not_on_the_other_tasks(make_model):
    every, alone, other = (
        make_model(seed=seed, tasks=tasks).state_dict()
        for seed, tasks in ((0, ALL), (0, ["depth"]), (1, ALL))
    )
    assert all(torch.equal(tensor, every[name]) for name, tensor in alone.items())
    for name in ("decoders.depth.conv.weight", "backbone.vit.blocks.0.attn.qkv.weight"):
        assert not torch.equal(every[name], other[name])
    assert not torch.equal(every["decoders.depth.conv.weight"], every["decoders.normals.conv.weight"])
