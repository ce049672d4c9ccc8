"""Token modulation, token expansion, and task streams through shared transformer blocks.

Shapes: S streams, B images, L tokens (prefix tokens included), P embedding dim, G groups of tasks,
M task tokens. Tokens of all streams lie in one batch, stream-major: (S * B, L, P), so that a block with
shared weights runs once for all of them.

Source: DTME-MTL, arXiv 2507.07485v2, Sec. 4.3 and App. B.3. The paper has one stream per task; here tasks
whose operations so far are identical share a stream (ours: the same result for less compute).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from dtme_search.token_space import ExpansionPlan

Streams = tuple[tuple[str, ...], ...]
"""A partition of tasks; a stream has the position of its tasks in it."""

BlockOutput = Tensor | tuple[Tensor, ...]
"""Tokens (N, L, P), and in a tuple further tensors (N, ...) that a decoder wants beside them; those must not
depend on how many task tokens there are."""


class TokenModulation(nn.Module):
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

    def forward(self, tokens_SBLP: Tensor, groups_S: Tensor) -> Tensor:
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


class TokenExpansion(nn.Module):
    """TE: learnable tokens that a block sees beside the shared ones; one set for each group of tasks.

    They enter before the block and leave after it, so each layer expands on its own (App. B.3). M * P
    parameters per group, drawn from N(0, ``std``²).

    Args:
        num_groups: G.
        num_tokens: M.
        embed_dim: P.
        std: Standard deviation of the initial tokens.
    """

    def __init__(self, num_groups: int, num_tokens: int, embed_dim: int, std: float) -> None:
        super().__init__()
        self.tokens = nn.Parameter(torch.empty(num_groups, num_tokens, embed_dim))
        nn.init.normal_(self.tokens, std=std)

    def forward(self, tokens_SBLP: Tensor, groups_S: Tensor) -> Tensor:
        """Append each stream's task tokens: (S, B, L, P) -> (S, B, L + M, P)."""
        num_images = tokens_SBLP.shape[1]
        task_tokens_SBMP = self.tokens[groups_S][:, None].expand(-1, num_images, -1, -1)
        return torch.cat((tokens_SBLP, task_tokens_SBMP), dim=2)


class SharedDropPath(nn.Module):
    """Stochastic depth with one draw per image, whatever the number of streams or of calls.

    Streams that share a mask differ only by their operations (ours), so a run with shared streams equals
    one with a stream per task, and token gradients of two tasks can be compared.

    Args:
        drop_prob: Probability that the residual branch of an image is dropped.
    """

    def __init__(self, drop_prob: float) -> None:
        super().__init__()
        self.drop_prob = drop_prob
        # Per image 0 or 1 / (1 - drop_prob); drawn anew for each forward pass, never part of a checkpoint.
        self.mask_B: Tensor | None = None

    def forward(self, branch_NLP: Tensor) -> Tensor:
        """Drop the branch of each image in all of its streams, N = S * B."""
        if not self.training or self.mask_B is None:
            return branch_NLP
        num_streams = branch_NLP.shape[0] // self.mask_B.shape[0]
        return branch_NLP * self.mask_B.to(branch_NLP.dtype).repeat(num_streams)[:, None, None]

    def extra_repr(self) -> str:
        return f"drop_prob={self.drop_prob:.3f}"


def draw_drop_paths(drop_paths: Sequence[SharedDropPath], keep_prob_D: Tensor, num_images: int) -> None:
    """Draw the masks of one forward pass with a single call to the random generator."""
    if drop_paths:
        kept_DB = torch.rand(len(drop_paths), num_images, device=keep_prob_D.device) < keep_prob_D[:, None]
        for drop_path, mask_B in zip(drop_paths, kept_DB / keep_prob_D[:, None], strict=True):
            drop_path.mask_B = mask_B


@dataclass(frozen=True)
class Pass:
    """One call of a block, for the streams that have the same number of tokens.

    Attributes:
        positions: Which streams take part; ``None`` = all.
        token_groups: TE group of each of them; ``None`` = no task tokens.
    """

    positions: Tensor | None
    token_groups: Tensor | None


@dataclass(frozen=True)
class Route:
    """How streams come into one layer and pass through it.

    Attributes:
        streams: Tasks of each stream while the block runs and after it.
        parents: Which stream of the layer before each stream continues; ``None`` = nothing split.
        modulation_groups: TM group of each stream, G = none; ``None`` = no stream is modulated.
        passes: Calls of the block, at most two.
        order: Puts the streams of two passes back in order; ``None`` after one pass.
    """

    streams: Streams
    parents: Tensor | None
    modulation_groups: Tensor | None
    passes: tuple[Pass, ...]
    order: Tensor | None


