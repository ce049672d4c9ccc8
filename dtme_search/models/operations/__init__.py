"""The modules behind ``dtme_search.operations``; a new one is a file here and a line in the registry."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
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

__all__ = [
    "LAYER_OPERATIONS",
    "LayerOperation",
    "Lora",
    "OperationKind",
    "Site",
    "TokenExpansion",
    "TokenModulation",
    "check_operations",
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
