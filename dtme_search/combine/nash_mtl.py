"""Nash-MTL: the update as a bargaining solution between tasks."""

from __future__ import annotations

import torch
from torch import Tensor

_NEWTON_STEPS = 100
_ACCURACY = 1e-10
_RIDGE = 1e-10
"""Keeps the factors finite if gradients cancel; relative to unit gradients."""


def nash_mtl(gram_AA: Tensor, _: torch.Generator, *, max_norm: float) -> Tensor:
    """Bargaining solution (arXiv 2202.01017, Claim 3.1): factors a > 0 with G a = 1 / a.

    It is the minimum of a G a / 2 - sum log a, found by a damped Newton method without state [ours; the
    authors iterate a linearised problem, whose start is wrong if gradients differ much in size]. The equation
    is solved for gradients of norm 1 and scaled back, which is exact. |a J| is the square root of A for any
    gradients, so the update is shortened to ``max_norm``, as in the authors' code. Certificate: G a = 1 / a
    before that.

    Example:
        >>> nash_mtl(torch.tensor([[1.0, 0.0], [0.0, 4.0]]).double(), torch.Generator(), max_norm=2.0)
        tensor([1.0000, 0.5000], dtype=torch.float64)
    """
    norms_A = gram_AA.diagonal().sqrt()
    unit_AA = gram_AA / norms_A / norms_A[:, None] + _RIDGE * torch.eye(len(gram_AA), dtype=torch.float64)
    factors_A = _bargain(unit_AA) / norms_A
    length = float((factors_A @ gram_AA @ factors_A).clamp(min=0.0).sqrt())
    return factors_A * min(1.0, max_norm / length) if length > 0 else factors_A


def _bargain(unit_AA: Tensor) -> Tensor:
    factors_A = torch.full((len(unit_AA),), len(unit_AA) ** -0.5, dtype=torch.float64)
    for _ in range(_NEWTON_STEPS):
        gradient_A = unit_AA @ factors_A - 1.0 / factors_A
        step_A = torch.linalg.solve(unit_AA + torch.diag(factors_A**-2), gradient_A)
        decrement = float((gradient_A @ step_A).clamp(min=0.0).sqrt())
        # The objective is self-concordant: this step never leaves a > 0 and always descends.
        factors_A = factors_A - step_A / (1.0 + decrement if decrement > 0.25 else 1.0)
        if decrement < _ACCURACY:
            break
    return factors_A
