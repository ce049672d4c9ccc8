"""Small convex problems over task weights, solved exactly: each subset of tasks has a closed form.

With K tasks there are 2^K - 1 subsets on which a solution may be positive; their linear systems are solved in
one batch. A solution with dependent rows has an equivalent one on fewer rows, so subsets with a singular
system can be left out.

Shapes: K tasks, S subsets, R right-hand sides.
"""

from __future__ import annotations

import torch
from torch import Tensor

MOST_TASKS = 12
"""4,095 subsets; the time doubles with each further task."""


def subsets(num_tasks: int) -> Tensor:
    """All non-empty subsets of the tasks, bool, shape (S, K).

    Raises:
        ValueError: If there are more than ``MOST_TASKS`` tasks.
    """
    if not 1 <= num_tasks <= MOST_TASKS:
        raise ValueError(f"tasks must be 1 to {MOST_TASKS}, got {num_tasks}.")
    numbers = torch.arange(1, 2**num_tasks)[:, None]
    return numbers.bitwise_and(2 ** torch.arange(num_tasks)) != 0


def solve_on(subsets_SK: Tensor, matrix_KK: Tensor, right_KR: Tensor) -> Tensor:
    """Solve the part of a linear system that lies in each subset; 0 elsewhere, shape (S, K, R).

    A singular part gives values that are useless or not finite; callers compare objectives.
    """
    inside = subsets_SK[:, :, None] & subsets_SK[:, None, :]
    outside = torch.diag_embed((~subsets_SK).to(matrix_KK.dtype))
    parts = torch.where(inside, matrix_KK, outside)
    right = torch.where(subsets_SK[:, :, None], right_KR, 0.0)
    solved: Tensor = torch.linalg.solve_ex(parts, right).result
    return solved


def on_simplex(weights_SK: Tensor) -> tuple[Tensor, Tensor]:
    """Candidates clamped to the simplex, and which of them were on it up to rounding."""
    feasible_S = weights_SK.isfinite().all(1) & (weights_SK >= -1e-9).all(1)
    weights_SK = torch.where(feasible_S[:, None], weights_SK, 1.0).clamp(min=0.0)
    return weights_SK / weights_SK.sum(1, keepdim=True), feasible_S


def best(candidates_SK: Tensor, objective_S: Tensor, feasible_S: Tensor) -> Tensor:
    """The feasible candidate with the smallest objective."""
    return candidates_SK[objective_S.masked_fill(~feasible_S, torch.inf).argmin()]
