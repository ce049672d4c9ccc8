"""Dotted paths with a special meaning for a search."""

from __future__ import annotations

LAYERS = "expansion.layers"
POLICY = "expansion.policy"
START = "expansion.start"
SEED = "seed"
SEEDS = "seeds"
"""Field of a study that makes the seed a parameter; only the plan sampler chooses it."""
ARCHITECTURE = ("model.backbone", "model.architecture", "model.decoder")
"""Fields that define the architecture of the network."""
