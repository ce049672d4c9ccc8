"""Task streams through shared transformer blocks, and where operations act on them.

Shapes: S streams, B images, L tokens (prefix tokens included), P embedding dim, G groups of tasks, M task
tokens. Tokens of all streams are in one batch, stream-major: (S * B, L, P), so that a block with shared
weights runs once for all of them.

Source: DTME-MTL, arXiv 2507.07485v2, Sec. 4.3 and App. B.3. The paper has one stream per task; here tasks
share a stream as long as their operations are identical (ours: the same result for less compute).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from dtme_search.models.operations import LayerOperation, OperationKind

if TYPE_CHECKING:
    from dtme_search.token_space import ExpansionPlan

Streams = tuple[tuple[str, ...], ...]
"""A partition of tasks; the position in it is the index of the stream."""

BlockOutput = Tensor | tuple[Tensor, ...]
"""Tokens (N, L, P), and in a tuple further tensors (N, ...) that a decoder needs beside them; those must not
depend on how many task tokens there are."""


class SharedDropPath(nn.Module):
    """Stochastic depth with one draw per image, however many streams or calls there are.

    Streams with the same mask differ only by their operations (ours). So a run with shared streams equals one
    with a stream per task, and token gradients of two tasks can be compared.

    Args:
        drop_prob: Probability that the residual branch of an image is dropped.
    """

    def __init__(self, drop_prob: float) -> None:
        super().__init__()
        self.drop_prob = drop_prob
        # Per image 0 or 1 / (1 - drop_prob); drawn for each forward pass, never part of a checkpoint.
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
    """One call of a block, for streams with equally many tokens.

    Attributes:
        positions: Which streams take part; ``None`` = all.
        groups: Operations that act in the block -> group of each of these streams, G = none.
    """

    positions: Tensor | None
    groups: Mapping[str, Tensor]


@dataclass(frozen=True)
class Route:
    """How streams enter one layer and pass through it.

    Attributes:
        streams: Tasks of each stream while the block runs and after it.
        parents: Which stream of the previous layer each stream continues; ``None`` = nothing split.
        groups: Operations that act before the block -> group of each stream, G = none.
        passes: Calls of the block, one for each set of operations that add tokens.
        order: Restores the order of the streams after several passes; ``None`` after one pass.
    """

    streams: Streams
    parents: Tensor | None
    groups: Mapping[str, Tensor]
    passes: tuple[Pass, ...]
    order: Tensor | None


def plan_routes(
    plan: ExpansionPlan | None,
    tasks: tuple[str, ...],
    num_layers: int,
    kinds: Mapping[str, OperationKind],
    *,
    share_streams: bool,
    device: torch.device,
) -> tuple[Route, ...]:
    """Find the route of the streams of ``tasks`` through all layers.

    Args:
        plan: The plan by which the model has grown; ``None`` before growth.
        tasks: Only these tasks run.
        num_layers: Layers of the backbone.
        kinds: The operations of the plan by name.
        share_streams: Whether tasks share a stream until their operations differ, or each has its own from
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
        at_layer = {} if plan is None else plan.at(layer)
        routes.append(_route(before, streams, at_layer, kinds, device))
        before = streams
    return tuple(routes)


def _route(
    before: Streams,
    streams: Streams,
    at_layer: Mapping[str, Streams],
    kinds: Mapping[str, OperationKind],
    device: torch.device,
) -> Route:
    parents = _positions(streams, before)
    groups = {name: _positions(streams, of) for name, of in at_layer.items()}
    # Skip an operation that none of these streams has.
    groups = {name: of for name, of in groups.items() if min(of) < len(at_layer[name])}
    lengthening = [name for name in groups if kinds[name].kind.lengthens]
    calls: dict[tuple[bool, ...], list[int]] = {}
    for stream in range(len(streams)):
        key = tuple(groups[name][stream] < len(at_layer[name]) for name in lengthening)
        calls.setdefault(key, []).append(stream)

    def indices(values: Sequence[int]) -> Tensor:
        # Routes are cached, and a later training step could not use a tensor created in inference mode.
        with torch.inference_mode(False):
            return torch.tensor(values, device=device)

    def one_pass(chosen: list[int]) -> Pass:
        acting = {
            name: indices([of[stream] for stream in chosen])
            for name, of in groups.items()
            if kinds[name].kind.in_block and min(of[stream] for stream in chosen) < len(at_layer[name])
        }
        return Pass(None if len(calls) == 1 else indices(chosen), acting)

    joined = [stream for _, chosen in sorted(calls.items()) for stream in chosen]
    return Route(
        streams=streams,
        parents=None if parents == list(range(len(before))) else indices(parents),
        groups={name: indices(of) for name, of in groups.items() if not kinds[name].kind.in_block},
        passes=tuple(one_pass(chosen) for _, chosen in sorted(calls.items())),
        order=None if len(calls) == 1 else indices([joined.index(s) for s in range(len(streams))]),
    )


def _positions(streams: Streams, groups: Streams) -> list[int]:
    """For each stream the index of the group with its tasks, or the number of groups if there is none."""
    return [
        next((index for index, group in enumerate(groups) if stream[0] in group), len(groups))
        for stream in streams
    ]


def run_layer(
    block: Callable[[Tensor], BlockOutput],
    tokens_NLP: Tensor,
    num_images: int,
    route: Route,
    operations: Mapping[str, LayerOperation],
) -> tuple[Tensor, ...]:
    """Split streams where their tasks separate, apply the operations of the layer, and run the block.

    TM comes before TE if a layer has both. The block runs once for each number of tokens.

    Args:
        block: Transformer block with weights shared by all streams.
        tokens_NLP: Streams after the previous layer, N = S * B.
        num_images: B.
        route: Route of the streams through this layer.
        operations: Operations of this layer by name.

    Returns:
        Tokens of the streams ``route.streams``, without task tokens; then further outputs of the block.
    """
    num_tokens = tokens_NLP.shape[1]
    tokens_SBLP = by_stream(tokens_NLP, num_images)
    if route.parents is not None:
        if len(tokens_SBLP) == 1:
            tokens_SBLP = tokens_SBLP.expand(len(route.streams), -1, -1, -1)
        else:
            tokens_SBLP = tokens_SBLP.index_select(0, route.parents)
    for name, groups_S in route.groups.items():
        tokens_SBLP = operations[name].enter(tokens_SBLP, groups_S)

    outputs = []
    for one in route.passes:
        chosen_SBLP = tokens_SBLP if one.positions is None else tokens_SBLP.index_select(0, one.positions)
        try:
            for name, groups_S in one.groups.items():
                chosen_SBLP = operations[name].enter(chosen_SBLP, groups_S)
            output = block(chosen_SBLP.flatten(0, 1))
        finally:
            for name in one.groups:
                operations[name].leave()
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
