"""Dotted paths that mean more to a search than their value, and how to look one up."""

from __future__ import annotations

from typing import Any

LAYERS = "expansion.layers"
POLICY = "expansion.policy"
START = "expansion.start"
SEED = "seed"


def value_at(values: Any, path: str, default: Any) -> Any:
    """Value at a dotted path of plain values."""
    for part in path.split("."):
        try:
            values = values[int(part)] if isinstance(values, list) else values[part]
        except (KeyError, IndexError, TypeError):
            return default
    return values
