"""Adam for a vector of task weights of which only some entries take part in a step."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

_BETAS = (0.9, 0.999)
_EPSILON = 1e-8


class MaskedAdam:
    """Adam (arXiv 1412.6980) without weight decay; an entry that sits out keeps its moments and its count.

    Args:
        lr: Learning rate.
        num_entries: Length of the vector.
        device: Where it is kept.
    """

    def __init__(self, lr: float, num_entries: int, device: torch.device) -> None:
        self.lr = lr
        self._first = torch.zeros(num_entries, device=device)
        self._second = torch.zeros(num_entries, device=device)
        self._steps = torch.zeros(num_entries, device=device)

    def step(self, values: Tensor, gradient: Tensor, mask: Tensor) -> Tensor:
        """Values after one step of the masked entries."""
        gradient = torch.where(mask, gradient, 0.0)
        beta, gamma = _BETAS
        steps = self._steps + 1
        first = beta * self._first + (1 - beta) * gradient
        second = gamma * self._second + (1 - gamma) * gradient.square()
        root = (second / (1 - gamma**steps)).sqrt()
        moved = values - self.lr * first / (1 - beta**steps) / (root + _EPSILON)
        self._first = torch.where(mask, first, self._first)
        self._second = torch.where(mask, second, self._second)
        self._steps = torch.where(mask, steps, self._steps)
        return torch.where(mask, moved, values)

    def state(self) -> dict[str, Tensor]:
        """Moments and counts."""
        return {"adam_first": self._first, "adam_second": self._second, "adam_steps": self._steps}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Continue from the result of :meth:`state`."""
        device = self._first.device
        self._first, self._second, self._steps = (
            state[name].to(device) for name in ("adam_first", "adam_second", "adam_steps")
        )
