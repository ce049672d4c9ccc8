"""UPGrad: each task gradient projected to where no task loses."""

from __future__ import annotations

import torch
from torch import Tensor

from dtme_search.combine.supports import solve_on, subsets


def upgrad(gram_AA: Tensor, _: torch.Generator) -> Tensor:
    """Unconflicting projection of gradients (arXiv 2406.16232, Sec. 3.1), summed instead of averaged [ours].

    g_i becomes the nearest vector d with g_k d >= 0 for every k: d = (e_i + u) J with the u >= 0 that makes
    (e_i + u) G (e_i + u) smallest. Exact: on its support u = -G^-1 G e_i.

    Example:
        >>> upgrad(torch.tensor([[1.0, -1.0], [-1.0, 4.0]]).double(), torch.Generator())
        tensor([2.0000, 1.2500], dtype=torch.float64)
    """
    count = len(gram_AA)
    gram_AA = gram_AA / gram_AA.diagonal().mean()
    own_AA = torch.eye(count, dtype=torch.float64)
    added_SAA = -solve_on(subsets(count), gram_AA, gram_AA).transpose(1, 2)
    added_SAA = torch.cat((torch.zeros(1, count, count, dtype=torch.float64), added_SAA))
    feasible_SA = added_SAA.isfinite().all(2) & (added_SAA >= -1e-9).all(2)
    factors_SAA = own_AA + torch.where(feasible_SA[..., None], added_SAA, 0.0).clamp(min=0.0)
    objective_SA = ((factors_SAA @ gram_AA) * factors_SAA).sum(2).masked_fill(~feasible_SA, torch.inf)
    return factors_SAA[objective_SA.argmin(0), torch.arange(count)].sum(0)
