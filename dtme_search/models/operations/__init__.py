"""The modules behind ``dtme_search.operations``; a new one is a file here and a line in the registry."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from dtme_search.errors import ConfigError
from dtme_search.models.operations.base import LayerOperation, Site
from dtme_search.models.operations.expansion import TokenExpansion, build_expansion
from dtme_search.models.operations.lora import Lora, build_lora
from dtme_search.models.operations.modulation import TokenModulation, build_modulation
from dtme_search.operations import OPERATIONS, Linears

if TYPE_CHECKING:
    from dtme_search.config import ExpansionConfig
    from dtme_search.token_space import ExpansionPlan

__all__ = [
    "LAYER_OPERATIONS",
    "LayerOperation",
    "Lora",
    "OperationKind",
    "Site",
    "TokenExpansion",
    "TokenModulation",
    "check_operations",
    "folded",
    "groups_to_fold",
]


@dataclass(frozen=True)
class OperationKind:
    """Entry of the registry.

    Attributes:
        place: Name of the part of the model that holds the modules by layer; part of every checkpoint.
        kind: Their class.
        build: Makes the module of a layer.
    """

    place: str
    kind: type[LayerOperation]
    build: Callable[[Site], LayerOperation]


LAYER_OPERATIONS: Mapping[str, OperationKind] = MappingProxyType(
    {
        "modulate": OperationKind("modulations", TokenModulation, build_modulation),
        "expand": OperationKind("expansions", TokenExpansion, build_expansion),
        "lora": OperationKind("loras", Lora, build_lora),
    }
)
"""Name of an operation -> its module, in the order of ``dtme_search.operations.OPERATIONS``."""


def groups_to_fold(plan: ExpansionPlan, tasks: Sequence[str]) -> dict[str, dict[int, int]]:
    """What can go into the weights for inference: operation -> layer -> group that has all ``tasks``."""
    return {
        name: {
            layer: index
            for layer, groups in layers.items()
            for index, group in enumerate(groups)
            if set(tasks) <= set(group)
        }
        for name, layers in plan.groups.items()
        if LAYER_OPERATIONS[name].kind.folds
    }


def folded(plan: ExpansionPlan, tasks: Sequence[str]) -> ExpansionPlan:
    """What is left of a plan for inference, once everything is in the weights that can be put there."""
    gone = groups_to_fold(plan, tasks)
    left = {
        name: {layer: groups for layer, groups in layers.items() if layer not in gone.get(name, ())}
        for name, layers in plan.groups.items()
    }
    return replace(plan, groups=left)


def check_operations(expansion: ExpansionConfig, linears: Linears) -> None:
    """Check that options of operations fit a backbone, whether they differ from their defaults or are needed.

    Args:
        expansion: What may be built in.
        linears: Linear maps of its blocks, ``BackboneInfo.linears``.

    Raises:
        ConfigError: If they do not.
    """
    for name, spec in OPERATIONS.items():
        options = {option: getattr(expansion, option) for option in spec.options}
        reason = spec.misfit(linears, options)
        if reason and (name in expansion.possible_operations or options != spec.options):
            raise ConfigError(reason)
