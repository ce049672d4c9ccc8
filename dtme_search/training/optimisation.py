"""The papers' optimiser: Adam (or AdamW) with a polynomial learning rate; new parameters join later."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from dtme_search.config import TrainConfig

_BLOCK = re.compile(r"^backbone\.vit\.blocks\.(\d+)\.")
_BACKBONE = "backbone.vit."
"""Name prefixes of parameters that may be pretrained."""


def build_optimizer(train: TrainConfig, model: nn.Module, device: torch.device) -> torch.optim.Optimizer:
    """Adam couples weight decay with the gradient as the papers do; AdamW does not. Fused on CUDA."""
    factory = torch.optim.AdamW if train.optimizer == "adamw" else torch.optim.Adam
    groups = parameter_groups(train, model)
    return factory(groups, lr=train.lr, weight_decay=train.weight_decay, fused=device.type == "cuda")


def parameter_groups(train: TrainConfig, model: nn.Module) -> list[dict[str, Any]]:
    """Parameters by learning rate: ``base_lr``, and ``first_step``, before which they are not trained.

    A pretrained backbone may learn more slowly (``backbone_lr_multiplier``), its early layers more slowly
    still (``layer_decay`` d, as in BEiT, arXiv 2106.08254: block i of D learns at d ** (D - i), embeddings at
    d ** (D + 1), the final norm at 1), and not at all during the first ``decoder_warmup_steps`` [ours].
    """
    named = list(model.named_parameters())
    blocks = [int(found[1]) for name, _ in named if (found := _BLOCK.match(name))]
    num_layers = 1 + max(blocks, default=-1)
    groups: dict[tuple[float, int], list[nn.Parameter]] = {}
    for name, parameter in named:
        key = (1.0, 0)
        if name.startswith(_BACKBONE):
            decay = (train.layer_decay or 1.0) ** _layers_above(name, num_layers)
            key = (train.backbone_lr_multiplier * decay, train.decoder_warmup_steps)
        groups.setdefault(key, []).append(parameter)
    return [
        {"params": parameters, "base_lr": train.lr * factor, "first_step": first_step}
        for (factor, first_step), parameters in groups.items()
    ]


def _layers_above(name: str, num_layers: int) -> int:
    """Number of layers between a parameter of the backbone and its end."""
    block = _BLOCK.match(name)
    if block is not None:
        return num_layers - int(block[1])
    return 0 if name.startswith((f"{_BACKBONE}norm.", f"{_BACKBONE}fc_norm.")) else num_layers + 1


def join_optimizer(
    optimizer: torch.optim.Optimizer, train: TrainConfig, added: Sequence[nn.Parameter], lr_multiplier: float
) -> None:
    """Add new parameters as a separate group; the state of the old ones is kept."""
    optimizer.add_param_group({"params": list(added), "base_lr": train.lr * lr_multiplier})


def set_learning_rates(
    optimizer: torch.optim.Optimizer, step: int, total_steps: int, train: TrainConfig
) -> None:
    """Learning rate of each group at a 0-based step; 0 before the first step of the group."""
    factor = learning_rate_factor(step, total_steps, train)
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor if step >= group.get("first_step", 0) else 0.0


def learning_rate_factor(step: int, total_steps: int, train: TrainConfig) -> float:
    """Factor of the base learning rate at a 0-based step: linear warm-up times (1 - step / total) ** power.

    Example:
        >>> round(learning_rate_factor(50, 100, TrainConfig()), 4)
        0.5359
    """
    warmup = min(1.0, (step + 1) / train.warmup_steps) if train.warmup_steps else 1.0
    return float(warmup * (1.0 - step / total_steps) ** train.poly_power)
