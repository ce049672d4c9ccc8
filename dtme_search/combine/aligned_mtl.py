"""Aligned-MTL: task gradients are made orthogonal and of equal length before they are added."""

from __future__ import annotations

import torch
from torch import Tensor


def aligned_mtl(gram_AA: Tensor, _: torch.Generator) -> Tensor:
    """Independent component alignment (arXiv 2305.19000, Alg. 1), all preferences 1.

    With G = V diag(lambda) V^T and sigma the smallest of the singular values that are not 0, the factors are
    B 1, B = sigma V diag(lambda)^-1/2 V^T. Directions whose eigenvalue is within rounding are left out; in
    float64 this happens if gradient norms differ by some 10^7.

    Example:
        >>> aligned_mtl(torch.tensor([[1.0, 0.0], [0.0, 4.0]]).double(), torch.Generator())
        tensor([1.0000, 0.5000], dtype=torch.float64)
    """
    eigenvalues, vectors = torch.linalg.eigh(gram_AA)
    kept = eigenvalues > len(gram_AA) * torch.finfo(torch.float64).eps * eigenvalues.max()
    inverse = torch.where(kept, eigenvalues, 1.0).rsqrt() * kept
    smallest = eigenvalues[kept].min().sqrt()
    factors: Tensor = smallest * (vectors * inverse) @ vectors.sum(0)
    return factors
