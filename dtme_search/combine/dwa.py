"""Dynamic weight average: tasks whose loss falls slowly get more weight."""

from __future__ import annotations

import torch
from torch import Tensor

from dtme_search.combine.base import CombineState, LossWeighting, Seen, softmax_of

_NAMES = ("sums", "counts", "last", "before")


class DynamicWeightAverage(LossWeighting):
    """K softmax(r / T), r_k = mean loss of the last window over that of the one before it (arXiv 1803.10704).

    A window is an epoch in the paper and a number of steps here [ours]. A task without two windows has r = 1,
    so the first two windows have weight 1, as in the paper.

    Args:
        temperature: T.
        window: Steps of a window.
        num_tasks: K.
        device: Where losses are.
    """

    def __init__(self, temperature: float, window: int, num_tasks: int, device: torch.device) -> None:
        self.temperature, self.window = temperature, window
        self._sums, self._counts = torch.zeros(2, num_tasks, device=device)
        # 0 means not known yet.
        self._last, self._before = torch.zeros(2, num_tasks, device=device)

    def weights(self, seen: Seen) -> Tensor:
        known = (self._last > 0) & (self._before > 0)
        ratios = torch.where(known, self._last / self._before, 1.0)
        return softmax_of(ratios / self.temperature, seen.active_K)

    def learn(self, seen: Seen) -> None:
        self._sums = self._sums + torch.where(seen.counted_K, seen.losses_K, 0.0)
        self._counts = self._counts + seen.counted_K
        if (seen.step + 1) % self.window == 0:
            some = self._counts > 0
            self._before = torch.where(some, self._last, self._before)
            self._last = torch.where(some, self._sums / self._counts.clamp(min=1), self._last)
            self._sums, self._counts = torch.zeros_like(self._sums), torch.zeros_like(self._counts)

    def state(self) -> dict[str, Tensor]:
        return {name: getattr(self, f"_{name}") for name in _NAMES}

    def restore(self, state: CombineState) -> None:
        for name in _NAMES:
            setattr(self, f"_{name}", state[name].to(self._sums.device))
