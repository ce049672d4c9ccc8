"""What the rules of backbones, decoders and operations share."""

from __future__ import annotations

import torch
from torch import nn

from dtme_search.guards import Guard


def same_weights(first: nn.Module, second: nn.Module) -> bool:
    """Whether two modules of the same shape hold the same parameters and buffers."""
    return all(map(torch.equal, first.state_dict().values(), second.state_dict().values()))


def hold_all_reached(module: nn.Module, method: str, guard: Guard) -> None:
    """Insist that every parameter has a finite gradient, after a backward pass."""
    for path, parameter in module.named_parameters():
        reached = parameter.grad is not None and bool(parameter.grad.isfinite().all())
        guard.hold(reached, method, f"use every parameter: {path} gets no finite gradient")
