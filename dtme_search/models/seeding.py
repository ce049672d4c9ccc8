"""Random initial weights that depend on the seed alone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def seeded(seed: int, purpose: str) -> Iterator[None]:
    """Draw from torch's CPU generator as if freshly seeded, and restore the caller's state.

    ``purpose`` keeps parts independent of each other: the decoder of a task starts the same whether its model
    has one task or four, so that a single-task baseline differs from the multi-task model only in what is
    trained.

    Example:
        >>> with seeded(0, "decoder/depth"):
        ...     first = torch.rand(2)
        >>> with seeded(0, "decoder/depth"):
        ...     torch.equal(first, torch.rand(2))
        True
    """
    digest = hashlib.sha256(f"{seed}/{purpose}".encode()).digest()
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed: it would also reseed every GPU, whose state fork_rng does not save here.
        torch.default_generator.manual_seed(int.from_bytes(digest[:8], "little"))
        yield
