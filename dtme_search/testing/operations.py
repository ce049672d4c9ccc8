"""Rules of operations of a layer. Shapes as in ``models/streams.py``."""

from __future__ import annotations

import copy
from typing import Any, cast

import torch
from torch import Tensor, nn

from dtme_search.guards import Guard
from dtme_search.models.operations import LayerOperation, OperationKind, Site, guarded_operation
from dtme_search.models.operations.lora import sizes_of_linears
from dtme_search.models.streams import Pass, Route, by_stream, run_layer
from dtme_search.testing.networks import same_weights
from dtme_search.testing.words import words_of

_WIDTH, _TOKENS, _IMAGES = 16, 5, 2
_STREAMS = (("a",), ("b", "c"), ("d",))
_GROUPS = [0, 1, 2]
"""Of the streams; the last one stands for "leave as it is"."""


class TinyBlock(nn.Module):
    """A transformer block with the names of timm's: attn.qkv, attn.proj, mlp.fc1, mlp.fc2."""

    def __init__(self) -> None:
        super().__init__()
        self.attn = nn.ModuleDict({"qkv": nn.Linear(_WIDTH, 3 * _WIDTH), "proj": nn.Linear(_WIDTH, _WIDTH)})
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(_WIDTH, 2 * _WIDTH), "fc2": nn.Linear(2 * _WIDTH, _WIDTH)})

    def forward(self, tokens_NLP: Tensor) -> Tensor:
        """Tokens (N, L, P) to tokens (N, L, P)."""
        query, key, value = self.attn["qkv"](tokens_NLP).chunk(3, -1)
        attended = torch.softmax(query @ key.transpose(1, 2) / _WIDTH**0.5, -1) @ value
        tokens_NLP = tokens_NLP + self.attn["proj"](attended)
        return tokens_NLP + cast("Tensor", self.mlp["fc2"](torch.tanh(self.mlp["fc1"](tokens_NLP))))


def check_operation(kind: OperationKind, options: Any = None, *, name: str = "") -> None:
    """Check an operation in one block, for two groups of tasks and a task that has it not.

    Args:
        kind: The operation.
        options: Its options; by default their defaults.
        name: For messages.

    Raises:
        BrokenRule: Names the first rule that is broken.
    """
    guard = Guard(words_of("operations", name))
    guarded = guarded_operation(kind, guard.part)
    options = kind.options() if options is None else options
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        plain = TinyBlock().double()
        tokens_NLP = torch.randn(len(_STREAMS) * _IMAGES, _TOKENS, _WIDTH, dtype=torch.float64)
    guarded.misfit(sizes_of_linears(plain), options)
    block, operation = _built(guarded, plain, options)
    _, same = _built(guarded, plain, options)
    guard.hold(same_weights(operation, same), "build", "give the same module again for the same seed")
    _check_streams(plain, block, operation, tokens_NLP, guard)
    if operation.folds:
        _check_folding(block, operation, tokens_NLP, guard)


def _built(kind: OperationKind, plain: TinyBlock, options: Any) -> tuple[TinyBlock, LayerOperation]:
    """A copy of a block with the operation, whose parameters all differ from 0."""
    block = copy.deepcopy(plain)
    operation = kind.build(Site(0, block, 2, _WIDTH, 0, options, token_std=0.02, seed=3)).double()
    with torch.no_grad():
        for index, parameter in enumerate(operation.parameters()):
            draw = torch.Generator().manual_seed(index)
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=draw, dtype=torch.float64))
    return block, operation


def _check_streams(
    plain: TinyBlock, block: TinyBlock, operation: LayerOperation, tokens_NLP: Tensor, guard: Guard
) -> None:
    together = _run(block, operation, tokens_NLP, _GROUPS)
    for stream, group in enumerate(_GROUPS):
        alone = _run(block, operation, by_stream(tokens_NLP, _IMAGES)[stream], [group])
        rule = "act on each stream by itself: next to others it gives something else"
        guard.hold(_near(alone[0], together[stream]), "enter", rule)
    rule = "leave streams of group G, which stands for no group, as they are"
    untouched = plain(tokens_NLP[-_IMAGES:])
    guard.hold(_near(together[2], untouched), "enter", rule)
    acts = not _near(together[0], plain(tokens_NLP[:_IMAGES]))
    guard.hold(acts, "enter", "change the tokens of a group whose parameters are not zero")
    after = block(tokens_NLP)
    guard.hold(_near(after, plain(tokens_NLP)), "leave", "leave the block as it was")
    together.square().sum().backward()
    for path, parameter in operation.named_parameters():
        gradient = parameter.grad
        reached = gradient is not None and bool(gradient.isfinite().all()) and bool(gradient.any())
        guard.hold(reached, "enter", f"use every parameter: {path} gets no finite gradient other than zero")


def _check_folding(block: TinyBlock, operation: LayerOperation, tokens_NLP: Tensor, guard: Guard) -> None:
    for group in (0, 1):
        folded_block, folded = copy.deepcopy((block, operation))
        expected = _run(folded_block, folded, tokens_NLP, [group] * len(_STREAMS))
        folded.fold(folded_block, group)
        found = by_stream(folded_block(tokens_NLP), _IMAGES)
        rule = f"give a block that computes what group {group} did"
        guard.hold(_near(found, expected), "fold", rule)


def _run(block: TinyBlock, operation: LayerOperation, tokens_NLP: Tensor, groups: list[int]) -> Tensor:
    """Through the block, stream by stream: (S, B, L, P). Streams with and without added tokens go apart."""
    parts = [[index] for index in range(len(groups))] if operation.lengthens else [list(range(len(groups)))]
    groups_S = torch.tensor(groups)

    def one_pass(chosen: list[int]) -> Pass:
        acts = operation.in_block and any(groups[index] < 2 for index in chosen)
        return Pass(torch.tensor(chosen), {"it": groups_S[chosen]} if acts else {})

    route = Route(
        tuple((str(index),) for index in range(len(groups))),
        parents=None,
        groups={} if operation.in_block else {"it": groups_S},
        passes=tuple(map(one_pass, parts)),
        order=torch.arange(len(groups)),
    )
    tokens, *_ = run_layer(block, tokens_NLP, _IMAGES, route, {"it": operation})
    return by_stream(tokens, _IMAGES)


def _near(first: Tensor, second: Tensor) -> bool:
    return torch.allclose(first, second, rtol=1e-9, atol=1e-12)
