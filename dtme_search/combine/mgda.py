"""MGDA: the shortest vector in the convex hull of the task gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from dtme_search.combine.supports import best, on_simplex, solve_on, subsets


def mgda(gram_AA: Tensor, _: torch.Generator) -> Tensor:
    """Multiple gradient descent (arXiv 1810.04650, Eq. 4): min |a J|^2 with a on the simplex, times A [ours].

    Exact: a = t G^-1 1 on its support. The system is bordered by sum a = 1, because gradients that cancel
    make G singular there. Certificate: (G a)_k >= a G a for every task.

    Example:
        >>> mgda(torch.tensor([[1.0, 0.0], [0.0, 4.0]]).double(), torch.Generator())
        tensor([1.6000, 0.4000], dtype=torch.float64)
    """
    return len(gram_AA) * smallest_weights(gram_AA)


def smallest_weights(gram_AA: Tensor) -> Tensor:
    """Point of the simplex with the smallest a G a."""
    count = len(gram_AA)
    bordered = torch.ones(count + 1, count + 1, dtype=torch.float64)
    # Normalised, so that the scale of G does not affect the conditioning of the bordered system.
    bordered[:count, :count] = gram_AA / gram_AA.diagonal().mean()
    bordered[count, count] = 0.0
    right = torch.zeros(count + 1, 1, dtype=torch.float64)
    right[count] = 1.0
    chosen_SA = subsets(count)
    with_border = torch.cat((chosen_SA, torch.ones(len(chosen_SA), 1, dtype=torch.bool)), 1)
    weights_SA, feasible_S = on_simplex(solve_on(with_border, bordered, right)[:, :count, 0])
    return best(weights_SA, ((weights_SA @ gram_AA) * weights_SA).sum(1), feasible_S)
