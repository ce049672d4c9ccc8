"""An operation from a user tells which rule it breaks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from dtme_search.guards import Guard
from dtme_search.models.operations.base import LayerOperation, OperationKind, Site
from dtme_search.models.operations.lora import sizes_of_linears
from dtme_search.models.seeding import seeded
from dtme_search.operations import Linears


def guarded_operation(kind: OperationKind, part: str) -> OperationKind:
    """The same kind; it and its modules tell which rule they break."""
    guard = Guard(part)
    is_class = isinstance(kind.kind, type) and issubclass(kind.kind, LayerOperation)
    guard.hold(is_class, "kind", f"be a class derived from LayerOperation, got {kind.kind!r}")

    def num_parameters(embed_dim: int, linears: Linears, options: Any) -> int:
        with guard.calling("num_parameters"):
            count = kind.num_parameters(embed_dim, linears, options)
        guard.hold(isinstance(count, int) and count >= 0, "num_parameters", f"give a number, got {count!r}")
        return count

    def misfit(linears: Linears, options: Any) -> str:
        with guard.calling("misfit"):
            reason = kind.misfit(linears, options)
        guard.hold(isinstance(reason, str), "misfit", f"give a sentence or nothing, got {reason!r}")
        return reason

    def build(site: Site) -> LayerOperation:
        linears = sizes_of_linears(site.block)
        # Whatever it draws follows the seed of the run and the layer.
        with guard.calling("build"), seeded(site.seed, f"operation/{site.layer}"):
            made = kind.build(site)
        guard.hold(
            isinstance(made, kind.kind), "build", f"give a {kind.kind.__name__}, got {type(made).__name__}"
        )
        expected = site.num_groups * num_parameters(site.embed_dim, linears, site.options)
        found = sum(parameter.numel() for parameter in made.parameters())
        rule = f"count the parameters of one group: {site.num_groups} have {found}, got {expected} for them"
        guard.hold(found == expected, "num_parameters", rule)
        return GuardedOperation(made, guard)

    return replace(kind, build=build, num_parameters=num_parameters, misfit=misfit)


class GuardedOperation(LayerOperation):
    """A module from a user, and its rules.

    Args:
        operation: The module.
        guard: Names it.
    """

    def __init__(self, operation: LayerOperation, guard: Guard) -> None:
        super().__init__()
        self.operation, self._guard = operation, guard
        self.in_block, self.folds, self.lengthens = operation.in_block, operation.folds, operation.lengthens
        rule = "be true as well where lengthens is: tokens are added for one call of the block"
        guard.hold(self.in_block or not self.lengthens, "in_block", rule)

    def enter(self, tokens_SBLP: Tensor, groups_S: Tensor) -> Tensor:
        with self._guard.calling("enter"):
            given = self.operation.enter(tokens_SBLP, groups_S)
        shape, got = list(tokens_SBLP.shape), type(given).__name__
        if isinstance(given, Tensor):
            got = str(list(given.shape))
            longer = self.lengthens and given.dim() == 4 and given.shape[2] >= shape[2]
            shape[2] = given.shape[2] if longer else shape[2]
        rule = f"give tokens of shape {shape}{' or more tokens' if self.lengthens else ''}, got {got}"
        self._guard.hold(got == str(shape), "enter", rule)
        return given

    def leave(self) -> None:
        with self._guard.calling("leave"):
            self.operation.leave()

    def fold(self, block: nn.Module, group: int) -> None:
        with self._guard.calling("fold"):
            self.operation.fold(block, group)
