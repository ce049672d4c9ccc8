"""TaskPrompter gives the numbers it gave when it equalled the authors' arrays: a small pin of our own making.

``python tests/models/taskprompter/test_regression.py`` writes the pin anew.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from dtme_search.config import ModelConfig
from dtme_search.models import build_model
from dtme_search.tasks import depth, normals, semseg
from dtme_search.token_space import ExpansionPlan

PIN = Path(__file__).with_name("regression.json")
SPECS = {spec.name: spec for spec in (semseg(("wall", "floor", "box")), depth(), normals())}
VARIANTS = {
    "one window": {"channel_heads": 1, "reweighting": False},
    "four windows, reweighted": {"channel_heads": 4, "reweighting": True},
}


def waves(shape, phase):
    """Numbers that no generator has to remember."""
    numel = torch.Size(shape).numel()
    return torch.sin(1.7 * torch.arange(numel, dtype=torch.float64) + phase).reshape(shape)


def numbers_of(options, mode):
    """Sums over the outputs of a grown model, and over gradients at prompts, TM, TE and the image."""
    config = ModelConfig(
        architecture="taskprompter",
        architecture_options={"taskprompter": {"branch_channels": 6, **options}},
        backbone_options={"embed_dim": 16, "depth": 4, "num_heads": 2, "patch_size": 8},
        decoder_channels=8,
    )
    model = build_model(config, SPECS, (32, 64), seed=0).double().train(mode == "train")
    tasks = tuple(SPECS)
    plan = ExpansionPlan(
        tasks,
        4,
        {"modulate": {1: (("semseg",), ("depth", "normals"))}, "expand": {2: (("depth",),)}},
        {"num_task_tokens": 2},
    )
    model.grow(plan, token_std=0.02, seed=0)
    for phase, (name, value) in enumerate(sorted(model.state_dict().items())):
        if value.is_floating_point():
            start = 1.0 if name.endswith(("running_var", "norm1.weight", "norm2.weight")) else 0.0
            value.copy_(start + 0.3 * waves(value.shape, phase))
    images = waves((2, 3, 32, 64), 0.0).requires_grad_()
    outputs = model(images)
    loss = torch.stack([(output * waves(output.shape, 1.0)).sum() for output in outputs.values()]).sum()
    read = {
        "image": images,
        "prompts": model.backbone.prompts,
        "modulation": model.modulations["1"].weight,
        "task tokens": model.expansions["2"].tokens,
    }
    gradients = dict(zip(read, torch.autograd.grad(loss, list(read.values())), strict=True))
    tensors = outputs | gradients
    return {name: [tensor.sum().item(), tensor.abs().sum().item()] for name, tensor in tensors.items()}


def everything():
    return {
        f"{variant}, {mode}": numbers_of(options, mode)
        for variant, options in VARIANTS.items()
        for mode in ("eval", "train")
    }


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_numbers_are_as_pinned(variant, mode):
    pinned = json.loads(PIN.read_text())[f"{variant}, {mode}"]
    found = numbers_of(VARIANTS[variant], mode)
    assert set(found) == set(pinned)
    for name, (total, size) in pinned.items():
        assert found[name] == pytest.approx([total, size], rel=1e-7, abs=1e-9 * size), name


if __name__ == "__main__":
    PIN.write_text(json.dumps(everything(), indent=1) + "\n")
