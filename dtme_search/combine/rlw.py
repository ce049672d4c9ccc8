"""Random loss weighting: a baseline that every cleverer weighting should beat."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dtme_search.combine.base import LossWeighting, Seen, softmax_of


class RandomWeights(LossWeighting):
    """Softmax of standard normal numbers, redrawn at each step (arXiv 2111.10603).

    Multiplied by the number of tasks [ours]; the paper's sum to 1.

    Args:
        draw: Step -> CPU generator; makes the draws a function of the step.
    """

    def __init__(self, draw: Callable[[int], torch.Generator]) -> None:
        self.draw = draw

    def weights(self, seen: Seen) -> Tensor:
        # Drawn on the CPU, where the numbers are the same on all machines.
        logits_K = torch.randn(len(seen.active_K), generator=self.draw(seen.step))
        return softmax_of(logits_K.to(seen.active_K.device, non_blocking=True), seen.active_K)
