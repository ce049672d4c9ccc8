"""IMTL-G: an update whose projections on all task gradients are equal."""

from __future__ import annotations

import torch
from torch import Tensor

_LARGEST = 10.0
"""Upper bound of the factors, which grow without limit as gradients come to oppose each other [ours]."""


def imtl_g(gram_AA: Tensor, _: torch.Generator) -> Tensor:
    """Impartial multi-task learning, gradient balance (Liu et al., ICLR 2021, Eq. 3), times A [ours].

    d g_k / |g_k| is the same for every task, and the factors sum to 1. For independent gradients a is
    proportional to G^-1 (|g_1| ... |g_A|); the pseudo-inverse extends this to dependent ones, where gradients
    that cancel give 0. Factors may be negative.

    Example:
        >>> imtl_g(torch.tensor([[1.0, 0.0], [0.0, 4.0]]).double(), torch.Generator())
        tensor([1.3333, 0.6667], dtype=torch.float64)
    """
    norms_A = gram_AA.diagonal().sqrt()
    cosines_AA = gram_AA / norms_A / norms_A[:, None]
    solved_A = torch.linalg.pinv(cosines_AA, rtol=1e-9, hermitian=True).sum(1) / norms_A
    total, largest = float(solved_A.sum()), float(solved_A.abs().max())
    if largest * float(norms_A.max()) < 1e-9:
        return torch.zeros_like(solved_A)
    size = max(abs(total), largest / _LARGEST)
    factors_A: Tensor = solved_A * (len(gram_AA) / (-size if total < 0 else size))
    return factors_A
