"""Plain nested values by dotted path."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def set_path(values: Mapping[str, Any], dotted: str, value: Any) -> dict[str, Any]:
    """Copy of a nested mapping with one dotted path set; numbers index into lists.

    Raises:
        IndexError: If a list is shorter than that.

    Example:
        >>> set_path({"data": {"image_size": [64, 96]}}, "data.image_size.1", 128)
        {'data': {'image_size': [64, 128]}}
    """

    def put(node: Any, parts: list[str]) -> Any:
        if not parts:
            return value
        if isinstance(node, (list, tuple)):
            items = list(node)
            items[int(parts[0])] = put(items[int(parts[0])], parts[1:])
            return items
        copy = dict(node or {})
        copy[parts[0]] = put(copy.get(parts[0]), parts[1:])
        return copy

    result: dict[str, Any] = put(values, dotted.split("."))
    return result


def value_at(values: Any, dotted: str, default: Any = None) -> Any:
    """Value at a dotted path of plain values.

    Example:
        >>> value_at({"data": {"image_size": [64, 96]}}, "data.image_size.1")
        96
    """
    for part in dotted.split("."):
        try:
            values = values[int(part)] if isinstance(values, (list, tuple)) else values[part]
        except (KeyError, IndexError, TypeError):
            return default
    return values
