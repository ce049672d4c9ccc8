"""FAMO: weights under which all losses fall at the same rate."""

from __future__ import annotations

import torch
from torch import Tensor

from dtme_search.combine.adam import MaskedAdam
from dtme_search.combine.base import CombineState, LossWeighting, Seen, softmax_of

_SMALLEST_LOSS = 1e-8


class Famo(LossWeighting):
    """Fast adaptive multitask optimisation (arXiv 2306.03792, Alg. 1).

    With z = softmax(xi) the factors are z_k / L_k, scaled to a sum of 1 in the paper and to the number of
    tasks here [ours]. After the update the losses of the same batch are computed again; xi moves by Adam
    along softmax'(xi)^T (log L - log L') + decay * xi, away from the tasks that improved most.

    Args:
        lr: Of xi.
        decay: gamma of the paper.
        num_tasks: K.
        device: Where losses are.
    """

    needs_losses = True
    looks_again = True

    def __init__(self, lr: float, decay: float, num_tasks: int, device: torch.device) -> None:
        self.decay = decay
        self._logits_K = torch.zeros(num_tasks, device=device)
        self._adam = MaskedAdam(lr, num_tasks, device)

    def weights(self, seen: Seen) -> Tensor:
        # z / L, scaled, is the softmax of xi - log L.
        return softmax_of(self._logits_K - _log(seen.losses_K), seen.counted_K)

    def learn(self, seen: Seen) -> None:
        assert seen.after_K is not None
        counted_K = seen.counted_K
        share_K = softmax_of(self._logits_K, counted_K) / counted_K.sum().clamp(min=1)
        share_K = torch.where(counted_K, share_K, 0.0)
        gain_K = _log(seen.losses_K) - _log(seen.after_K)
        gradient_K = share_K * (gain_K - (share_K * gain_K).sum()) + self.decay * self._logits_K
        self._logits_K = self._adam.step(self._logits_K, gradient_K, counted_K)

    def state(self) -> dict[str, Tensor]:
        return {"logits": self._logits_K, **self._adam.state()}

    def restore(self, state: CombineState) -> None:
        self._logits_K = state["logits"].to(self._logits_K.device)
        self._adam.restore(state)


def _log(losses_K: Tensor) -> Tensor:
    return losses_K.clamp(min=_SMALLEST_LOSS).log()
