"""Operations of a prediction: the sum over layers is what PyTorch counts for the whole network."""

from __future__ import annotations

import random

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from dtme_search.config import ModelConfig
from dtme_search.models import build_model
from dtme_search.models.inference_flops import InferenceFlops
from dtme_search.operations import OPERATIONS
from dtme_search.tasks import depth, edge, normals, semseg
from dtme_search.token_space import ExpansionPlan

SPECS = {spec.name: spec for spec in (semseg(("wall", "floor", "box")), depth(), normals(), edge())}
SIZE = (64, 128)
LAYERS = 4
TINY = {"embed_dim": 32, "depth": LAYERS, "num_heads": 2}


def some_plan(rng: random.Random) -> ExpansionPlan:
    """Random operations, tasks and groups."""
    groups: dict[str, dict[int, tuple[tuple[str, ...], ...]]] = {name: {} for name in OPERATIONS}
    for layers in groups.values():
        for layer in range(LAYERS):
            tasks = [task for task in SPECS if rng.random() < 0.4]
            if tasks:
                count = rng.randint(1, len(tasks))
                layers[layer] = tuple(tuple(tasks[at::count]) for at in range(count))
    options = {"num_task_tokens": rng.randint(1, 4), "lora_rank": rng.randint(1, 4)}
    return ExpansionPlan(tuple(SPECS), LAYERS, groups, options)


@pytest.mark.parametrize(
    "model",
    [
        {"decoder": "simple"},
        {"decoder": "simple", "levels": "concat4"},
        {"decoder": "invpt", "decoder_channels": 64},
        {"architecture": "taskprompter"},
    ],
    ids=lambda model: "-".join(map(str, model.values())),
)
def test_the_sum_over_layers_is_what_pytorch_counts_for_the_grown_network(model):
    config = ModelConfig.model_validate(
        {"backbone": "vit_tiny_patch16_224", "backbone_options": TINY, **model}
    )
    flops, rng = InferenceFlops.of_model(config, SPECS, SIZE), random.Random(0)
    whole = build_model(config, SPECS, SIZE, seed=0).eval()
    unexpanded = counted(whole)
    for number in range(4):
        plan = some_plan(rng)
        grown = build_model(config, SPECS, SIZE, seed=0).eval()
        grown.grow(plan, token_std=0.02, seed=0)
        grown.fold()
        assert flops.ratio(plan) == counted(grown) / unexpanded, f"plan {number}: {plan}"
    assert flops(None) == flops(ExpansionPlan.empty(tuple(SPECS), LAYERS)) == unexpanded


def test_lora_that_all_tasks_share_costs_nothing_and_lora_of_some_does():
    flops = InferenceFlops.of_model(ModelConfig.model_validate({"backbone_options": TINY}), SPECS, SIZE)

    def ratio(*groups: tuple[str, ...]) -> float:
        options = {"lora_rank": 4, "lora_targets": "qkv"}
        return flops.ratio(ExpansionPlan(tuple(SPECS), LAYERS, {"lora": {LAYERS - 1: groups}}, options))

    assert ratio(tuple(SPECS)) == 1 < ratio(tuple(SPECS)[:3])


def counted(model: torch.nn.Module) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, *SIZE))
    return counter.get_total_flops()
