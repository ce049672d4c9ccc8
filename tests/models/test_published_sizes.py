"""Parameters and multiply-adds of the published models, on the meta device: no memory, no arithmetic.

InvPT's figures were counted on the authors' modules. What is dead there does not exist here.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from dtme_search.config import ModelConfig
from dtme_search.models import MultiTaskViT, build_model
from dtme_search.tasks import depth, edge, human_parts, normals, sal, semseg
from dtme_search.token_space import ExpansionPlan

NYUD = (448, 576), {"semseg": semseg(range(40)), "depth": depth(), "normals": normals(), "edge": edge()}
PASCAL = (
    (512, 512),
    {
        "semseg": semseg(range(21)),
        "human_parts": human_parts(range(7)),
        "sal": replace(sal(), channels=2),  # the original has a channel for each answer
        "normals": normals(),
        "edge": edge(),
    },
)


def build(decoder, data_set, backbone="vit_large_patch16_384") -> MultiTaskViT:
    image_size, specs = data_set
    with torch.device("meta"):
        return build_model(ModelConfig(backbone=backbone, decoder=decoder), specs, image_size, seed=0).eval()


@pytest.fixture(autouse=True)
def no_autocast(monkeypatch):
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # it knows no meta device


def num_parameters(module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def giga_multiply_adds(model, image_size) -> float:
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        model(torch.empty(1, 3, *image_size, device="meta"))
    return counter.get_total_flops() / 2e9


@pytest.mark.parametrize(
    ("size", "data_set", "original", "dead", "giga"),
    [
        ("large", NYUD, 402_092_888, 6_639_562, 601.9),
        ("large", PASCAL, 422_929_810, 6_972_202, 672.4),
        ("tiny", NYUD, 44_328_472, 2_326_474, 235.9),
    ],
    ids=["large-nyud", "large-pascal", "tiny-nyud"],
)
def test_invpt(size, data_set, original, dead, giga):
    model = build("invpt", data_set, f"vit_{size}_patch16_384")
    assert num_parameters(model) == original - dead
    # The dead 3x3 convolution of the third level was computed.
    height, width = model.info.grid
    dead_giga = 9 * model.info.embed_dim * 576 * height * width / 1e9
    assert giga_multiply_adds(model, data_set[0]) == pytest.approx(giga - dead_giga, rel=0.0005)


def test_overhead_of_dtme_in_invpt():
    """TM and TE with one token on 12 of 24 layers, each task on its own: the paper prints 0.048 %."""
    model = build("invpt", NYUD)
    groups = tuple((task,) for task in model.tasks)
    plan = ExpansionPlan(
        model.tasks,
        24,
        {"modulate": dict.fromkeys(range(12, 24), groups), "expand": dict.fromkeys(range(12, 24), groups)},
    )
    assert plan.num_parameters(1024) == 4 * 36 * 1024 == 147_456
    assert f"{plan.overhead_percent(1024, model.info.num_parameters):.3f}" == "0.048"
    assert f"{100 * 147_456 / num_parameters(model):.3f}" == "0.037"
