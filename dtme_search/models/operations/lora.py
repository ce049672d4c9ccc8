"""LoRA: linear maps of a block with a low-rank term of their own for each group of tasks.

Source: E. Hu et al., "LoRA", arXiv 2106.09685, Sec. 4.1: ``W x + (alpha / r) B A x`` with B zero at first.
That W goes on training, that groups of tasks have terms of their own, and that all streams go through one
batched product are ours. Shapes as in ``models/streams.py``; r rank, I inputs and O outputs of a map.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn

from dtme_search.models.operations.base import LayerOperation, Site
from dtme_search.models.seeding import seeded
from dtme_search.operations import lora_targets


class LowRankTerm(nn.Module):
    """The term of one map; B is zero at first, so that the map does not change.

    Args:
        num_groups: G.
        inputs: I.
        outputs: O.
        rank: r.
        scale: alpha / r.
    """

    def __init__(self, num_groups: int, inputs: int, outputs: int, rank: int, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.down = nn.Parameter(torch.empty(num_groups, inputs, rank))  # A of each group, transposed
        self.up = nn.Parameter(torch.zeros(num_groups, rank, outputs))  # B of each group, transposed
        # As nn.Linear draws its weight, by the number of inputs.
        nn.init.uniform_(self.down, -1 / math.sqrt(inputs), 1 / math.sqrt(inputs))
        # A and B of each stream in the call that is running, (S, I, r) and (S, r, O); in no checkpoint.
        self.of_streams: tuple[Tensor, Tensor] | None = None

    def enter(self, groups_S: Tensor) -> None:
        """Look up the term of each stream; group G has none."""
        # A group of zeros stands for "none". Here and not in the block, whose compiled variants would each
        # be for one number of groups.
        down_GIr = torch.cat((self.down, torch.zeros_like(self.down[:1])))
        up_GrO = torch.cat((self.up, torch.zeros_like(self.up[:1])))
        self.of_streams = down_GIr[groups_S], up_GrO[groups_S]

    def leave(self) -> None:
        """The map is plain again."""
        self.of_streams = None

    def add_to(self, mapped_NLO: Tensor, tokens_NLI: Tensor, outputs: slice = slice(None)) -> Tensor:
        """Add each stream's term to ``outputs`` of the map; tokens (N, ..., I)."""
        if self.of_streams is None:
            return mapped_NLO
        down_SIr, up_SrO = self.of_streams
        of_stream_SNI = tokens_NLI.reshape(down_SIr.shape[0], -1, tokens_NLI.shape[-1])
        mapped_SNO = mapped_NLO.reshape(*of_stream_SNI.shape[:2], -1)
        low_SNr = torch.bmm(of_stream_SNI, down_SIr)
        added = torch.baddbmm(mapped_SNO, low_SNr, up_SrO[:, :, outputs], alpha=self.scale)
        return added.view_as(mapped_NLO)

    def weight_of(self, group: int) -> Tensor:
        """What the term adds to the weight of the map for one group, shape (O, I)."""
        return self.scale * (self.down[group] @ self.up[group]).T


class AdaptedLinear(nn.Linear):
    """A linear map that adds a term. It has the parameters of the map that it replaces, under their names.

    Args:
        linear: The map.
        term: Belongs to the operation of the layer, and so is no parameter of the block.
    """

    def __init__(self, linear: nn.Linear, term: LowRankTerm) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias
        self.term = (term,)  # in a tuple, so that it is not registered twice

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens (N, ..., I) to (N, ..., O)."""
        return self.term[0].add_to(super().forward(tokens), tokens)


def map_partly(linear: nn.Linear, tokens: Tensor, outputs: slice) -> Tensor:
    """Some outputs of a linear map, its term included where it has one."""
    bias = None if linear.bias is None else linear.bias[outputs]
    mapped = nn.functional.linear(tokens, linear.weight[outputs], bias)
    return linear.term[0].add_to(mapped, tokens, outputs) if isinstance(linear, AdaptedLinear) else mapped


class Lora(LayerOperation):
    """LoRA of one layer: r * (I + O) parameters per group and map.

    Args:
        maps: The maps to adapt, by name.
        num_groups: G.
        rank: r.
        alpha: The term counts alpha / r.
    """

    in_block = True
    folds = True

    def __init__(self, maps: dict[str, nn.Linear], num_groups: int, rank: int, alpha: float) -> None:
        super().__init__()
        self.terms = nn.ModuleDict(
            {
                name: LowRankTerm(num_groups, each.in_features, each.out_features, rank, alpha / rank)
                for name, each in maps.items()
            }
        )

    def enter(self, tokens_SBLP: Tensor, groups_S: Tensor) -> Tensor:
        """Give the maps the terms of the streams that come; the tokens stay as they are."""
        for term in self.by_map().values():
            term.enter(groups_S)
        return tokens_SBLP

    def leave(self) -> None:
        """The maps are plain again."""
        for term in self.by_map().values():
            term.leave()

    def by_map(self) -> dict[str, LowRankTerm]:
        """Map -> its term."""
        return {name: cast("LowRankTerm", term) for name, term in self.terms.items()}

    @torch.no_grad()
    def fold(self, block: nn.Module, group: int) -> None:
        """Put the terms of one group into the weights of the maps, which become plain ones."""
        linears = find_linears(block)
        for name, term in self.by_map().items():
            adapted = linears[name]
            plain = nn.Linear(adapted.in_features, adapted.out_features, bias=False, device="meta")
            plain.weight, plain.bias = adapted.weight, adapted.bias
            plain.weight += term.weight_of(group)
            _replace(block, adapted, plain)


def build_lora(site: Site) -> Lora:
    """For a layer of a model; what is drawn does not depend on the other layers."""
    found = find_linears(site.block)
    maps = {name: found[name] for name in lora_targets(site.options)}
    rank, alpha = int(site.options["lora_rank"]), float(site.options["lora_alpha"])
    with seeded(site.seed, f"lora/{site.layer}"):
        lora = Lora(maps, site.num_groups, rank, alpha)
    for name, term in lora.by_map().items():
        _replace(site.block, found[name], AdaptedLinear(found[name], term))
    return lora


def find_linears(block: nn.Module) -> dict[str, nn.Linear]:
    """Linear maps of a transformer block that can be adapted: qkv, proj, fc1, fc2, as far as it has them."""
    found: dict[str, nn.Linear] = {}
    for path, module in block.named_modules():
        place = path.removeprefix("block.")  # of a block that wraps one
        if place in _PLACES and isinstance(module, nn.Linear):
            attention = block.get_submodule(path.rpartition(".")[0])
            # EVA's attention with biases of its own reads the weight past the module.
            if place != "attn.qkv" or getattr(attention, "q_bias", None) is None:
                found[_PLACES[place]] = module
    return found


def sizes_of_linears(block: nn.Module) -> dict[str, tuple[int, int]]:
    """Name of a map -> (inputs, outputs)."""
    return {name: (each.in_features, each.out_features) for name, each in find_linears(block).items()}


_PLACES = {"attn.qkv": "qkv", "attn.proj": "proj", "mlp.fc1": "fc1", "mlp.fc2": "fc2"}


def _replace(block: nn.Module, old: nn.Module, new: nn.Module) -> None:
    path = next(path for path, module in block.named_modules() if module is old)
    parent, _, name = path.rpartition(".")
    setattr(block.get_submodule(parent), name, new.train(old.training))
