"""Per-task decoders by name; a new one is a file here, a line in ``DECODERS`` and in ``ModelConfig``."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from dtme_search.models.decoders.simple import SimpleDecoder

DECODERS: dict[str, Callable[..., nn.Module]] = {"simple": SimpleDecoder}
"""Each is called as ``SimpleDecoder`` is, and maps a sequence of (B, P, h, w) to (B, C, H, W)."""

__all__ = ["DECODERS", "SimpleDecoder"]
