"""The modules behind ``dtme_search.operations``; a new one is a file here and a line in the registry."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from dtme_search.config import validate
from dtme_search.errors import ConfigError
from dtme_search.models.operations.base import LayerOperation, OperationKind, Site
from dtme_search.models.operations.expansion import TokenExpansion, build_expansion
from dtme_search.models.operations.guarded import guarded_operation
from dtme_search.models.operations.lora import Lora, build_lora
from dtme_search.models.operations.modulation import TokenModulation, build_modulation
from dtme_search.operations import OPERATIONS, Linears, Options, in_order
from dtme_search.plugins import Family

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
    "find_operation",
    "folded",
    "groups_to_fold",
    "guarded_operation",
    "options_for",
    "sizes_of",
]


def _built_in(
    name: str, place: str, kind: type[LayerOperation], build: Callable[[Site], Any]
) -> OperationKind:
    spec = OPERATIONS[name]
    return OperationKind(kind, build, spec.num_parameters, misfit=spec.misfit, place=place)


LAYER_OPERATIONS = Family(
    "operations",
    OperationKind,
    {
        "modulate": _built_in("modulate", "modulations", TokenModulation, build_modulation),
        "expand": _built_in("expand", "expansions", TokenExpansion, build_expansion),
        "lora": _built_in("lora", "loras", Lora, build_lora),
    },
    guarded_operation,
)
"""Name of an operation -> its module, in the order of ``dtme_search.operations.OPERATIONS``."""
_PLACE = "expansion.operation_options"


def find_operation(name: str, plugins: Sequence[str] = ()) -> OperationKind:
    """An operation by its name.

    Args:
        name: As plans have it.
        plugins: Files that may provide it, ``plugins`` of the run.

    Raises:
        ConfigError: If it is unknown or cannot be loaded, or its name cannot be part of a plan.
    """
    kind = LAYER_OPERATIONS.find(name, "expansion", plugins)
    if not name.isidentifier() or name in {"auto", "none", "both", "tasks", "num_layers"}:
        raise ConfigError(
            "expansion: the name of an operation must be a word of letters, digits and _ that plans do not "
            f"use themselves, got '{name}'. Rename it."
        )
    return kind


def options_for(name: str, kind: OperationKind, given: Options) -> Any:
    """What an operation is built with: all options of a plan, or its own of a user's, checked.

    Raises:
        ConfigError: If one is unknown or has a wrong value.
    """
    if name in LAYER_OPERATIONS:
        return given
    own = {key.removeprefix(f"{name}."): value for key, value in given.items() if key.startswith(f"{name}.")}
    return validate(kind.options, own, f"{_PLACE}.{name}")


def sizes_of(
    names: Iterable[str], options: Options, embed_dim: int, linears: Linears, plugins: Sequence[str]
) -> dict[str, int]:
    """Parameters of one group in one layer, of every operation.

    Raises:
        ConfigError: As :func:`find_operation` and :func:`options_for`.
    """
    kinds = {name: find_operation(name, plugins) for name in names}
    return {
        name: kind.num_parameters(embed_dim, linears, options_for(name, kind, options))
        for name, kind in kinds.items()
    }


def groups_to_fold(
    plan: ExpansionPlan, tasks: Sequence[str], plugins: Sequence[str] = ()
) -> dict[str, dict[int, int]]:
    """What can go into the weights for inference: operation -> layer -> group that has all ``tasks``."""
    return {
        name: {
            layer: index
            for layer, groups in layers.items()
            for index, group in enumerate(groups)
            if set(tasks) <= set(group)
        }
        for name, layers in plan.groups.items()
        if layers and find_operation(name, plugins).kind.folds
    }


def folded(plan: ExpansionPlan, tasks: Sequence[str], plugins: Sequence[str] = ()) -> ExpansionPlan:
    """What is left of a plan for inference, once everything is in the weights that can be put there."""
    gone = groups_to_fold(plan, tasks, plugins)
    left = {
        name: {layer: groups for layer, groups in layers.items() if layer not in gone.get(name, ())}
        for name, layers in plan.groups.items()
    }
    return replace(plan, groups=left)


def check_operations(expansion: ExpansionConfig, linears: Linears, plugins: Sequence[str] = ()) -> None:
    """Check that operations exist and fit a backbone, whether they differ from their defaults or are needed.

    Args:
        expansion: What may be built in.
        linears: Linear maps of its blocks, ``BackboneInfo.linears``.
        plugins: Files that may provide operations, ``plugins`` of the run.

    Raises:
        ConfigError: If one is unknown, its options are wrong, or they do not fit.
    """
    for name, spec in OPERATIONS.items():
        options = {option: getattr(expansion, option) for option in spec.options}
        reason = spec.misfit(linears, options)
        if reason and (name in expansion.possible_operations or options != spec.options):
            raise ConfigError(reason)
    named = {expansion.range_operation, expansion.null_operation, *expansion.possible_operations}
    for name in in_order(named | set(expansion.operation_options)):
        if name not in OPERATIONS:
            kind = find_operation(name, plugins)
            own = validate(kind.options, expansion.operation_options.get(name, {}), f"{_PLACE}.{name}")
            if reason := kind.misfit(linears, own):
                raise ConfigError(reason)
