"""Task streams: what they compute, that sharing changes nothing, and that only what is needed runs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dtme_search.models.streams import SharedDropPath, draw_drop_paths

ALL = ["semseg", "depth", "normals", "edge"]
PLANS = {
    "nothing": ({}, {}),
    "modulate from layer 0": ({0: ALL}, {}),
    "expand the last layer": ({}, {2: ALL}),
    "both on two layers": ({1: ALL, 2: ALL}, {1: ALL, 2: ALL}),
    "layers mixed": ({0: ["depth"], 2: ALL}, {1: ALL}),
    "groups": ({1: ["semseg edge", "depth normals"]}, {0: ["semseg edge"], 2: ["semseg", "depth normals"]}),
    "tasks without a group": ({1: ["normals"]}, {1: ["semseg", "edge"], 2: ["depth"]}),
    "one task has task tokens": ({}, {0: ["depth"], 1: ["edge"]}),
    "one group of all tasks": ({1: ["semseg depth normals edge"]}, {2: ["semseg depth normals edge"]}),
}


@pytest.fixture(params=PLANS, ids=str)
def plan(request, make_plan):
    return make_plan(*PLANS[request.param])


def by_definition(model, images: Tensor, task: str) -> Tensor:
    """One task on its own through all layers, written down from Sec. 4.3 of the paper."""
    plan, vit = model.plan, model.backbone.vit
    tokens = model.backbone.embed(images)
    maps = []
    for layer, block in enumerate(vit.blocks):
        num_tokens = tokens.shape[1]
        for group_index, group in enumerate(plan.groups["modulate"].get(layer, ())):
            if task in group:
                modulation = model.modulations[str(layer)]
                tokens = modulation.weight[group_index] * tokens + modulation.bias[group_index]
        for group_index, group in enumerate(plan.groups["expand"].get(layer, ())):
            if task in group:
                added = model.expansions[str(layer)].tokens[group_index]
                tokens = torch.cat((tokens, added.expand(len(images), -1, -1)), dim=1)
        tokens = block(tokens)[:, :num_tokens]
        maps += [tokens] * model.levels.count(layer + 1)
    maps[-1] = vit.norm(maps[-1])
    height, width = model.info.grid
    return model.decoders[task](
        [level[:, 1:].reshape(len(images), height, width, -1).permute(0, 3, 1, 2) for level in maps]
    )


def gradients(model, loss: Tensor) -> dict[str, Tensor]:
    named = dict(model.named_parameters())
    return dict(zip(named, torch.autograd.grad(loss, list(named.values())), strict=True))


@pytest.mark.parametrize("levels", ["last", "concat4"])
def test_each_task_is_computed_as_defined(make_model, images, plan, levels):
    model = make_model(plan, levels=levels).eval()
    outputs = model(images)
    assert list(outputs) == ALL
    for task in ALL:
        torch.testing.assert_close(outputs[task], by_definition(model, images, task), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("drop_path", [0.0, 0.5])
def test_sharing_streams_changes_neither_outputs_nor_gradients(make_model, images, plan, drop_path):
    model = make_model(plan, levels="concat4", drop_path=drop_path).train()
    weights = {task: torch.randn_like(output) for task, output in model(images).items()}
    results = []
    for share_streams in (True, False):
        torch.manual_seed(3)
        outputs = model(images, share_streams=share_streams)
        loss = torch.stack([(weights[task] * output).sum() for task, output in outputs.items()]).sum()
        results.append((outputs, gradients(model, loss)))
    (shared_outputs, shared_gradients), (own_outputs, own_gradients) = results
    torch.testing.assert_close(shared_outputs, own_outputs, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(shared_gradients, own_gradients, rtol=1e-7, atol=1e-9)


def test_only_the_asked_tasks_are_computed(make_model, make_plan, images):
    model = make_model(make_plan({0: ALL}, {1: ALL}), drop_path=0.5).train()
    rows, decoded = count_work(model)
    torch.manual_seed(3)
    alone = model(images, ["edge", "depth"])
    assert list(alone) == decoded == ["depth", "edge"]
    assert rows == {0: [6], 1: [6], 2: [6]}
    torch.manual_seed(3)
    among_others = model(images)
    torch.testing.assert_close(alone["depth"], among_others["depth"], rtol=1e-9, atol=1e-12)


def test_blocks_run_on_as_many_streams_as_the_plan_says(make_model, make_plan, images):
    plan = make_plan({1: ["semseg edge", "depth"]}, {2: ["depth", "edge"]})
    model = make_model(plan).eval()
    rows, _ = count_work(model)
    model(images)
    # Layer 2: semseg and normals without task tokens, depth and edge with, hence two calls.
    assert rows == {0: [3], 1: [9], 2: [6, 6]}
    assert [sum(calls) for calls in rows.values()] == [len(images) * plan.num_streams(d) for d in range(3)]


def test_what_a_block_gives_beside_its_tokens_reaches_the_decoder_by_stream(make_model, make_plan, images):
    """The mean of the tokens that came in, for two layers: before streams part and behind two passes."""
    plan = make_plan({1: ["semseg edge", "depth"]}, {2: ["depth", "edge"]})
    model = make_model(plan, levels="concat4").eval()
    came_in, levels = {}, []
    for layer, block in enumerate(model.backbone.blocks):
        forward = block.forward

        def giving(tokens, forward=forward, layer=layer):
            came_in.setdefault(layer, []).append(tokens)
            return forward(tokens), tokens[:, :7].mean((1, 2))

        block.forward = giving
    decode = model.decoders.forward
    model.decoders.forward = lambda given, tasks: levels.extend(given) or decode(given, tasks)
    model(images)
    for level, num_blocks in zip(levels, model.levels, strict=True):
        (means,) = level.beside
        assert means.shape == level.maps.shape[:2]
        inputs = [call[:, :7].mean((1, 2)).reshape(-1, 3) for call in came_in[num_blocks - 1]]
        # The last layer's streams are (semseg), (depth), (normals), (edge); the second pass has depth, edge.
        order = [0, 2, 1, 3] if len(inputs) == 2 else range(len(level.streams))
        assert torch.equal(means, torch.cat(inputs)[list(order)])


def count_work(model):
    rows = {layer: [] for layer in range(model.info.num_layers)}
    decoded = []
    for layer, block in enumerate(model.backbone.blocks):
        block.register_forward_pre_hook(lambda _, inputs, layer=layer: rows[layer].append(len(inputs[0])))
    for task, decoder in model.decoders.items():
        decoder.register_forward_pre_hook(lambda *_, task=task: decoded.append(task))
    return rows, decoded


def test_drop_path_is_linear_over_the_layers_and_drops_whole_images(make_model, images):
    model = make_model(drop_path=0.6).train()
    drop_paths = model.backbone.drop_paths
    assert [drop_path.drop_prob for drop_path in drop_paths] == pytest.approx([0.3, 0.3, 0.6, 0.6])
    torch.manual_seed(0)
    model(images)
    for drop_path in drop_paths:
        dropped = drop_path(torch.ones(6, 2, 4, dtype=torch.float64))
        kept = dropped[dropped != 0]
        torch.testing.assert_close(
            kept, torch.full_like(kept, 1 / (1 - drop_path.drop_prob)), rtol=1e-6, atol=0
        )
        assert torch.equal(dropped, dropped[:, :1, :1].expand_as(dropped))
        assert torch.equal(dropped[:3], dropped[3:]), "streams of one image must share its draw"
    model.eval()
    assert torch.equal(model(images)["depth"], model(images)["depth"])


def test_drop_path_keeps_the_expected_value():
    drop_paths = [SharedDropPath(0.2), SharedDropPath(0.7)]
    torch.manual_seed(0)
    draw_drop_paths(drop_paths, torch.tensor([0.8, 0.3]), num_images=20_000)
    means = torch.stack([drop_path(torch.ones(20_000, 1, 1)).mean() for drop_path in drop_paths])
    torch.testing.assert_close(means, torch.ones(2), rtol=0.03, atol=0.0)


def test_training_works_after_a_pass_in_inference_mode(make_model, make_plan, images):
    model = make_model(make_plan({1: ["depth"]}, {1: ["semseg"]})).eval()
    with torch.inference_mode():
        model(images)
    model(images)["depth"].sum().backward()
    assert model.modulations["1"].weight.grad is not None


@pytest.mark.parametrize("tasks", [[], ["depht"], ["depth", "sal"]])
def test_unknown_or_no_tasks_are_refused(make_model, images, tasks):
    with pytest.raises(ValueError, match="tasks must be some of"):
        make_model()(images, tasks)
