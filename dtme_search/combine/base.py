"""The interface of methods that combine tasks. There are three kinds, by what they use.

- A :class:`LossWeighting` gives one factor per task before the backward pass.
- :class:`Weighted` turns the inner products of the task gradients into one factor per task.
- :class:`Merged` uses every entry of the task gradients.

Factors of a gradient method act on the parameters that all tasks share; those of a loss weighting also act on
decoders. Task weights and the factors of schedules are applied afterwards, so that a fading task fades under
every method [ours].

Shapes: K tasks of the run in config order, A rows (active tasks with a gradient).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

CombineState = Mapping[str, Tensor]
"""What a method has to remember, for a checkpoint."""


@dataclass(frozen=True)
class Seen:
    """What one step has shown about the tasks.

    Attributes:
        step: 0-based step.
        active_K: Tasks that train at this step, bool.
        losses_K: Their unweighted losses, float32, 0 for the others.
        norms_K: Norms of their gradients in the last shared block, for a method with ``needs_norms``.
        after_K: Losses of the same batch after the update, for a method with ``looks_again``.
    """

    step: int
    active_K: Tensor
    losses_K: Tensor
    norms_K: Tensor | None = None
    after_K: Tensor | None = None

    @property
    def counted_K(self) -> Tensor:
        """Tasks that carry information: active, with valid pixels in the batch (else their loss is 0)."""
        return self.active_K & (self.losses_K > 0)


class LossWeighting:
    """One factor per task before the backward pass. Nothing here waits for the device.

    Attributes:
        needs_losses: Whether the factors of a step depend on its losses.
        needs_norms: Whether ``learn`` needs the norms of the task gradients.
        looks_again: Whether ``learn`` needs the losses after the update.
    """

    needs_losses: bool = False
    needs_norms: bool = False
    looks_again: bool = False

    def weights(self, seen: Seen) -> Tensor:
        """Factors of a step, shape (K); those of inactive tasks are meaningless.

        Args:
            seen: Its losses are set only for a method with ``needs_losses``; otherwise they are 0.
        """
        raise NotImplementedError

    def learn(self, seen: Seen) -> None:
        """Learn from a step, after the update."""

    def state(self) -> dict[str, Tensor]:
        """What :meth:`restore` needs; empty for a method without memory."""
        return {}

    def restore(self, state: CombineState) -> None:
        """Continue from the result of ``state``."""


@dataclass(frozen=True)
class Weighted:
    """A gradient method that needs inner products only.

    Attributes:
        weights: From J J^T of the unweighted gradients (float64 on the CPU, no row of norm 0, A >= 2) and a
            generator that is a function of seed and step, to factors w, float64, shape (A): the update is
            w J.
    """

    weights: Callable[[Tensor, torch.Generator], Tensor]


@dataclass(frozen=True)
class Merged:
    """A gradient method that needs every entry.

    Attributes:
        merge: From the weighted gradients of one parameter, shape (A, ...), and a generator on their device
            to its update, shape (...).
    """

    merge: Callable[[Tensor, torch.Generator], Tensor]


Method = LossWeighting | Weighted | Merged


def mean_of(values_K: Tensor, mask_K: Tensor) -> Tensor:
    """Mean of the masked values; 0 if there are none."""
    return torch.where(mask_K, values_K, 0.0).sum() / mask_K.sum().clamp(min=1)


def softmax_of(logits_K: Tensor, mask_K: Tensor) -> Tensor:
    """Softmax over the masked entries times their number, so that uniform weights stay 1 [ours].

    Entries outside the mask are 1: a task without valid pixels has no gradient to scale.
    """
    share_K = torch.softmax(logits_K.masked_fill(~mask_K, -torch.inf), 0)
    return torch.where(mask_K, share_K * mask_K.sum(), 1.0)
