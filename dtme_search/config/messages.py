"""Pydantic's report of a wrong config as one line: place, rule, value and the nearest known name."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from dtme_search.errors import ConfigError, nearest

SectionT = TypeVar("SectionT", bound=BaseModel)

_RULES = {
    "be a whole number": ("int_type", "int_parsing", "int_from_float", "int_parsing_size"),
    "be a number": ("float_type", "float_parsing"),
    "be a finite number": ("finite_number",),
    "be true or false": ("bool_type", "bool_parsing"),
    "be text": ("string_type",),
    "be a list": ("tuple_type", "list_type"),
    "be a mapping of keys to values": ("dict_type", "mapping_type", "model_type", "model_attributes_type"),
    "be above {gt:.16g}": ("greater_than",),
    "be at least {ge:.16g}": ("greater_than_equal",),
    "be below {lt:.16g}": ("less_than",),
    "be at most {le:.16g}": ("less_than_equal",),
    "hold {max_length} values": ("too_long",),
}
_RULE_OF_TYPE = {error_type: rule for rule, error_types in _RULES.items() for error_type in error_types}


def validate(section: type[SectionT], values: Any, where: str) -> SectionT:
    """Build a frozen config section, turning pydantic's report into one line.

    Raises:
        ConfigError: ``<where>: <dotted path> must ..., got ....``
    """
    try:
        return section.model_validate(values)
    except ValidationError as error:
        # A key may contain a line break.
        sentence = " ".join(describe(error, section).splitlines())
        raise ConfigError(f"{where}: {sentence}") from error


def describe(error: ValidationError, annotation: Any, name: str = "") -> str:
    """First problem of a report as a sentence, with the number of further ones.

    Args:
        error: The report.
        annotation: What was validated: a section or any annotation.
        name: Dotted path of the validated value; empty for a whole config.
    """
    grouped: dict[str, list[ErrorDetails]] = {}
    for detail in error.errors(include_url=False):
        place, _ = _resolve(_trimmed(detail), annotation)
        grouped.setdefault(".".join(filter(None, (name, *place))), []).append(detail)
    # If one member of a union fits better than another, only its more specific complaint helps.
    places = [place for place in grouped if not any(other.startswith(f"{place}.") for other in grouped)]
    sentence = _sentence(places[0], grouped[places[0]], annotation)
    further = len(places) - 1
    return f"{sentence} ({further} more.)" if further else sentence


def unwrap(annotation: Any) -> Any:
    """Drop ``Annotated`` and the ``None`` of an optional."""
    while True:
        if typing.get_origin(annotation) is typing.Annotated:
            annotation = typing.get_args(annotation)[0]
        elif _is_union(annotation):
            members = [member for member in typing.get_args(annotation) if member is not types.NoneType]
            if len(members) != 1:
                return annotation
            annotation = members[0]
        else:
            return annotation


def _sentence(place: str, details: Sequence[ErrorDetails], annotation: Any) -> str:
    detail = details[0]
    parent = _resolve(detail["loc"][:-1], annotation)[1]
    if detail["type"] in {"extra_forbidden", "invalid_key"}:
        known = parent.model_fields if _is_section(parent) else ()
        return f"{place} is unknown.{nearest(str(detail['loc'][-1]), known)}"
    if _misses_item(detail):
        return f"{place} must hold {len(typing.get_args(parent))} values, got {_shown(detail['input'])}."
    if detail["type"] == "missing":
        return f"{place} is missing."
    if detail["type"] == "value_error":
        return _own_rule(place, str(detail["ctx"]["error"]))
    if detail["loc"] and detail["loc"][-1] == "[key]":
        return f"{place}: every key must {_rule(detail)}, got {_shown(detail['input'])}."
    rules = dict.fromkeys(_rule(each).removeprefix("be ") for each in details)
    rule = _rule(detail) if len(rules) == 1 else f"be {' or '.join(rules)}"
    return f"{place} must {rule}, got {_shown(detail['input'])}.{_hint(detail)}"


def _own_rule(place: str, rule: str) -> str:
    """Join a place with a rule of ours: ``must ...`` (of the place), ``field must ...``, or any sentence."""
    if not place:
        joint = ""
    elif rule.startswith("must "):
        joint = " "
    else:
        joint = "." if re.match(r"[\w.*]+ must ", rule) else ": "
    return f"{place}{joint}{rule}" + ("" if rule.endswith(("?", ".")) else ".")


def _rule(detail: ErrorDetails) -> str:
    if detail["type"] == "literal_error":
        expected = _expected(detail)
        return f"be {expected[0]}" if len(expected) == 1 else f"be one of {', '.join(expected)}"
    template = _RULE_OF_TYPE.get(detail["type"])
    if template is None:
        return detail["msg"].removeprefix("Input should ")
    return template.format(**detail.get("ctx", {}))


def _hint(detail: ErrorDetails) -> str:
    if detail["type"] != "literal_error":
        return ""
    hint = nearest(str(detail["input"]), _expected(detail))
    # The rule has already named them all.
    return "" if hint.startswith(" Known") else hint


def _expected(detail: ErrorDetails) -> list[str]:
    return re.findall(r"'([^']*)'", str(detail["ctx"]["expected"]))


def _shown(value: Any) -> str:
    """A value the way YAML writes it."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    text = repr(list(value) if isinstance(value, tuple) else value)
    return text if len(text) <= 60 else text[:57] + "..."


def _trimmed(detail: ErrorDetails) -> tuple[int | str, ...]:
    """Where a problem is: a bad key or a missing item belongs to its container."""
    loc = detail["loc"]
    if loc and loc[-1] == "[key]":
        return loc[:-2]
    return loc[:-1] if _misses_item(detail) else loc


def _misses_item(detail: ErrorDetails) -> bool:
    return detail["type"] == "missing" and isinstance(detail["loc"][-1], int)


def _resolve(loc: Sequence[int | str], annotation: Any) -> tuple[list[str], Any]:
    """Dotted place of a problem and the annotation there."""
    node, place = unwrap(annotation), []
    for part in loc:
        if _is_union(node):
            # Pydantic names the member it tried, for example str or dict[str,any], which is not a place.
            tried = str(part).partition("[")[0]
            members = [unwrap(member) for member in typing.get_args(node)]
            node = next(
                (each for each in members if (typing.get_origin(each) or each).__name__ == tried), None
            )
            continue
        place.append(str(part))
        if _is_section(node):
            field = node.model_fields.get(part)
            node = unwrap(field.annotation) if field else None
        else:
            # For a mapping its values, for a list its items; there is nothing below Any.
            arguments = typing.get_args(node)[typing.get_origin(node) is dict :]
            node = unwrap(arguments[0]) if arguments else None
    return place, node


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _is_union(annotation: Any) -> bool:
    return typing.get_origin(annotation) in (typing.Union, types.UnionType)
