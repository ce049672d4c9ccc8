"""Parameters and multiply-adds of the published sizes, counted without allocating them."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from dtme_search.config import load_run_config
from dtme_search.models import build_model
from dtme_search.tasks import depth, edge, human_parts, normals, sal, semseg
from dtme_search.token_space import ExpansionPlan

NYUD = {spec.name: spec for spec in (semseg(tuple(map(str, range(40)))), depth(), normals(), edge())}
# The original's saliency has two outputs and a softmax, ours one and a sigmoid.
PASCAL = {
    spec.name: spec
    for spec in (
        semseg(tuple(map(str, range(21)))),
        human_parts(tuple(map(str, range(7)))),
        replace(sal(), channels=2),
        normals(),
        edge(),
    )
}


@dataclass(frozen=True)
class Published:
    """Figures of the original; ``dead`` parameters are left out of ours."""

    specs: dict
    total: int
    dead: int
    giga_multiply_adds: float


ROWS = {
    "nyud_taskprompter_vit_large": Published(NYUD, 513_505_709, 1_034_240, 839.7),
    "pascal_taskprompter_vit_large": Published(PASCAL, 401_104_864, 1_050_624, 496.6),
    "pascal_taskprompter_vit_base": Published(PASCAL, 418_332_214, 787_968, 1153.4),
}


@pytest.fixture(params=ROWS, scope="module")
def row(request):
    return ROWS[request.param]


@pytest.fixture(scope="module")
def config(row):
    """The shipped config; its tasks are in the order of the original."""
    config = load_run_config(next(name for name in ROWS if ROWS[name] is row))
    assert tuple(config.tasks) == tuple(row.specs)
    return config


@pytest.fixture(scope="module")
def model(row, config):
    unloaded = config.model.model_copy(update={"pretrained": False})
    with torch.device("meta"):
        return build_model(unloaded, row.specs, config.data.image_size, seed=0)


def test_parameters(row, model):
    assert sum(parameter.numel() for parameter in model.parameters()) == row.total - row.dead


def test_multiply_adds(row, config, model, monkeypatch):
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # it does not know the device
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        model.eval()(torch.empty(1, 3, *config.data.image_size, device="meta"))
    assert counter.get_total_flops() / 2e9 == pytest.approx(row.giga_multiply_adds, rel=0.02)


def test_overhead_of_the_paper(row, model):
    """TM and TE, one token, on half of the layers, over the whole model; and over the headless ViT."""
    if row is not ROWS["pascal_taskprompter_vit_large"]:
        pytest.skip("the paper gives one number")
    tasks, layers = tuple(row.specs), range(12, 24)
    alone = dict.fromkeys(layers, tuple((task,) for task in tasks))
    plan = ExpansionPlan(tasks, 24, {"modulate": alone, "expand": alone})
    grown = sum(parameter.numel() for parameter in model.grow(plan, token_std=0.02, seed=0))
    assert grown == 36 * 1024 * 5 == 184_320
    assert f"{100 * grown / row.total:.3f}" == "0.046"
    assert f"{plan.overhead_percent(model.info.embed_dim, model.info.num_parameters):.3f}" == "0.061"
