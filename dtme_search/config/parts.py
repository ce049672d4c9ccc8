"""Parts that a config names, built in or a user's own, and the options that it gives them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from dtme_search.config.combine import KINDS
from dtme_search.config.messages import validate
from dtme_search.config.run import RunConfig
from dtme_search.config.schedule import SCHEDULES
from dtme_search.config.section import Section
from dtme_search.config.study import SAMPLERS, StudyConfig
from dtme_search.operations import OPERATIONS, operations_of
from dtme_search.plugins import Family, PartT, one_brought

_BUILT_IN = {"schedules": SCHEDULES, "combine": KINDS, "operations": (*OPERATIONS, "both", "none", "auto")}
"""Names of parts that a config knows without importing them."""
_FAMILY_AT = {
    "schedule.kind": "schedules",
    "train.combine.kind": "combine",
    "expansion.range_operation": "operations",
    "expansion.null_operation": "operations",
    "expansion.layers": "operations",
}
"""Field -> family of the parts that it names."""


class Named(NamedTuple):
    """A part that a config names: its family, its name and the field."""

    family: str
    name: str
    place: str


def named_parts(config: RunConfig) -> Iterator[Named]:
    """Every part that a config names, data sets excepted."""
    yield Named("backbones", config.model.backbone, "model.backbone")
    yield Named("decoders", config.model.decoder, "model.decoder")
    yield Named("schedules", config.schedule.kind, "schedule.kind")
    yield Named("combine", config.train.combine.kind, "train.combine.kind")
    expansion = config.expansion
    for field in ("range_operation", "null_operation"):
        yield Named("operations", getattr(expansion, field), f"expansion.{field}")
    for layer, choice in enumerate(expansion.layers):
        for name in operations_of(choice):
            yield Named("operations", name, f"expansion.layers.{layer}")
    for name in expansion.plan.other:
        yield Named("operations", name, "expansion.plan.other")
    for name, task in config.tasks.items():
        if task.loss is not None:
            yield Named("losses", task.loss, f"tasks.{name}.loss")
        if task.metric is not None:
            yield Named("metrics", task.metric, f"tasks.{name}.metric")


def check_names(config: RunConfig, where: str) -> None:
    """Check the names of parts that nobody can offer, as far as that can be known without importing anything.

    Raises:
        ConfigError: If a part is neither built in nor offered by an installed package, and no file could.
    """
    for family, name, place in named_parts(config):
        if family in _BUILT_IN and not config.plugins:
            one_brought(family, name, f"{where}: {place}", (), built_in=_BUILT_IN[family])


def check_choice(choice: Any, dotted: str, where: str, files: Sequence[str]) -> None:
    """The same for a choice of a searched field.

    Raises:
        ConfigError: As :func:`check_names`.
    """
    family = next((family for field, family in _FAMILY_AT.items() if dotted.startswith(field)), None)
    if family is None or files:
        return
    for name in operations_of(choice) if family == "operations" else (choice,):
        one_brought(family, name, where, (), built_in=_BUILT_IN[family])


def check_sampler_name(study: StudyConfig, where: str) -> None:
    """The same for the sampler of a study.

    Raises:
        ConfigError: As :func:`check_names`.
    """
    if not study.plugins:
        one_brought("samplers", study.sampler.name, f"{where}: sampler.name", (), built_in=SAMPLERS)


def find_part(
    family: Family[PartT],
    chosen: tuple[str, str],
    given: tuple[str, Mapping[str, Mapping[str, Any]]],
    files: Sequence[str],
) -> tuple[PartT, Section]:
    """A part and its checked options; options given for other parts are checked as well.

    Args:
        family: Where the parts are found. They have ``options``, a section.
        chosen: The field that names the part, and its value.
        given: The field that holds options, and its value: name of a part -> options.
        files: ``plugins`` of the config.

    Raises:
        ConfigError: If a part is unknown or cannot be loaded, or an option is unknown or has a wrong value.
    """
    (field, name), (place, by_name) = chosen, given
    part: Any = family.find(name, field, files)
    checked: dict[str, Section] = {}
    for other, options in {name: {}, **by_name}.items():
        found: Any = part if other == name else family.find(other, place, files)
        checked[other] = validate(found.options, options, f"{place}.{other}")
    return part, checked[name]
