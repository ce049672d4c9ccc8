"""Whether a file computes the same as PyTorch, and how fast both are."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from dtme_search.deploy.files import Opened
from dtme_search.deploy.program import Program

WARM_UP = 3
REPEATS = 15
"""Number of timed calls; on a busy machine their median is more reliable than their mean."""


@dataclass(frozen=True)
class Comparison:
    """How much the outputs of a file differ from PyTorch's.

    Attributes:
        differences: Task -> largest difference over the largest value (at least 1); for classes the share of
            pixels with another class, of which there are a few on the border between two classes.
    """

    differences: Mapping[str, float]

    @property
    def worst(self) -> float:
        """The largest of them."""
        return max(self.differences.values())


def compare(program: Program, opened: Opened, images: Tensor) -> Comparison:
    """Run both on uint8 images (B, 3, H, W), as one batch and one by one."""
    found: dict[str, float] = {}
    for batch in (images, images[:1]):
        with torch.inference_mode():
            wanted = program(batch)
        for (task, output), truth in zip(opened(batch).items(), wanted, strict=True):
            found[task] = max(found.get(task, 0.0), _difference(output, truth))
    return Comparison(found)


def _difference(output: Tensor, truth: Tensor) -> float:
    if output.shape != truth.shape:
        return float("inf")
    if not truth.is_floating_point():
        return float((output != truth).double().mean())
    scale = max(1.0, float(truth.abs().max()))
    return float((output - truth).abs().max()) / scale


@dataclass(frozen=True)
class Speed:
    """Seconds per call: median and quartiles."""

    median: float
    low: float
    high: float


def seconds_of(call: Callable[[Tensor], object], images: Tensor) -> Speed:
    """Wall-clock time of calls with these images, after a few calls to warm up."""
    seconds = []
    with torch.inference_mode():
        for number in range(WARM_UP + REPEATS):
            started = time.perf_counter()
            call(images)
            if number >= WARM_UP:
                seconds.append(time.perf_counter() - started)
    low, median, high = statistics.quantiles(seconds, n=4)
    return Speed(median, low, high)
