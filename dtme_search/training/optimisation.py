"""The papers' optimiser: Adam (or AdamW) under a polynomial learning rate, new parameters joining later."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from dtme_search.config import TrainConfig


def build_optimizer(train: TrainConfig, model: nn.Module, device: torch.device) -> torch.optim.Optimizer:
    """Adam couples weight decay with the gradient as the papers do; AdamW does not. Fused on CUDA."""
    factory = torch.optim.AdamW if train.optimizer == "adamw" else torch.optim.Adam
    group = {"params": list(model.parameters()), "base_lr": train.lr}
    return factory([group], lr=train.lr, weight_decay=train.weight_decay, fused=device.type == "cuda")


def join_optimizer(
    optimizer: torch.optim.Optimizer, train: TrainConfig, added: Sequence[nn.Parameter], lr_multiplier: float
) -> None:
    """Add new parameters as a group of their own; the state of the old ones stays as it is."""
    optimizer.add_param_group({"params": list(added), "base_lr": train.lr * lr_multiplier})


def learning_rate_factor(step: int, total_steps: int, train: TrainConfig) -> float:
    """Factor of the base learning rate at a 0-based step: linear warm-up times (1 - step / total) ** power.

    Example:
        >>> round(learning_rate_factor(50, 100, TrainConfig()), 4)
        0.5359
    """
    warmup = min(1.0, (step + 1) / train.warmup_steps) if train.warmup_steps else 1.0
    return float(warmup * (1.0 - step / total_steps) ** train.poly_power)
