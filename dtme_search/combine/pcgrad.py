"""PCGrad: each task gradient without the parts that oppose the others."""

from __future__ import annotations

import torch
from torch import Tensor


def pcgrad(gram_AA: Tensor, generator: torch.Generator) -> Tensor:
    """Gradient surgery (arXiv 2001.06782, Alg. 1), by inner products alone.

    Every g_i is projected, for each other j in random order, onto the plane orthogonal to g_j if g_i g_j < 0;
    g_j itself is the original gradient. The update is the sum. The authors' code ignores the random order;
    here it is a function of the step.

    Example:
        >>> pcgrad(torch.tensor([[1.0, -1.0], [-1.0, 4.0]]).double(), torch.Generator())
        tensor([2.0000, 1.2500], dtype=torch.float64)
    """
    count = len(gram_AA)
    gram = gram_AA.tolist()
    projected = torch.eye(count, dtype=torch.float64).tolist()
    for task, row in enumerate(projected):
        for other in torch.randperm(count, generator=generator).tolist():
            inner = sum(share * gram[index][other] for index, share in enumerate(row))
            if other != task and inner < 0:
                row[other] -= inner / gram[other][other]
    return torch.tensor(projected, dtype=torch.float64).sum(0)
