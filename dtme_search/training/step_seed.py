"""Stochastic depth as a function of the step."""

from __future__ import annotations

import torch

from dtme_search.config import RunConfig
from dtme_search.data import Purpose, make_generator


def seed_step(config: RunConfig, step: int) -> None:
    """Make the draws of a step, those of stochastic depth, independent of all earlier ones."""
    if config.model.drop_path > 0:
        generator = make_generator(torch.device("cpu"), config.seed, Purpose.STEP, step)
        torch.manual_seed(generator.initial_seed())
