"""An operation of a layer, for groups of tasks."""

import torch
from torch import nn

from dtme_search.config import Section
from dtme_search.models.operations import LayerOperation, OperationKind


class Options(Section):
    """What YAML may say in expansion.operation_options.shift."""

    scale: float = 0.02


class Shift(LayerOperation):
    """A vector for each group that is added to all tokens of its stream before the block."""

    def __init__(self, site):
        super().__init__()
        vectors = site.options.scale * torch.randn(site.num_groups, site.embed_dim)
        self.vectors = nn.Parameter(vectors)

    def enter(self, tokens, groups):
        # Group G stands for "leave as it is".
        vectors = torch.cat((self.vectors, torch.zeros_like(self.vectors[:1])))
        return tokens + vectors[groups][:, None, None]


def num_parameters(embed_dim, linears, options):
    """Of one group in one layer."""
    return embed_dim


SHIFT = OperationKind(Shift, Shift, num_parameters, Options)
