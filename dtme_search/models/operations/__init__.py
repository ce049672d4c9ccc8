"""The modules behind ``dtme_search.operations``; a new one is a file here and a line in the registry."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from dtme_search.models.operations.base import LayerOperation, Site
from dtme_search.models.operations.expansion import TokenExpansion, build_expansion
from dtme_search.models.operations.modulation import TokenModulation, build_modulation

__all__ = ["LAYER_OPERATIONS", "LayerOperation", "OperationKind", "Site", "TokenExpansion", "TokenModulation"]


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
    }
)
"""Name of an operation -> its module, in the order of ``dtme_search.operations.OPERATIONS``."""
