"""Weights from task uncertainty, learnt or in closed form, and IMTL-L, which is the same up to a factor.

Sources: Kendall et al., "Multi-Task Learning Using Uncertainty to Weigh Losses" (arXiv 1705.07115), Eq. 7;
Elich et al. (arXiv 2311.04698), optimal weights; Liu et al., "Towards Impartial Multi-task Learning"
(ICLR 2021), loss balance.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dtme_search.combine.adam import MaskedAdam
from dtme_search.combine.base import CombineState, LossWeighting, Seen


class Learnt(LossWeighting):
    """Weights exp(s_k) with s learnt by Adam, minimising sum over k of exp(s_k) L_k - s_k.

    That is IMTL-L; its optimum is exp(s_k) = 1 / L_k. Uncertainty weighting minimises half of it, where -s is
    the logarithm of the variance. Kendall et al. have the factor 1/2 for regression only; here every task has
    it, which changes no optimum [ours].

    Args:
        factor: 1 for IMTL-L, 1/2 for uncertainty weighting.
        lr: Of s; Adam moves s by about this much per step, so the network's rate would hardly move it.
        num_tasks: K.
        device: Where losses are.
    """

    def __init__(self, factor: float, lr: float, num_tasks: int, device: torch.device) -> None:
        self.factor = factor
        self._logs_K = torch.zeros(num_tasks, device=device)
        self._adam = MaskedAdam(lr, num_tasks, device)

    def weights(self, _: Seen) -> Tensor:
        return self.factor * self._logs_K.exp()

    def learn(self, seen: Seen) -> None:
        gradient_K = self.factor * (self._logs_K.exp() * seen.losses_K - 1.0)
        self._logs_K = self._adam.step(self._logs_K, gradient_K, seen.counted_K)

    def state(self) -> dict[str, Tensor]:
        return {"logs": self._logs_K, **self._adam.state()}

    def restore(self, state: CombineState) -> None:
        self._logs_K = state["logs"].to(self._logs_K.device)
        self._adam.restore(state)


class OptimalUncertainty(LossWeighting):
    """Weights 1 / L_k, the gradient of sum log L_k: the limit of uncertainty weighting, except for its 1/2.

    Invariant to the scale of every loss; nothing to learn or to set.
    """

    needs_losses = True

    def weights(self, seen: Seen) -> Tensor:
        return torch.where(seen.losses_K > 0, 1.0 / seen.losses_K, 1.0)
