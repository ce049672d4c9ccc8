"""Token expansion (DTME, arXiv 2507.07485v2, Sec. 4.3 and App. B.3). Shapes as in ``models/streams.py``."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dtme_search.models.operations.base import LayerOperation, Site
from dtme_search.models.seeding import seeded


class TokenExpansion(LayerOperation):
    """TE: learnable tokens that a block sees beside the shared ones; one set for each group of tasks.

    They enter before the block and leave after it, so each layer expands on its own (App. B.3). M * P
    parameters per group, drawn from N(0, ``std``²).

    Args:
        num_groups: G.
        num_tokens: M.
        embed_dim: P.
        std: Standard deviation of the initial tokens.
    """

    in_block = True
    lengthens = True

    def __init__(self, num_groups: int, num_tokens: int, embed_dim: int, std: float) -> None:
        super().__init__()
        self.tokens = nn.Parameter(torch.empty(num_groups, num_tokens, embed_dim))
        nn.init.normal_(self.tokens, std=std)

    def enter(self, tokens_SBLP: Tensor, groups_S: Tensor) -> Tensor:
        """Append each stream's task tokens: (S, B, L, P) -> (S, B, L + M, P)."""
        num_images = tokens_SBLP.shape[1]
        task_tokens_SBMP = self.tokens[groups_S][:, None].expand(-1, num_images, -1, -1)
        return torch.cat((tokens_SBLP, task_tokens_SBMP), dim=2)


def build_expansion(site: Site) -> TokenExpansion:
    """For a layer of a model; its tokens do not depend on the other layers."""
    num_tokens = int(site.options["num_task_tokens"])
    with seeded(site.seed, f"task tokens/{site.layer}"):
        return TokenExpansion(site.num_groups, num_tokens, site.embed_dim, site.token_std)
