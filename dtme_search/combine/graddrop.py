"""GradDrop: for each entry, the gradients of one sign."""

from __future__ import annotations

import torch
from torch import Tensor


def graddrop(rows: Tensor, generator: torch.Generator, *, leak: float) -> Tensor:
    """Gradient sign dropout (arXiv 2010.06808, Alg. 1), on parameter gradients.

    With the purity P = (1 + sum g / sum |g|) / 2 of an entry and uniform U, its positive gradients are kept
    where P > U, the negative ones elsewhere; the fraction ``leak`` of the dropped ones passes. The paper
    drops gradients of the activations of a shared layer; on parameters it is a variant with the same name, as
    in TorchJD.

    Example:
        >>> graddrop(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.Generator(), leak=0.0)
        tensor([4., 6.])
    """
    total, size = rows.sum(0), rows.abs().sum(0)
    purity = (1.0 + torch.where(size > 0, total / size, 0.0)) / 2.0
    drawn = torch.rand(purity.shape, generator=generator, device=rows.device, dtype=rows.dtype)
    kept = torch.where(purity > drawn, rows > 0, rows < 0)
    return (rows * torch.where(kept, 1.0, leak)).sum(0)
