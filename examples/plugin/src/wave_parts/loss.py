"""A loss: one number per pixel, from (B, C, H, W) to (B, H, W)."""

import torch

from dtme_search.config import Section
from dtme_search.training.losses import LossKind


class Options(Section):
    """What YAML may say in tasks.<task>.loss_options.huber."""

    knee: float = 0.5


def huber(prediction, target, setting):
    """Squared below the knee, straight above."""
    knee, away = setting.options.knee, (prediction - target).abs()
    return torch.where(away < knee, away.square() / 2, knee * (away - knee / 2)).mean(1)


HUBER = LossKind(huber, ("distance", "values"), Options)