def plan_routes(
    plan: ExpansionPlan | None,
    tasks: tuple[str, ...],
    num_layers: int,
    *,
    share_streams: bool,
    device: torch.device,
) -> tuple[Route, ...]:
    """Work out the way of the streams of ``tasks`` through all layers.

    Args:
        plan: What the model was grown by; ``None`` before growth.
        tasks: Only these tasks run.
        num_layers: Layers of the backbone.
        share_streams: Whether tasks share a stream until their operations differ, or have their own from
            layer 0 on.
        device: Where the indices are needed.
    """
    before: Streams = (tasks,)
    routes = []
    for layer in range(num_layers):
        if not share_streams:
            streams: Streams = tuple((task,) for task in tasks)
        else:
            streams = before if plan is None else plan.streams(layer, tasks)
        modulate: Streams = () if plan is None else plan.modulate.get(layer, ())
        expand: Streams = () if plan is None else plan.expand.get(layer, ())
        routes.append(_route(before, streams, modulate, expand, device))
        before = streams
    return tuple(routes)


def _route(
    before: Streams, streams: Streams, modulate: Streams, expand: Streams, device: torch.device
) -> Route:
    parents = _positions(streams, before)
    modulation_groups = _positions(streams, modulate)
    token_groups = _positions(streams, expand)
    plain = [stream for stream, group in enumerate(token_groups) if group == len(expand)]
    expanded = [stream for stream, group in enumerate(token_groups) if group < len(expand)]

    def indices(values: Sequence[int]) -> Tensor:
        # Routes are kept; a tensor made in inference mode could not be used by a later training step.
        with torch.inference_mode(False):
            return torch.tensor(values, device=device)

    if not expanded:
        passes: tuple[Pass, ...] = (Pass(None, None),)
    elif not plain:
        passes = (Pass(None, indices(token_groups)),)
    else:
        groups = [token_groups[stream] for stream in expanded]
        passes = (Pass(indices(plain), None), Pass(indices(expanded), indices(groups)))
    joined = plain + expanded
    return Route(
        streams=streams,
        parents=None if parents == list(range(len(before))) else indices(parents),
        modulation_groups=indices(modulation_groups) if min(modulation_groups) < len(modulate) else None,
        passes=passes,
        order=None if len(passes) == 1 else indices([joined.index(s) for s in range(len(streams))]),
    )


def _positions(streams: Streams, groups: Streams) -> list[int]:
    """For each stream the index of the group that holds its tasks; the number of groups where none does."""
    return [
        next((index for index, group in enumerate(groups) if stream[0] in group), len(groups))
        for stream in streams
    ]


def run_layer(
    block: Callable[[Tensor], BlockOutput],
    tokens_NLP: Tensor,
    num_images: int,
    route: Route,
    modulation: TokenModulation | None,
    expansion: TokenExpansion | None,
) -> tuple[Tensor, ...]:
    """Split streams where they part, modulate, expand, and run the block.

    TM comes before TE where a layer has both. The block runs once for each number of tokens, so at most
    twice.

    Args:
        block: Transformer block with weights shared by all streams.
        tokens_NLP: Streams after the layer before, N = S * B.
        num_images: B.
        route: Way of the streams through this layer.
        modulation: TM of this layer, if it has one.
        expansion: TE of this layer, if it has one.

    Returns:
        Tokens of the streams ``route.streams``, without task tokens; then what the block gave beside them.
    """
    num_tokens = tokens_NLP.shape[1]
    tokens_SBLP = by_stream(tokens_NLP, num_images)
    if route.parents is not None:
        if len(tokens_SBLP) == 1:
            tokens_SBLP = tokens_SBLP.expand(len(route.streams), -1, -1, -1)
        else:
            tokens_SBLP = tokens_SBLP.index_select(0, route.parents)
    if modulation is not None and route.modulation_groups is not None:
        tokens_SBLP = modulation(tokens_SBLP, route.modulation_groups)

    outputs = []
    for one in route.passes:
        chosen_SBLP = tokens_SBLP if one.positions is None else tokens_SBLP.index_select(0, one.positions)
        if expansion is not None and one.token_groups is not None:
            chosen_SBLP = expansion(chosen_SBLP, one.token_groups)
        output = block(chosen_SBLP.flatten(0, 1))
        tokens_NLP, *beside = (output,) if isinstance(output, Tensor) else output
        outputs.append((tokens_NLP[:, :num_tokens], *beside))
    if route.order is None:
        return outputs[0]
    order = route.order
    return tuple(
        by_stream(torch.cat(parts), num_images).index_select(0, order).flatten(0, 1)
        for parts in zip(*outputs, strict=True)
    )


def by_stream(tokens_NLP: Tensor, num_images: int) -> Tensor:
    """Give the streams a dimension of their own: (S * B, L, P) -> (S, B, L, P)."""
    return tokens_NLP.reshape(-1, num_images, *tokens_NLP.shape[1:])
