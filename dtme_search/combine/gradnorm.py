"""GradNorm: weights that balance the norms of task gradients by how fast the tasks learn."""

from __future__ import annotations

import torch
from torch import Tensor

from dtme_search.combine.adam import MaskedAdam
from dtme_search.combine.base import CombineState, LossWeighting, Seen, mean_of

_SMALLEST_WEIGHT = 1e-3
"""Lower bound of a weight, because Adam could make it negative [ours]."""


class GradNorm(LossWeighting):
    """Chen et al., "GradNorm" (arXiv 1711.02257, Alg. 1).

    With G_k = w_k |grad of L_k at W| and the relative training rate r_k = (L_k / L_k(0)) / mean, the weights
    take a step of Adam down sum |G_k - mean(G) r_k^alpha| (the target held constant) and are scaled to a sum
    of K. W is the last shared block [ours; the paper: the last shared layer], L_k(0) the loss of the first
    batch that has task k.

    Args:
        lr: Of the weights.
        alpha: As in the paper.
        num_tasks: K.
        device: Where losses are.
    """

    needs_norms = True

    def __init__(self, lr: float, alpha: float, num_tasks: int, device: torch.device) -> None:
        self.alpha = alpha
        self._weights_K = torch.ones(num_tasks, device=device)
        # 0 means not seen yet.
        self._first_K = torch.zeros(num_tasks, device=device)
        self._adam = MaskedAdam(lr, num_tasks, device)

    def weights(self, seen: Seen) -> Tensor:
        mean = mean_of(self._weights_K, seen.active_K)
        return torch.where(seen.active_K, self._weights_K / mean, self._weights_K)

    def learn(self, seen: Seen) -> None:
        assert seen.norms_K is not None
        counted_K = seen.counted_K & (seen.norms_K > 0)
        self._first_K = torch.where(counted_K & (self._first_K == 0), seen.losses_K, self._first_K)
        rate_K = torch.where(counted_K, seen.losses_K / self._first_K, 0.0)
        rate_K = rate_K / mean_of(rate_K, counted_K)
        weights_K = self.weights(seen)
        scaled_K = weights_K * seen.norms_K
        target_K = mean_of(scaled_K, counted_K) * rate_K**self.alpha
        gradient_K = torch.sign(scaled_K - target_K) * seen.norms_K
        moved_K = self._adam.step(weights_K, gradient_K, counted_K).clamp(min=_SMALLEST_WEIGHT)
        self._weights_K = torch.where(seen.active_K, moved_K / mean_of(moved_K, seen.active_K), moved_K)

    def state(self) -> dict[str, Tensor]:
        return {"weights": self._weights_K, "first": self._first_K, **self._adam.state()}

    def restore(self, state: CombineState) -> None:
        device = self._weights_K.device
        self._weights_K, self._first_K = state["weights"].to(device), state["first"].to(device)
        self._adam.restore(state)
