"""Dotted config paths such as ``expansion.layers.*``: what they refer to, checking and setting it."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from dtme_search.config.messages import describe, unwrap
from dtme_search.config.run import RunConfig
from dtme_search.errors import ConfigError, nearest


def check_path(dotted: str, where: str, base: RunConfig | None) -> None:
    """Check that a dotted path (``*`` allowed for a list index) names a field of ``RunConfig``.

    Args:
        dotted: The path.
        where: File and place, or the option, for messages.
        base: If given, task names must be those of this config.

    Raises:
        ConfigError: Names the unknown part and its nearest known neighbour.
    """
    field_type(dotted, where, base)


def field_type(dotted: str, where: str, base: RunConfig | None = None) -> Any:
    """Annotation of the field that a dotted path names, including its limits.

    Raises:
        ConfigError: As for ``check_path``.
    """
    node: Any = RunConfig
    parts = dotted.split(".")
    for index, part in enumerate(parts):
        above = ".".join(parts[:index])
        known_tasks = base.tasks if base is not None and above == "tasks" else None
        node = _below(unwrap(node), part, above, where, known_tasks)
    return node


def check_value(value: Any, dotted: str, where: str, base: RunConfig | None = None) -> None:
    """Check that the field at ``dotted`` may hold ``value``; ignores rules across fields.

    Raises:
        ConfigError: ``<where> must ..., got ....``, or as for ``check_path``.
    """
    annotation = field_type(dotted, where, base)
    kind = unwrap(annotation)
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        raise ConfigError(f"{where}: {dotted} is a section, not a field.{nearest('', kind.model_fields)}")
    adapter = TypeAdapter(annotation, config=ConfigDict(allow_inf_nan=False))
    try:
        adapter.validate_python(value)
    except ValidationError as error:
        raise ConfigError(describe(error, annotation, where)) from error


def is_whole_number(dotted: str) -> bool | None:
    """Whether the field holds whole numbers (``True``), any numbers (``False``) or neither (``None``)."""
    try:
        kind = unwrap(field_type(dotted, ""))
    except ConfigError:
        return None
    return {int: True, float: False}.get(kind)


def _below(node: Any, part: str, above: str, where: str, known_tasks: Mapping[str, Any] | None) -> Any:
    """Annotation of ``part`` within ``node``, which is at the path ``above``."""
    if isinstance(node, type) and issubclass(node, BaseModel):
        if part not in node.model_fields:
            raise ConfigError(f"{where}: '{part}' is unknown.{nearest(part, node.model_fields)}")
        return typing.get_type_hints(node, include_extras=True)[part]
    arguments = typing.get_args(node)
    if typing.get_origin(node) is dict:
        if known_tasks is not None and part not in known_tasks:
            raise ConfigError(f"{where}: '{part}' is not a task of the config.{nearest(part, known_tasks)}")
        if unwrap(arguments[0]) is int and not part.isdigit():
            raise ConfigError(f"{where}: {above} has whole numbers as keys, got '{part}'.")
        return arguments[1]
    if typing.get_origin(node) is tuple:
        length = None if arguments[-1] is Ellipsis else len(arguments)
        if part != "*" and not part.isdigit():
            raise ConfigError(
                f"{where}: {above} is a list: follow it with an index from 0 or with *, got '{part}'."
            )
        if length is not None and part != "*" and int(part) >= length:
            raise ConfigError(f"{where}: {above} has the indices 0 to {length - 1}, got '{part}'.")
        return arguments[0]
    raise ConfigError(f"{where}: {above} is a single value with nothing below it, got '{part}'.")
