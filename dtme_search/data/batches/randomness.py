"""Randomness without state: every draw is a function of (seed, purpose, step), never of earlier draws.

So a run that resumes at step k needs no saved generator: it asks for the numbers of step k.
"""

from __future__ import annotations

import hashlib
from enum import IntEnum

import torch


class Purpose(IntEnum):
    """What a generator is for; separates equal steps of different purposes.

    The numbers affect results: add members, never renumber them.
    """

    ORDER = 1
    AUGMENT = 2
    ANALYSIS = 3
    LOADER = 4
    STEP = 5
    COMBINE = 6


def make_generator(device: torch.device | str, *numbers: int) -> torch.Generator:
    """A generator seeded with a hash of ``numbers``.

    PyTorch's CPU generator reads 32 bits of its seed, so unrelated numbers may coincide in rare cases. That
    is harmless here, where a coincidence only repeats the augmentation of one step.

    Args:
        device: Where the generator draws. The CPU and CUDA give different numbers for the same seed, so draws
            that affect a result are made on the CPU and moved.
        numbers: For example ``(seed, Purpose.AUGMENT, step)``.

    Example:
        >>> first = torch.rand(2, generator=make_generator("cpu", 0, Purpose.ORDER, 7))
        >>> again = torch.rand(2, generator=make_generator("cpu", 0, Purpose.ORDER, 7))
        >>> bool((first == again).all())
        True
    """
    digest = hashlib.sha256(",".join(str(int(number)) for number in numbers).encode()).digest()
    generator = torch.Generator(device)
    generator.manual_seed(int.from_bytes(digest[:7], "big"))
    return generator
