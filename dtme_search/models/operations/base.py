"""What every operation of a layer is, and where it is built in. Shapes as in ``models/streams.py``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from dtme_search.config import NoOptions, Section
from dtme_search.operations import Linears


@dataclass(frozen=True)
class Site:
    """Where an operation is built in.

    Attributes:
        layer: 0-based.
        block: The block of that layer.
        num_groups: Groups of tasks that have the operation there.
        embed_dim: Width of a token.
        first_token: Tokens before this one are not shared by the tasks.
        options: Of the plan; for an operation of the user's its own options, checked.
        token_std: Standard deviation of new task tokens.
        seed: For what is drawn.
    """

    layer: int
    block: nn.Module
    num_groups: int
    embed_dim: int
    first_token: int
    options: Any
    token_std: float
    seed: int


class LayerOperation(nn.Module):
    """An operation of one layer, for all groups of tasks that have it there.

    Attributes:
        in_block: Whether it acts within the call of the block, on those streams alone that have it or
            share the call, instead of on all streams before it.
        folds: Whether what it does for a group can be put into the weights of its block.
        lengthens: Whether it adds tokens, so that streams with and without it go through the block apart.
    """

    in_block: bool = False
    folds: bool = False
    lengthens: bool = False

    def enter(self, tokens_SBLP: Tensor, groups_S: Tensor) -> Tensor:
        """Act on the tokens before the block. Group G of a stream stands for "leave as it is"."""
        raise NotImplementedError

    def leave(self) -> None:
        """Forget the streams; called after the block where ``in_block``."""

    def fold(self, block: nn.Module, group: int) -> None:
        """Put what it does for one group into the weights of its block, where ``folds``."""
        raise NotImplementedError


def fits_everywhere(_linears: Linears, _options: Any) -> str:
    """Of an operation that any block can have."""
    return ""


@dataclass(frozen=True)
class OperationKind:
    """Entry of the registry.

    Attributes:
        kind: Class of its modules.
        build: Makes the module of a layer.
        num_parameters: Parameters of one group in one layer, of (embedding width, linear maps, options).
        options: Section that checks ``expansion.operation_options.<name>``.
        misfit: Why options cannot be used with the linear maps of a block, as a sentence; empty if they can.
        place: Part of the model that holds the modules by layer, for built-in ones; part of every checkpoint.
    """

    kind: type[LayerOperation]
    build: Callable[[Site], LayerOperation]
    num_parameters: Callable[[int, Linears, Any], int]
    options: type[Section] = NoOptions
    misfit: Callable[[Linears, Any], str] = fits_everywhere
    place: str = ""
