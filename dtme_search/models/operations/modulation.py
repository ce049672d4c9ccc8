"""Token modulation (DTME, arXiv 2507.07485v2, Sec. 4.3). Shapes as in ``models/streams.py``."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dtme_search.models.operations.base import LayerOperation, Site


class TokenModulation(LayerOperation):
    """TM: an affine map of the shared tokens, one for each group of tasks; starts as the exact identity.

    Tokens t of a stream become ``W_i * t + b_i`` (element by element) from this layer on. 2P parameters per
    group. Class and register tokens are modulated too (ours).

    Args:
        num_groups: G.
        embed_dim: P.
        first_token: Tokens before this one are not shared by the tasks and stay as they are.
    """

    def __init__(self, num_groups: int, embed_dim: int, first_token: int = 0) -> None:
        super().__init__()
        self.first_token = first_token
        self.weight = nn.Parameter(torch.ones(num_groups, embed_dim))
        self.bias = nn.Parameter(torch.zeros(num_groups, embed_dim))

    def enter(self, tokens_SBLP: Tensor, groups_S: Tensor) -> Tensor:
        """Modulate each stream with its group's map; group G stands for "leave as it is"."""
        weight_GP = torch.cat((self.weight, torch.ones_like(self.weight[:1])))
        bias_GP = torch.cat((self.bias, torch.zeros_like(self.bias[:1])))
        modulated = torch.addcmul(
            bias_GP[groups_S][:, None, None],
            tokens_SBLP[:, :, self.first_token :],
            weight_GP[groups_S][:, None, None],
        )
        if not self.first_token:
            return modulated
        return torch.cat((tokens_SBLP[:, :, : self.first_token], modulated), dim=2)


def build_modulation(site: Site) -> TokenModulation:
    """For a layer of a model."""
    return TokenModulation(site.num_groups, site.embed_dim, site.first_token)
