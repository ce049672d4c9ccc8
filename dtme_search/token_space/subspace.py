"""Range space and null space of the tokens that enter a layer (arXiv 2507.07485v2, Sec. 4.1).

Shapes: P embedding dim, R and N dims of range and null space (R + N = P).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class TokenSpace:
    """Two orthogonal subspaces that together form the token space of one layer.

    Attributes:
        range_basis: Directions of much variance, orthonormal columns, float64, shape (P, R). R may be 0.
        null_basis: All other directions, orthonormal columns, float64, shape (P, N). N may be 0.
    """

    range_basis: Tensor
    null_basis: Tensor

    @property
    def embed_dim(self) -> int:
        """P."""
        return self.range_basis.shape[0]

    @property
    def range_dim(self) -> int:
        """R."""
        return self.range_basis.shape[1]


class CovarianceAccumulator:
    """Uncentered covariance of tokens, ``C = (1/n) sum t t^T``, streamed over batches in float64.

    The paper uses the covariance of the tokens that enter a layer and does not subtract their mean. All
    tokens count, including class and register tokens (ours).

    Example:
        >>> accumulator = CovarianceAccumulator()
        >>> accumulator.update(torch.tensor([[1.0, 0.0], [0.0, 2.0]]))
        >>> accumulator.covariance().tolist()
        [[0.5, 0.0], [0.0, 2.0]]
    """

    def __init__(self) -> None:
        self._sum_PP: Tensor | None = None
        self._num_tokens = 0

    def update(self, tokens: Tensor) -> None:
        """Add tokens of shape (..., P), any floating dtype, any device (the same in every call)."""
        flat = tokens.detach().reshape(-1, tokens.shape[-1]).to(torch.float64)
        product_PP = flat.T @ flat
        self._sum_PP = product_PP if self._sum_PP is None else self._sum_PP + product_PP
        self._num_tokens += len(flat)

    def covariance(self) -> Tensor:
        """Covariance of all tokens so far, float64, shape (P, P).

        Raises:
            ValueError: If there were no tokens.
        """
        if self._sum_PP is None or not self._num_tokens:
            raise ValueError("covariance: tokens must be at least one, got none. Call update first.")
        return self._sum_PP / self._num_tokens


def split_token_space(covariance: Tensor, variance_ratio: float) -> TokenSpace:
    """Split the token space of one layer into its range space and its null space.

    With eigenvalues in descending order, the range space is spanned by the first m eigenvectors, where m is
    the smallest number with ``sum(lambda[:m]) >= variance_ratio * sum(lambda[m:])`` (arXiv 2507.07485v2, Sec.
    4.1). Eq. 3 as printed is the inverse ratio, which does not fit the paper's values 1 to 1000; range over
    null is our reading. Eigenvalues below rounding (P times machine precision times the largest) count as 0,
    so that tokens of rank q give m <= q. If all tokens are zero, the range space is empty; with full rank and
    a huge ratio, the null space is.

    Args:
        covariance: Uncentered covariance of the tokens, symmetric, shape (P, P).
        variance_ratio: Variance of the range space over that of the null space, above 0; 100 in the paper.

    Returns:
        The two bases in float64, on the device of ``covariance``.

    Raises:
        ValueError: If the matrix is not square or not finite, or the ratio is not a number above 0.

    Example:
        >>> space = split_token_space(torch.diag(torch.tensor([9.0, 3.0, 0.1])), variance_ratio=100.0)
        >>> space.range_basis.shape, space.null_basis.shape
        (torch.Size([3, 2]), torch.Size([3, 1]))
    """
    if covariance.ndim != 2 or covariance.shape[0] != covariance.shape[1]:
        raise ValueError(f"covariance must be a square matrix, got shape {tuple(covariance.shape)}.")
    return split_token_spaces([covariance], variance_ratio)[0]


def split_token_spaces(covariances: Sequence[Tensor], variance_ratio: float) -> list[TokenSpace]:
    """:func:`split_token_space` for every layer, waiting for the device three times in total."""
    if not (math.isfinite(variance_ratio) and variance_ratio > 0):
        raise ValueError(f"variance_ratio must be a number above 0, got {variance_ratio}.")
    stacked_DPP = torch.stack(list(covariances))
    if not stacked_DPP.isfinite().all():
        raise ValueError("covariance must be finite, got NaN or infinity.")
    ascending_DP, vectors_DPP = torch.linalg.eigh(stacked_DPP.to(torch.float64))
    precision = torch.finfo(stacked_DPP.dtype if stacked_DPP.is_floating_point() else torch.float64).eps
    # Sums are computed on the CPU: cumsum on CUDA fails under deterministic algorithms (torch 2.x).
    spaces = []
    for ascending, vectors in zip(ascending_DP.cpu(), vectors_DPP, strict=True):
        range_dim = _range_dim(ascending.flip(0).clamp(min=0.0), precision, variance_ratio)
        descending = vectors.flip(1)
        spaces.append(TokenSpace(descending[:, :range_dim], descending[:, range_dim:]))
    return spaces


def _range_dim(eigenvalues: Tensor, precision: float, variance_ratio: float) -> int:
    rounding = len(eigenvalues) * precision * eigenvalues.max()
    eigenvalues = torch.where(eigenvalues > rounding, eigenvalues, 0.0)
    # Sums of the first m and of the rest for m = 0..P. The rest is summed from its small end, because as a
    # difference from the total it would lose precision where it matters.
    zero = eigenvalues.new_zeros(1)
    head = torch.cat([zero, eigenvalues.cumsum(0)])
    rest = torch.cat([eigenvalues.flip(0).cumsum(0).flip(0), zero])
    return int((head < variance_ratio * rest).sum())
