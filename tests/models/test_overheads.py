"""Parameter overheads as published (arXiv 2507.07485v2), to the printed digits."""

from __future__ import annotations

import pytest

from dtme_search.config import ModelConfig
from dtme_search.models import describe_backbone
from dtme_search.token_space import ExpansionPlan


def overhead(
    backbone: str, image_size: tuple[int, int], num_tasks: int, num_layers: int
) -> tuple[float, int]:
    """TM and TE, one task token, every task on its own, on the last ``num_layers`` layers."""
    info = describe_backbone(ModelConfig(backbone=backbone), image_size)
    tasks = tuple(f"task{index}" for index in range(num_tasks))
    groups = tuple((task,) for task in tasks)
    layers = range(info.num_layers - num_layers, info.num_layers)
    plan = ExpansionPlan(
        tasks,
        info.num_layers,
        {"modulate": dict.fromkeys(layers, groups), "expand": dict.fromkeys(layers, groups)},
    )
    return plan.overhead_percent(info.embed_dim, info.num_parameters), plan.num_parameters(info.embed_dim)


@pytest.mark.parametrize("weights", ["224", "384"])
def test_nyud_with_vit_tiny(weights):
    name = f"vit_tiny_patch16_{weights}"
    assert describe_backbone(ModelConfig(backbone=name), (448, 576)).num_parameters == 5_680_320
    percent, count = overhead(name, (448, 576), num_tasks=4, num_layers=6)
    assert count == 13_824
    assert f"{percent:.3f}" == "0.243"


def test_pascal_context_with_vit_tiny():
    percent, _ = overhead("vit_tiny_patch16_384", (512, 512), num_tasks=5, num_layers=6)
    assert f"{percent:.3f}" == "0.304"


@pytest.mark.parametrize(
    ("size", "weights", "num_layers", "printed"),
    [
        ("tiny", "384", 4, "0.458"),
        ("small", "384", 4, "0.234"),
        ("base", "384", 4, "0.118"),
        ("large", "384", 8, "0.089"),
        ("tiny", "224", 4, "0.458"),
        ("large", "224", 8, "0.089"),
    ],
)
def test_taskonomy_with_eleven_tasks(size, weights, num_layers, printed):
    percent, _ = overhead(f"vit_{size}_patch16_{weights}", (256, 256), num_tasks=11, num_layers=num_layers)
    assert f"{percent:.3f}" == printed
