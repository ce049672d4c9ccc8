"""Dotted paths that mean more to a search than their value."""

from __future__ import annotations

LAYERS = "expansion.layers"
POLICY = "expansion.policy"
START = "expansion.start"
SEED = "seed"
SEEDS = "seeds"
"""Field of a study that makes the seed a parameter, which only the plan sampler chooses."""
ARCHITECTURE = ("model.backbone", "model.architecture", "model.decoder")
"""What names the network of a run."""
