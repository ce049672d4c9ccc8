"""A tiny multi-task ViT, grown or not: 4 tasks, 3 layers, 2 heads, images of 16 x 24 in patches of 8."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from device import DEVICE

from dtme_search.config import ModelConfig
from dtme_search.models import MultiTaskViT, build_model
from dtme_search.tasks import depth, edge, normals, semseg
from dtme_search.token_space import ExpansionPlan

IMAGE_SIZE = (16, 24)
SPECS = {spec.name: spec for spec in (semseg(("wall", "floor", "box")), depth(), normals(), edge())}
TINY = {"embed_dim": 32, "depth": 3, "num_heads": 2, "patch_size": 8}

MakeModel = Callable[..., MultiTaskViT]


@pytest.fixture
def make_model() -> MakeModel:
    """Build a tiny model; with ``plan`` it is grown and its new parameters are moved off their start."""

    def make(
        plan: ExpansionPlan | None = None,
        seed: int = 0,
        tasks: Sequence[str] = tuple(SPECS),
        **config: object,
    ) -> MultiTaskViT:
        config.setdefault("backbone_options", TINY)
        specs = {task: SPECS[task] for task in tasks}
        model = build_model(ModelConfig(**config), specs, IMAGE_SIZE, seed=seed).double().to(DEVICE)
        if plan is not None:
            generator = torch.Generator().manual_seed(1)
            for parameter in model.grow(plan, token_std=0.02, seed=0):
                noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype).to(DEVICE)
                parameter.data.add_(noise, alpha=0.3)
        return model

    return make


@pytest.fixture
def make_plan() -> Callable[..., ExpansionPlan]:
    """``make_plan({1: ["semseg", "depth normals"]}, {...})``: groups of tasks separated by spaces."""

    def make(
        modulate: dict[int, list[str]],
        expand: dict[int, list[str]],
        num_task_tokens: int = 2,
        num_layers: int = 3,
    ) -> ExpansionPlan:
        operations = (
            {layer: tuple(tuple(group.split()) for group in groups) for layer, groups in operation.items()}
            for operation in (modulate, expand)
        )
        groups = dict(zip(("modulate", "expand"), operations, strict=True))
        return ExpansionPlan(tuple(SPECS), num_layers, groups, {"num_task_tokens": num_task_tokens})

    return make


@pytest.fixture
def images() -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(3, 3, *IMAGE_SIZE, generator=generator, dtype=torch.float64).to(DEVICE)
