"""CAGrad: near the mean gradient, the update that helps the worst task most."""

from __future__ import annotations

import torch
from torch import Tensor

from dtme_search.combine.mgda import smallest_weights
from dtme_search.combine.supports import best, on_simplex, solve_on, subsets

_NOTHING = 1e-12
"""Norm, relative to the largest gradient, below which a combination of gradients is treated as 0."""


def cagrad(gram_AA: Tensor, _: torch.Generator, *, radius: float) -> Tensor:
    """Conflict-averse gradient descent (arXiv 2110.14048, Eq. 4 and 5), times A [ours].

    Over |d - g_0| <= c |g_0| (g_0 the mean) maximise min_k g_k d. The dual minimises F(w) = g_w g_0 + c |g_0|
    |g_w| on the simplex; d = g_0 + c |g_0| g_w / |g_w|. On each support F has a closed form [ours]. It
    depends on g_w alone and is homogeneous, so supports with dependent gradients can be left out. g_w = 0 (no
    common direction of descent) gives 0. The authors then divide by 1 + c^2. Certificate: F(w) = min_k g_k d.

    Example:
        >>> cagrad(torch.tensor([[1.0, 0.0], [0.0, 1.0]]).double(), torch.Generator(), radius=0.5)
        tensor([1.5000, 1.5000], dtype=torch.float64)
    """
    count = len(gram_AA)
    gram_AA = gram_AA / gram_AA.diagonal().max()
    mean_A = gram_AA.mean(1)
    size = radius * float(mean_A.mean().clamp(min=0.0).sqrt())
    ones_A = torch.ones(count, dtype=torch.float64)
    chosen_SA = subsets(count)
    solved_SA2 = solve_on(chosen_SA, gram_AA, torch.stack((ones_A, mean_A), 1))
    of_ones_SA, of_mean_SA = solved_SA2[..., 0], solved_SA2[..., 1]
    a_S, b_S, c_S = of_ones_SA.sum(1), of_mean_SA.sum(1), (of_mean_SA * mean_A).sum(1)
    root_S = (b_S.square() - a_S * (c_S - size**2)).sqrt()
    level_S = (b_S + root_S) / a_S
    inner_SA = (level_S[:, None] * of_ones_SA - of_mean_SA) / root_S[:, None]
    # A single task is always a candidate, even where its formula is 0 / 0; so is the shortest vector.
    corners_SA = torch.cat((inner_SA, torch.eye(count, dtype=torch.float64), smallest_weights(gram_AA)[None]))
    weights_SA, feasible_S = on_simplex(corners_SA)
    norms_S = ((weights_SA @ gram_AA) * weights_SA).sum(1).clamp(min=0.0).sqrt()
    weights_A = best(weights_SA, weights_SA @ mean_A + size * norms_S, feasible_S)
    norm = float((weights_A @ gram_AA @ weights_A).clamp(min=0.0).sqrt())
    if norm <= _NOTHING:
        return torch.zeros(count, dtype=torch.float64)
    return ones_A + count * size / norm * weights_A
